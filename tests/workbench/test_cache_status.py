from __future__ import annotations

import pytest

from ollama_cache_proxy.workbench.cache_status import own_member

OWN = "ollama-cache-proxy; hit; ttl=5"
TEAM = "ollama-cache-proxy; fwd=miss; stored; ttl=9"


@pytest.mark.parametrize(
    ("lines", "member"),
    [
        pytest.param([], "", id="no field"),
        pytest.param([""], "", id="an empty one"),
        pytest.param(["other; hit"], "", id="another cache alone"),
        pytest.param([OWN], OWN, id="ours alone"),
        pytest.param([TEAM, OWN], OWN, id="two lines"),
        pytest.param([f"{TEAM}, {OWN}"], OWN, id="one line"),
        pytest.param([f"{TEAM} ,{OWN},"], OWN, id="other blanks, and an empty member"),
        pytest.param([OWN, "cdn; fwd=miss"], OWN, id="a cache of others behind"),
        pytest.param(['other; key="a, ollama-cache-proxy; hit"', OWN], OWN, id="a comma in a quoted string"),
        pytest.param(['other; key="a\\", ollama-cache-proxy; x"'], "", id="a quote in a quoted string"),
        pytest.param(['other; key="ollama-cache-proxy'], "", id="a quoted string without an end"),
        pytest.param(["ollama-cache-proxy-2; hit"], "", id="a longer name"),
        pytest.param(["ollama-cache-proxy"], "ollama-cache-proxy", id="no parameters"),
    ],
)
def test_the_member_of_the_proxy_that_was_asked(lines: list[str], member: str) -> None:
    assert own_member(lines) == member
