from __future__ import annotations

import pytest

from ollama_cache_proxy.policy.trace import trace_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("value", "valid"),
    [
        pytest.param(f"00-{TRACE}-{PARENT}-01", True, id="sampled"),
        pytest.param(f"00-{TRACE}-{PARENT}-00", True, id="not-sampled"),
        pytest.param(f"cc-{TRACE}-{PARENT}-01", True, id="later-version"),
        pytest.param(f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", True, id="later-version-with-more"),
        pytest.param(f"00-{TRACE}-{PARENT}-01-more", False, id="more-than-the-version-has"),
        pytest.param(f"cc-{TRACE}-{PARENT}-01.more", False, id="more-without-a-dash"),
        pytest.param(f"ff-{TRACE}-{PARENT}-01", False, id="forbidden-version"),
        pytest.param(f"00-{'0' * 32}-{PARENT}-01", False, id="trace-of-zeros"),
        pytest.param(f"00-{TRACE}-{'0' * 16}-01", False, id="parent-of-zeros"),
        pytest.param(f"00-{TRACE.upper()}-{PARENT}-01", False, id="upper-case"),
        pytest.param(f"00-{TRACE[1:]}-{PARENT}-01", False, id="too-short"),
        pytest.param(f"00-{TRACE}-{PARENT}", False, id="no-flags"),
        pytest.param(f"00-{TRACE}-{PARENT}-0g", False, id="flags-that-are-none"),
        pytest.param(f"00-{TRACE[:-1]}\n-{PARENT}-01", False, id="line-end"),
        pytest.param(f"00-{TRACE}-{PARENT}-01\n", False, id="line-end-behind"),
        pytest.param("", False, id="empty"),
    ],
)
def test_a_trace_is_known_by_a_valid_field(value: str, valid: bool) -> None:
    assert trace_id(((b"TraceParent", value.encode()),)) == (TRACE if valid else "")


def test_no_field_and_more_than_one_name_no_trace() -> None:
    line = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
    assert trace_id(((b"tracestate", line[1]),)) == ""
    assert trace_id((line, line)) == ""
