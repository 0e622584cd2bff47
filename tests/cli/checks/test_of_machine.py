from __future__ import annotations

from email.utils import formatdate

import pytest

from ollama_cache_proxy.cli.asking import Response
from ollama_cache_proxy.cli.checks import of_machine


@pytest.mark.parametrize(
    ("date", "skew"), [(100, 0.0), (99, 0.0), (101, 0.0), (160, 59.5), (40, -59.0), (None, None), ("soon", None)]
)
def test_a_date_of_whole_seconds_is_judged_fairly(date: object, skew: float | None) -> None:
    headers = {} if date is None else {"Date": formatdate(date, usegmt=True) if isinstance(date, int) else str(date)}
    answer = Response(status=200, headers=headers, body=b"", begun=100.0, ended=100.5)
    if date == 101:
        skew = 0.5
    assert of_machine.ahead(answer) == skew
