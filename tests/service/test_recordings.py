"""The setting `record_requests`: what may be set, and what the log says."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest

from ollama_cache_proxy.service.recordings import opened_recordings, use_recordings
from ollama_cache_proxy.service.settings import SettingsError, load
from ollama_cache_proxy.service.system_clock import SystemClock
from ollama_cache_proxy.telemetry.log import Log, Style
from ollama_cache_proxy.telemetry.request_recorder import RequestRecorder


def test_a_folder_that_will_not_do_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tmp_path.chmod(0o755)
    for folder, why in (
        (tmp_path, "others can enter it, and it is not empty: chmod 700, or name another"),
        (tmp_path / "file", "it is no folder, or a link"),
    ):
        with pytest.raises(SettingsError) as error:
            opened_recordings(load(None, {"record_requests": str(folder)}))
        assert str(error.value) == f"record_requests: '{folder}' is not allowed: {why}"


def test_home_may_be_written_as_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = opened_recordings(load(None, {"record_requests": "~/recordings"}))
    assert folder is not None
    assert folder.path == tmp_path / "recordings"
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    folder.close()


@pytest.mark.parametrize("quiet", [False, True])
async def test_it_is_said_where_prompts_are_written_and_that_it_ends(*, quiet: bool, tmp_path: Path) -> None:
    stream = io.StringIO()
    log = Log(stream, style=Style.PLAIN, development=False, quiet=quiet, clock=SystemClock())
    recorder = RequestRecorder(log.warn)
    settings = load(None, {"record_requests": str(tmp_path / "a"), "record_requests_bytes": 3 << 20})
    for _ in range(2):
        use_recordings(recorder, opened_recordings(settings), log)
    use_recordings(recorder, opened_recordings(load(None, {})), log)
    await recorder.close()
    begins = (
        f"[AI Cache] RECORDING: the prompts of requests that may be cached are written to {tmp_path / 'a'}, where this user"
        " alone can read them, 3 MiB at most (record_requests); requests with credentials are not"
    )
    expected = [] if quiet else [begins, "[AI Cache] Requests are no longer recorded"]
    assert stream.getvalue().splitlines() == expected
