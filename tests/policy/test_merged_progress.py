from __future__ import annotations

import json
from typing import Any

from ollama_cache_proxy.policy.merged_progress import MergedProgress

SUCCESS = {"status": "success"}


def line(**told: Any) -> bytes:
    return json.dumps(told).encode()


def layer(completed: int) -> bytes:
    return line(status="pulling", digest="sha256:1", total=100, completed=completed)


def shown(found: bytes | None) -> Any:
    return None if found is None else json.loads(found)


def test_a_status_is_said_once_and_success_at_the_end() -> None:
    progress = MergedProgress(["a", "b"])
    assert shown(progress.add("a", line(status="pulling manifest"))) == {"status": "pulling manifest"}
    assert progress.add("b", line(status="pulling manifest")) is None
    for host in ("a", "b"):
        assert progress.add(host, line(**SUCCESS)) is None
        progress.ended(host)
    assert shown(progress.last()) == SUCCESS


def test_a_layer_is_as_far_as_the_host_that_has_least_of_it() -> None:
    progress = MergedProgress(["a", "b"])
    assert shown(progress.add("a", layer(80)))["completed"] == 80
    assert shown(progress.add("b", layer(10)))["completed"] == 10
    assert shown(progress.add("a", layer(100)))["completed"] == 10
    progress.add("b", line(**SUCCESS))
    progress.ended("b")
    assert shown(progress.add("a", layer(90))) == json.loads(layer(90)), "what has ended holds up nobody"
    assert shown(progress.add("a", line(status="pulling", digest="sha256:2", total=5)))["completed"] == 0


def test_what_failed_is_said_at_the_end_with_its_host() -> None:
    progress = MergedProgress(["a", "b", "c"])
    progress.add("a", line(**SUCCESS))
    progress.ended("a")
    assert progress.add("b", line(error="no space left")) is None
    progress.ended("b")
    progress.ended("c")
    assert shown(progress.last()) == {"error": "b: no space left; c: the response ended before it was done"}


def test_a_host_that_gave_no_response_has_failed() -> None:
    progress = MergedProgress(["a"])
    progress.fail("b", "cannot be reached")
    progress.add("a", line(**SUCCESS))
    progress.ended("a")
    assert shown(progress.last()) == {"error": "b: cannot be reached"}


def test_a_line_that_is_no_progress_is_an_error() -> None:
    for wrong in (b"x", b"[]"):
        progress = MergedProgress(["a"])
        assert progress.add("a", wrong) is None
        progress.ended("a")
        assert shown(progress.last()) == {"error": "a: a line that is no progress"}
