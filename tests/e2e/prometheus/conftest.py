from __future__ import annotations

import pytest

from tests.support.prometheus import found


@pytest.fixture
def promtool() -> str:
    return found("promtool")


@pytest.fixture
def prometheus() -> str:
    return found("prometheus")
