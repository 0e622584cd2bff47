"""End a run in which a test hangs past pytest-timeout, and name that test.

pytest-timeout interrupts a test once. A test that hangs again after that, mostly while a fixture waits for a task that
never ends, would hold the run for ever and tell nobody which one it was.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXIT_STATUS = 70
"""Of a run that was ended."""


@contextmanager
def ends_after(seconds: float, item: Any) -> Iterator[None]:
    """End this process if the block takes longer; the last line that is printed names the test (a pytest.Item)."""
    watch = threading.Timer(seconds, _end, (seconds, item))
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _end(seconds: float, item: Any) -> None:
    item.config.pluginmanager.getplugin("capturemanager").suspend_global_capture()
    faulthandler.dump_traceback(sys.__stderr__ or sys.stderr)
    print(
        f"\nFAILED {item.nodeid}: it still hangs after {seconds:g} s, and ends the run", file=sys.__stderr__, flush=True
    )
    os._exit(EXIT_STATUS)
