"""Checks of the Redis or Valkey that the settings name, or the proxy on this machine uses. Nothing is written there."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, RedisError, ResponseError

from ollama_cache_proxy.cli.checks.finding import Finding, note, ok, problem, warning
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.screen import printable, size
from ollama_cache_proxy.service.settings import SettingsError, is_loopback, named_redis, public_url

_URLS = ("redis://", "rediss://", "unix://")
_DEADLINE = 3.0
_MIN_VERSION = (6, 0)
_FULL_SHARE = 0.95
_BOUND_FIX = "`redis-cli CONFIG SET maxmemory 512mb` and `CONFIG SET maxmemory-policy allkeys-lru`, also in its file"


class _AccessDenied(Failed):
    """It answers, but not to whoever asks here."""


async def answers(scene: Scene) -> list[Finding]:
    """Whether it answers, and what it does when it is full or starts again."""
    authority = scene.settings.redis_ca
    try:
        url = named_redis(scene.settings)
    except SettingsError as error:
        return [problem(str(error), "set OCP_REDIS_URL, or another store")]
    if url:
        return await _examined(url, authority, named=True)
    used = printable(str(((await scene.stats() or {}).get("store") or {}).get("name", "")))
    if not used.startswith(_URLS):
        return [ok("none is named, and none is needed: the proxy brings its own store")]
    if not is_loopback(urlsplit(scene.proxy.url).hostname or ""):
        return [note(f"the proxy uses {used}; the settings here name none", "set OCP_REDIS_URL to look at it")]
    return await _examined(used, authority, named=False)


async def _examined(url: str, authority: str | None, *, named: bool) -> list[Finding]:
    """Look at one that the settings here have `named`, or else only the proxy's, whose password they need not know."""
    name = public_url(url)
    try:
        about, save = await _info(url, authority)
    except Failed as failed:
        if isinstance(failed, _AccessDenied) and not named:
            return [note(f"the proxy uses {name}, which wants a password", "set OCP_REDIS_URL here to look at it")]
        return [problem(failed.what, failed.fix)]
    return judged(name, about, save) if about else [note(f"{name} answers, but may not tell about itself (+info)")]


async def skew(scene: Scene) -> float | None:
    """Give by how many seconds its clock is ahead of ours; None where it cannot be asked."""
    try:
        url = named_redis(scene.settings)
        client = _client(url, scene.settings.redis_ca) if url else None
    except (SettingsError, ValueError, OSError):
        return None
    if client is None:
        return None
    try:
        async with client, asyncio.timeout(_DEADLINE):
            begun = time.time()
            seconds, micros = await client.time()
            return float(seconds) + int(micros) / 1e6 - (begun + time.time()) / 2
    except (RedisError, OSError, TimeoutError):
        return None


def _client(url: str, authority: str | None) -> redis.asyncio.Redis:
    more: dict[str, Any] = {"ssl_ca_certs": authority} if authority and url.startswith("rediss://") else {}
    return redis.asyncio.Redis.from_url(
        url, socket_timeout=_DEADLINE, socket_connect_timeout=_DEADLINE, decode_responses=True, retry=None, **more
    )


async def _info(url: str, authority: str | None) -> tuple[dict[str, Any], str | None]:
    """Give INFO and the setting `save`, as far as it may tell them; raises Failed."""
    name = public_url(url)
    try:
        async with _client(url, authority) as client, asyncio.timeout(2 * _DEADLINE):
            await client.ping()
            try:
                about = dict(await client.info())
            except ResponseError:
                return {}, None
            try:
                return about, (await client.config_get("save")).get("save")
            except ResponseError:
                return about, None
    except AuthenticationError:
        raise _AccessDenied(
            f"{name} refuses the user or the password", "set OCP_REDIS_URL=redis://USER:PASSWORD@…"
        ) from None
    except NoPermissionError:
        raise Failed(f"{name} does not permit this user to ask", "see Redis in docs/operations.md for rights") from None
    except BusyLoadingError:
        raise Failed(f"{name} is still loading its file", "wait; entries are found afterwards") from None
    except (ValueError, TypeError):
        raise Failed("redis_url is no URL of a Redis", "such as redis://127.0.0.1:6379/0") from None
    except (RedisError, OSError, TimeoutError):
        raise Failed(
            f"Redis does not answer at {name}: requests go on uncached",
            f"start it, or name another with OCP_REDIS_URL; `redis-cli -u {name} ping` should say PONG",
        ) from None


def judged(name: str, about: dict[str, Any], save: str | None) -> list[Finding]:
    """Judge what Redis says of itself (INFO) and how it saves (`save`; None: it may not tell)."""
    findings = []
    version = str(about.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _MIN_VERSION:
        findings.append(problem(f"{name} is Redis {version}", "the proxy needs Redis 6 or Valkey"))
    if about.get("role") == "slave":
        master = f"{about.get('master_host')}:{about.get('master_port')}"
        findings.append(problem(f"{name} is a replica and takes no entries", f"name its master, {master}"))
    if about.get("rdb_last_bgsave_status", "ok") != "ok" or about.get("aof_last_write_status", "ok") != "ok":
        findings.append(
            problem(
                f"{name} cannot write its file, and may refuse entries",
                'make room on its disk, or save nothing: `redis-cli CONFIG SET save ""`',
            )
        )
    findings += _memory(name, about)
    kept = save or int(about.get("aof_enabled", 0))
    restart = "" if save is None else f", {'kept' if kept else 'forgotten'} when it starts again"
    used, keys = (
        size(int(about.get("used_memory", 0))),
        sum(int(row.get("keys", 0)) for base, row in about.items() if base.startswith("db") and isinstance(row, dict)),
    )
    return findings or [ok(f"{name} answers ({version}): {keys:,} keys in {used}{restart}")]


def _memory(name: str, about: dict[str, Any]) -> list[Finding]:
    used, bound = int(about.get("used_memory", 0)), int(about.get("maxmemory", 0))
    policy = str(about.get("maxmemory_policy", ""))
    if not bound:
        return [warning(f"{name} has no bound (maxmemory 0), and grows until the machine's memory is full", _BOUND_FIX)]
    if policy != "noeviction":
        return []
    if used >= bound * _FULL_SHARE:
        return [
            problem(f"{name} is full ({size(used)} of {size(bound)}) and drops nothing: it refuses entries", _BOUND_FIX)
        ]
    return [warning(f"{name} drops nothing when it is full (noeviction), and will then refuse entries", _BOUND_FIX)]
