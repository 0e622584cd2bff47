"""Which settings a reload changes, and that one that fails changes nothing. Real processes: tests/e2e/test_reload.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ollama_cache_proxy.core.tasks import Tasks
from ollama_cache_proxy.service.reloading import RESTART, Reloads, changes
from ollama_cache_proxy.service.settings import OPERATIONS, Settings, SettingsError, load, setting_of
from tests.support import canary
from tests.support.waiting import until

STEADY: dict[str, Any] = {"upstream": "http://127.0.0.1:1"}


def settings(**given: Any) -> Settings:
    return load(None, STEADY | given)


BY_RELOAD = {
    *("allowed_hosts", "path_prefix", "upstream_authorization", "upstream_authorization_file", "admin_token"),
    *("tls_cert", "tls_key", "upstream_ca", "credential_fields", "placeholder_credentials", "epoch"),
    *(
        "ttl_completion",
        "ttl_embedding",
        "max_ttl",
        "lifetime",
        "max_lifetime",
        "max_request_bytes",
        "max_entry_bytes",
        "max_list_bytes",
    ),
    *("models", "categories", "max_misses", "linger", "head_timeout", "body_timeout", "keep_alive", "estimated_counts"),
    *("record_requests", "record_requests_bytes", "prompt_watch", "prompt_slots"),
    *(
        "cache_dated_templates",
        "cache_streams",
        "stream_pace",
        "line_pace_for",
        "ignore_no_cache",
        "stable_prefix_rules",
        "stable_prefix",
        "unbuffered_streams",
    ),
    *(setting_of(operation) for operation in OPERATIONS),
}
"""Those that `replacing.py` puts in force. A new setting is one of these, or takes a restart."""


def test_of_every_setting_it_is_known_whether_a_reload_changes_it() -> None:
    assert Settings.model_fields.keys() - RESTART == BY_RELOAD
    assert Settings.model_fields.keys() >= RESTART


@pytest.mark.parametrize(
    ("old", "new", "changed", "left_out"),
    [
        ({}, {}, (), ()),
        ({}, {"epoch": "b", "ttl_embedding": 5}, ("ttl_embedding", "epoch"), ()),
        ({}, {"listen": "127.0.0.1:5", "epoch": "b"}, ("epoch",), ("listen",)),
        ({"admin_token": "a"}, {"admin_token": "b"}, ("admin_token",), ()),
        ({"admin_token": "a"}, {}, ("admin_token",), ()),
        ({"workers": 2}, {"workers": 3, "store": "memory"}, (), ("workers", "store")),
        ({"tls_cert": "a"}, {"tls_cert": "b", "tls_key": "c"}, ("tls_cert", "tls_key"), ()),
        ({}, {"tls_cert": "b", "tls_key": "c"}, (), ("tls_cert", "tls_key")),
        ({"tls_cert": "b"}, {}, (), ("tls_cert",)),
        ({"redis_url": "redis://a:1"}, {"redis_url": "redis://b:1"}, (), ("redis_url",)),
    ],
)
def test_what_a_reload_changes(
    old: dict[str, Any], new: dict[str, Any], changed: tuple[str, ...], left_out: tuple[str, ...]
) -> None:
    before, after = settings(**old), settings(**new)
    found = changes(before, after)
    assert (found.changed, found.left_out) == (changed, left_out)
    for name in Settings.model_fields:
        source = after if name in changed else before
        assert getattr(found.settings, name) == getattr(source, name)


class Around:
    """Reloads, what they read and apply, and what they say."""

    def __init__(self, tasks: Tasks) -> None:
        self.found: list[Settings | Exception] = []
        self.applied: list[Settings] = []
        self.said: list[tuple[str, bool]] = []
        self.busy: list[bool] = []
        self.wrong: str | None = None
        self.may_apply = asyncio.Event()
        self.may_apply.set()
        self.reload = Reloads(
            settings(),
            read=self.read,
            apply=self.apply,
            say=lambda text, warning: self.said.append((text, warning)),
            busy=self.busy.append,
            tasks=tasks,
        )

    def read(self) -> Settings:
        found = self.found.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    async def apply(self, given: Settings) -> None:
        await self.may_apply.wait()
        if self.wrong is not None:
            raise SettingsError(self.wrong)
        self.applied.append(given)


@pytest.fixture
async def around() -> Any:
    tasks = Tasks()
    yield Around(tasks)
    await tasks.close(1)


async def test_a_reload_is_said_in_one_line_and_what_it_leaves_out_in_another(around: Around) -> None:
    around.found = [settings(admin_token=canary.TOKEN, epoch="b", listen="127.0.0.1:7")]
    around.reload()
    await until(lambda: around.busy == [True, False])
    assert around.said == [
        ("Reloaded: epoch, admin_token changed; certificates and credentials were read anew", False),
        ("Not changed, since that takes a restart: listen", True),
    ]
    (applied,) = around.applied
    assert (applied.epoch, applied.listen) == ("b", settings().listen)


@pytest.mark.parametrize(
    "error", [SettingsError("config: x is not valid TOML"), PermissionError(13, "Permission denied")]
)
async def test_a_file_that_is_wrong_is_one_line_and_changes_nothing(around: Around, error: Exception) -> None:
    around.found = [error, settings(epoch="b")]
    around.reload()
    await until(lambda: around.busy == [True, False])
    assert around.applied == []
    (line,) = around.said
    assert line == (f"Not reloaded, everything stays as it was: {error}", True)
    around.reload()
    await until(lambda: len(around.applied) == 1)


async def test_settings_that_could_not_be_applied_are_still_to_be(around: Around) -> None:
    around.found = [settings(epoch="b"), settings(epoch="b")]
    around.wrong = "tls_cert: 'x' is not allowed"
    around.reload()
    await until(lambda: around.busy == [True, False])
    around.wrong = None
    around.reload()
    await until(lambda: len(around.applied) == 1)
    assert [line for line, _ in around.said][1].startswith("Reloaded: epoch changed")


async def test_signals_during_a_reload_are_one_more_reload(around: Around) -> None:
    around.found = [settings(epoch="b"), settings(epoch="c")]
    around.may_apply.clear()
    around.reload()
    await until(lambda: len(around.found) == 1)
    for _ in range(5):
        around.reload()
    around.may_apply.set()
    await until(lambda: around.busy == [True, False])
    assert [applied.epoch for applied in around.applied] == ["b", "c"]
