from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.model_names import canonical, is_remote, short

TINY = "registry.ollama.ai/library/tiny:latest"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("tiny", TINY, id="plain"),
        pytest.param("tiny:latest", TINY, id="latest"),
        pytest.param("TINY", TINY, id="upper case"),
        pytest.param("Tiny:LATEST", TINY, id="tag in upper case"),
        pytest.param("library/tiny", TINY, id="with the namespace"),
        pytest.param("registry.ollama.ai/library/tiny:latest", TINY, id="full"),
        pytest.param("Registry.Ollama.AI/Library/Tiny", TINY, id="full, other case"),
        pytest.param("tiny:7b-q4_K_M", "registry.ollama.ai/library/tiny:7b-q4_k_m", id="tag"),
        pytest.param("me/tiny", "registry.ollama.ai/me/tiny:latest", id="namespace"),
        pytest.param("host:5000/me/tiny:1", "host:5000/me/tiny:1", id="host with a port"),
        pytest.param("hf.co/me/Tiny-GGUF:Q8_0", "hf.co/me/tiny-gguf:q8_0", id="another registry"),
        pytest.param("_a", "registry.ollama.ai/library/_a:latest", id="begins with an underscore"),
        pytest.param("1.5b", "registry.ollama.ai/library/1.5b:latest", id="begins with a digit"),
        pytest.param("a" * 80, f"registry.ollama.ai/library/{'a' * 80}:latest", id="80 letters"),
        pytest.param(f"a:{'b' * 80}", f"registry.ollama.ai/library/a:{'b' * 80}", id="tag of 80 letters"),
        pytest.param(f"{'h' * 350}/n/m", f"{'h' * 350}/n/m:latest", id="host of 350 letters"),
    ],
)
def test_a_name_resolves_as_in_ollama(name, expected):
    assert canonical(name) == expected
    assert canonical(expected) == expected


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param(" tiny", id="space before"),
        pytest.param("tiny ", id="space after"),
        pytest.param("tiny\n", id="line feed after"),
        pytest.param("ti ny", id="space within"),
        pytest.param("tiny:", id="promised tag"),
        pytest.param(":latest", id="promised model"),
        pytest.param("/tiny", id="promised namespace"),
        pytest.param("tiny/", id="nothing after the slash"),
        pytest.param("a//tiny", id="empty namespace"),
        pytest.param("a/b/c/tiny", id="too many parts"),
        pytest.param("a:b/tiny", id="namespace with a colon"),
        pytest.param("a:b:c", id="two tags"),
        pytest.param("n.s/tiny", id="namespace with a dot"),
        pytest.param("-tiny", id="begins with a hyphen"),
        pytest.param(".tiny", id="begins with a dot"),
        pytest.param("tiny:-1", id="tag begins with a hyphen"),
        pytest.param("tiny@sha256:0", id="digest"),
        pytest.param("http://host/n/tiny", id="scheme"),
        pytest.param("..", id="dots"),
        pytest.param("a\\b", id="backslash"),
        pytest.param("a\0", id="NUL"),
        pytest.param("tinÿ", id="not ASCII"),
        pytest.param("\u017ftiny", id="long s"),
        pytest.param("tiny:\u212a", id="Kelvin sign"),
        pytest.param("١", id="a digit that is not ASCII"),
        pytest.param("a" * 81, id="81 letters"),
        pytest.param(f"a:{'b' * 81}", id="tag of 81 letters"),
        pytest.param(f"{'n' * 81}/m", id="namespace of 81 letters"),
        pytest.param(f"{'h' * 351}/n/m", id="host of 351 letters"),
    ],
)
def test_a_spelling_that_is_not_understood_resolves_to_nothing(name):
    assert canonical(name) is None


@pytest.mark.parametrize("name", ["tiny:local", "tiny:LOCAL", "me/tiny:local", "h/me/tiny:Local"])
def test_the_tag_local_is_no_tag_to_ollama_and_resolves_to_nothing(name):
    """Ollama takes `:local` off and answers with what is left, even where a model of that very tag exists."""
    assert canonical(name) is None


@pytest.mark.parametrize(
    ("name", "remote"),
    [
        ("gpt:cloud", True),
        ("gpt:20b-cloud", True),
        ("gpt:20b:cloud", True),
        ("GPT:Cloud", True),
        ("gpt:20B-CLOUD", True),
        ("gpt-cloud", True),
        ("cloud", False),
        ("gpt", False),
        ("cloud:latest", False),
        ("gpt-cloud:latest", False),
        ("gpt:cloudy", False),
        ("gpt:20bcloud", False),
        ("", False),
    ],
)
def test_a_name_that_ends_in_cloud_is_answered_elsewhere(name, remote):
    assert is_remote(name) is remote


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("tiny", "tiny:latest", id="plain"),
        pytest.param("TINY:7B", "tiny:7b", id="with a tag"),
        pytest.param(TINY, "tiny:latest", id="full"),
        pytest.param("library/tiny", "tiny:latest", id="with the namespace"),
        pytest.param("me/tiny", "me/tiny:latest", id="of another namespace"),
        pytest.param("hf.co/library/tiny", "hf.co/library/tiny:latest", id="of another registry"),
        pytest.param("no such name", "no such name", id="not understood"),
        pytest.param("", "", id="none"),
    ],
)
def test_a_short_name_is_as_ollama_lists_it(name, expected):
    assert short(name) == expected
