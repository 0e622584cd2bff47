from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_cache_proxy.policy.silent_options import (
    LOOKED_UP,
    OPTIONS,
    OptionType,
    is_looked_up,
    without_silent,
    wrong_type,
)

OLD, NEW, NEWEST, OTHER = "0.24.0", "0.33.0", "0.34.4", "0.35.0"
NAMES = {option.name for option in OPTIONS}
LANGCHAIN: dict[str, None] = dict.fromkeys(
    (
        *("mirostat", "mirostat_eta", "mirostat_tau", "num_ctx", "num_gpu", "num_thread", "repeat_last_n"),
        *("repeat_penalty", "temperature", "stop", "tfs_z", "top_k", "top_p"),
    )
)
"""What LangChain's OllamaEmbeddings sends where nothing is set."""


def told(options: object, version: str, *, embedding: bool = False) -> object:
    """The options that are left; "nothing" where the member itself is left out."""
    body = without_silent({"a": 1, "options": options, "z": 2}, "options", version, embedding=embedding)
    assert {name: body[name] for name in body if name != "options"} == {"a": 1, "z": 2}
    return body.get("options", "nothing")


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.17.7", False),
        ("0.18.0", True),
        ("0.24.0", True),
        ("0.24.0-rc1", True),
        ("0.25.0-rc0", True),
        ("0.25.0", False),
        ("0.29.0", False),
        ("0.30.0-rc31", False),
        ("0.30.0", True),
        ("0.32.15-rc2", True),
        ("0.33.0-rc0", True),
        ("0.33.0-rc2", True),
        ("0.33.0", True),
        ("0.34.0", True),
        ("0.34.1-rc0", False),
        ("0.34.1", True),
        ("0.34.4", True),
        ("0.34.5", False),
        ("0.35.0-rc0", False),
        ("1.0.0", False),
        ("0.0.0", False),
        ("", False),
        ("0.24", False),
        ("0.24.0 ", False),
        ("v0.24.0", False),
        ("0.24.0-dirty", False),
        ("0.24.0+rocm", False),
        ("0.24.0-rc1-2-gabc", False),
        ("0.٢٤.0", False),
        ("0.24.99999", False),
    ],
)
def test_only_versions_between_those_that_were_looked_up_count(version, expected):
    assert is_looked_up(version) is expected


def test_every_row_says_where_it_was_read_and_for_which_versions():
    assert len(NAMES) == len(OPTIONS) == 20
    for option in OPTIONS:
        assert option.source
        assert set(option.null) <= set(LOOKED_UP)
        assert set(option.vectors) <= set(option.null), "what changes no vector says nothing as null either"


def test_the_options_are_those_of_ollama_with_their_types():
    """`api.Options` of 0.24 and 0.34, with `Runner` in it."""
    numbers = (
        "seed",
        "num_predict",
        "num_keep",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repeat_last_n",
        "temperature",
    )
    numbers += ("repeat_penalty", "presence_penalty", "frequency_penalty", "draft_num_predict")
    numbers += ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread")
    expected = dict.fromkeys(numbers, OptionType.NUMBER)
    expected |= {"stop": OptionType.TEXTS, "use_mmap": OptionType.BOOLEAN}
    assert {option.name: option.type for option in OPTIONS} == expected


@pytest.mark.parametrize("embedding", [False, True])
@pytest.mark.parametrize(
    "options", [None, {}, LANGCHAIN, {"temperature": None}, {"no such option": None}], ids=range(5)
)
def test_null_and_empty_options_say_nothing(options, embedding):
    for version in (OLD, NEW, NEWEST):
        assert told(options, version, embedding=embedding) == "nothing"
    assert told(options, OTHER, embedding=embedding) == options


@pytest.mark.parametrize("options", [[], "", 0, False, "x", [None], 1.5])
@pytest.mark.parametrize("version", [OLD, NEW, OTHER])
def test_options_that_ollama_refuses_stay_as_they_are(options, version):
    assert told(options, version, embedding=True) == options


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_null_is_left_out_where_it_says_nothing(name):
    assert told({name: None}, OLD) == "nothing"
    says = name in ("num_batch", "draft_num_predict")
    for version, embedding in itertools.product((NEW, NEWEST), (False, True)):
        assert told({name: None}, version, embedding=embedding) == ({name: None} if says else "nothing")
        assert told({name: None, "x": 1}, version, embedding=embedding) == ({name: None} if says else {}) | {"x": 1}


RUNNER = {"num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_sampling_changes_no_vector_and_all_that_loads_a_model_may(name):
    for value in (0, 1, 0.5, True, ["a"]):
        kept = {name: value}
        assert told(kept, OLD, embedding=True) == (kept if name in RUNNER else "nothing")
        assert told(kept, NEW, embedding=True) == (kept if name in RUNNER | {"num_keep"} else "nothing")
        refused = {"num_keep", "typical_p"}  # the latter is an error of Ollama's
        assert told(kept, NEWEST, embedding=True) == (kept if name in RUNNER | refused else "nothing")
        for version in (OLD, NEW, NEWEST, OTHER):
            assert told(kept, version) == kept, "a completion may depend on each"
        assert told(kept, OTHER, embedding=True) == kept


@pytest.mark.parametrize("name", ["Temperature", "mirostat", "low_vram", "tfs_z", "", "temperature "])
def test_an_unknown_name_with_a_value_stays(name):
    for version in (OLD, NEW, OTHER):
        assert told({name: 0}, version, embedding=True) == {name: 0}


def test_names_are_sorted_for_every_version():
    for version in (OLD, NEW, OTHER):
        left = told({"z": 1, "num_ctx": 2, "a": {"y": 1, "x": 2}}, version)
        assert str(left) == "{'a': {'y': 1, 'x': 2}, 'num_ctx': 2, 'z': 1}"


VALUES = {
    OptionType.NUMBER: ([0, 1, -1, 0.5, 1e300], [True, False, "0", "", [], {}, ["a"]]),
    OptionType.TEXTS: ([[], ["a"], ["", "b"]], ["a", 0, True, {}, [1], ["a", None], [["a"]]]),
}


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.vectors], ids=lambda option: option.name)
def test_a_value_of_a_type_that_ollama_refuses_is_recognised(option):
    right, wrong = VALUES[option.type]
    assert not any(wrong_type({option.name: value}) for value in (*right, None))
    assert all(wrong_type({"seed": 1, option.name: value}) for value in wrong)


@pytest.mark.parametrize("options", [None, [], "x", {}, {"num_ctx": "x"}, {"Seed": "x"}, {"mirostat": []}])
def test_what_is_never_left_out_may_have_any_type(options):
    """It is in the key, so Ollama is asked, and an error is never stored."""
    assert not wrong_type(options)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, "", "a"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
    max_leaves=4,
)
SOME = st.dictionaries(st.sampled_from(sorted(NAMES | {"mirostat", "x"})), JSON, max_size=5)


@given(SOME, st.sampled_from([OLD, NEW, NEWEST, OTHER]), st.booleans())
def test_what_is_left_is_part_of_what_was_given_and_stable(options, version, embedding):
    left = told(options, version, embedding=embedding)
    kept = {} if left == "nothing" else left
    assert isinstance(kept, dict)
    assert all(options[name] == value for name, value in kept.items())
    assert told(kept, version, embedding=embedding) == (left if kept else ("nothing" if is_looked_up(version) else {}))
    dropped = options.keys() - kept.keys()
    assert all(options[name] is None or (embedding and name in NAMES) for name in dropped)
    assert not dropped or is_looked_up(version)
