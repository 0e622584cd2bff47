"""Opens the folder in which requests are recorded, and says so in the log."""

from __future__ import annotations

from typing import Final

from ollama_cache_proxy.service.settings import Settings, SettingsError
from ollama_cache_proxy.telemetry.log import Log
from ollama_cache_proxy.telemetry.request_recorder import Place, RecordingsError, RecordingsFolder, RequestRecorder


def opened_recordings(settings: Settings) -> RecordingsFolder | None:
    """Return the folder for recordings, None where none are made; raise SettingsError."""
    folder = settings.record_requests
    if not folder:
        return None
    try:
        return RecordingsFolder(Place(folder=folder, limit=settings.record_requests_bytes, writers=settings.workers))
    except RecordingsError as error:
        raise SettingsError(f"record_requests: {folder!r} is not allowed: {error}") from None


def use_recordings(recorder: RequestRecorder, folder: RecordingsFolder | None, log: Log) -> None:
    """Record in this folder from now on, None: nowhere; say so in the log if that changes."""
    if recorder.use(folder) and not log.quiet:
        log.say(_NOT_RECORDING if folder is None else _recording(folder), warning=True)


_NOT_RECORDING: Final = "Requests are no longer recorded"


def _recording(folder: RecordingsFolder) -> str:
    return (
        f"RECORDING: the prompts of requests that may be cached are written to {folder.path}, where this user alone can"
        f" read them, {folder.place.limit >> 20} MiB at most (record_requests); requests with credentials are not"
    )
