from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.messages import Description
from ollama_cache_proxy.policy.purge import NAMES, Filter, Purges, read
from ollama_cache_proxy.policy.reuse import read_directives

FULL = "registry.ollama.ai/library/tiny:latest"
ENTRY = {"key": "k1", "model": FULL, "operation": "generate", "category": "batch", "namespace": "team"}
ANOTHER = {"key": "k2", "model": FULL + "2", "operation": "embed", "category": "", "namespace": ""}


def described(**changes: str) -> Description:
    return Description(
        size=1,
        status=200,
        stored_at=0.0,
        lifetime=1,
        took=0.0,
        prompt_tokens=None,
        output_tokens=None,
        streamed=False,
        fingerprints={},
        **(ENTRY | changes),
    )


def matches(purge: Filter, **changes: str) -> bool:
    """Whether it matches an entry, which must hold for the keys of a response that is not stored yet."""
    about = ENTRY | changes
    key = about.pop("key")
    verdict = purge.matches(described(**changes))
    assert purge.matches_any(("x", key), **about) is verdict
    return verdict


def test_what_can_be_asked_for():
    assert NAMES == ("model", "operation", "category", "namespace", "key")


def test_an_empty_filter_matches_everything():
    assert matches(Filter())
    assert matches(Filter(), **ANOTHER)
    assert Filter().matches_any((), "", "", "", "")


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_matches_entries_of_its_value_and_no_others(name):
    purge = Filter(**{name: ENTRY[name]})
    assert matches(purge)
    assert matches(purge, **(ANOTHER | {name: ENTRY[name]}))
    assert not matches(purge, **{name: ANOTHER[name]})


@pytest.mark.parametrize("name", NAMES)
def test_of_several_filters_every_one_counts(name):
    assert matches(Filter(**ENTRY))
    assert not matches(Filter(**ENTRY), **{name: ANOTHER[name]})


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_text_is_a_value_like_any_other(name):
    assert matches(Filter(**{name: ""}), **{name: ""})
    assert not matches(Filter(**{name: ""}))


@pytest.mark.parametrize(
    ("wanted", "operation", "meant"),
    [
        pytest.param("embed", "v1-embeddings", True, id="embed: an item that came by the other route"),
        pytest.param("v1-embeddings", "embed", True, id="v1-embeddings: likewise"),
        pytest.param("embed", "embed", True, id="embed: its own"),
        pytest.param("v1-embeddings", "v1-embeddings", True, id="v1-embeddings: its own"),
        pytest.param("embed", "embeddings", False, id="embed: not of a route whose vectors are others"),
        pytest.param("embeddings", "embed", False, id="embeddings: no item"),
        pytest.param("embeddings", "v1-embeddings", False, id="embeddings: nor one of the other route"),
        pytest.param("chat", "v1-chat", False, id="chat: nothing of the other route"),
        pytest.param("v1-chat", "chat", False, id="v1-chat: nor the other way round"),
    ],
)
def test_an_item_belongs_to_both_its_routes(wanted, operation, meant):
    assert matches(Filter(operation=wanted), operation=operation) is meant


@pytest.mark.parametrize(
    ("keys", "meant"),
    [
        pytest.param(("k1",), True, id="the one"),
        pytest.param(("k0", "k1", "k2"), True, id="one of several"),
        pytest.param(("k0", "k2"), False, id="none of several"),
        pytest.param((), False, id="none at all"),
        pytest.param(("k11",), False, id="a longer one"),
        pytest.param((key for key in ("k0", "k1")), True, id="any iterable"),
    ],
)
def test_a_response_matches_by_any_of_its_keys(keys, meant):
    assert Filter(key="k1").matches_any(keys, FULL, "embed", "", "") is meant


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param({}, Filter(), id="nothing"),
        pytest.param({"operation": "chat"}, Filter(operation="chat"), id="one"),
        pytest.param(
            {"key": "", "category": "", "namespace": ""}, Filter(key="", category="", namespace=""), id="none"
        ),
        pytest.param(ENTRY, Filter(**ENTRY), id="all"),
        pytest.param({"category": "x" * 512}, Filter(category="x" * 512), id="a text as long as may be"),
        *(
            pytest.param({"model": spelling}, Filter(model=FULL), id=f"the model as {spelling}")
            for spelling in ("tiny", "TINY", "tiny:latest", "library/tiny", FULL, FULL.upper())
        ),
        pytest.param(
            {"model": "me/Tiny:Q4"}, Filter(model="registry.ollama.ai/me/tiny:q4"), id="the model of another namespace"
        ),
    ],
)
def test_a_filter_is_read(document, expected):
    assert read(document) == expected


A_TEXT, AN_OBJECT, A_MODEL = (
    "every filter must be a string",
    "filters are any of model, operation, category, namespace, key, as a JSON object or in the query",
    "model is not a valid model name",
)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        *(pytest.param(document, AN_OBJECT, id=repr(document)) for document in ([], ["model"], "model", 1, True, None)),
        pytest.param({"modell": "tiny"}, AN_OBJECT, id="a name that is none"),
        pytest.param({"model": "tiny", "size": "1"}, AN_OBJECT, id="one of two"),
        pytest.param({"MODEL": "tiny"}, AN_OBJECT, id="in another case"),
        *(pytest.param({name: None}, A_TEXT, id=f"{name} is null") for name in NAMES),
        pytest.param({"category": "x" * 513}, "no filter is longer than 512 characters", id="a long text"),
        *(pytest.param({"key": value}, A_TEXT, id=f"key is {value!r}") for value in (1, True, [], ["k"], {})),
        pytest.param({"key": "k", "category": 1}, A_TEXT, id="the second of two"),
        *(
            pytest.param({"model": value}, A_MODEL, id=f"model is {value!r}")
            for value in ("", " ", "no such name", "a/b/c/d:e", "tiny:", "tiny:local", "tîny")
        ),
    ],
)
def test_an_invalid_filter_is_refused_with_one_line(document, message):
    with pytest.raises(ValueError) as caught:
        read(document)
    assert str(caught.value) == message


def test_an_object_is_not_changed_by_being_read():
    document = {"model": "tiny"}
    read(document)
    assert document == {"model": "tiny"}


def named(*keys: str) -> tuple[Filter, ...]:
    return tuple(Filter(key=key) for key in keys)


def test_the_purges_since_are_those_that_began_later_in_order():
    purges = Purges()
    assert (purges.count, purges.since(0)) == (0, ())
    for purge in named("a", "b", "c"):
        purges.add(purge)
    assert purges.count == 3
    assert [purges.since(count) for count in range(4)] == [named("a", "b", "c"), named("b", "c"), named("c"), ()]


def test_after_too_many_purges_everything_matches():
    purges = Purges()
    for number in range(1002):
        purges.add(Filter(key=str(number)))
    assert purges.count == 1002
    assert purges.since(1) == (Filter(),)
    assert purges.since(0) == (Filter(),)
    assert purges.since(2) == named(*map(str, range(2, 1002)))
    assert purges.since(1001) == named("1001")
    assert purges.since(1002) == ()


@pytest.mark.parametrize("length", [128, 129, 5000])
def test_a_namespace_matches_however_long_it_is(length):
    wishes = read_directives(((b"X-Cache-Namespace", b"n" * length),), max_ttl=1)
    purge = read({"namespace": "n" * length})
    assert purge.matches_any(("k",), "m", "generate", "", wishes.namespace)
    assert not purge.matches_any(("k",), "m", "generate", "", "n")
