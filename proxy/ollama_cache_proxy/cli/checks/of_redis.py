"""Checks of the Redis or Valkey that the settings name, or that the proxy on this machine uses. Nothing is written."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import redis.asyncio
from redis.exceptions import AuthenticationError, BusyLoadingError, NoPermissionError, ResponseError

from ollama_cache_proxy.cli.checks.finding import Finding, note, ok, problem, warning
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.cli.screen import printable, size
from ollama_cache_proxy.service.eviction_check import check_eviction
from ollama_cache_proxy.service.redis_access import (
    SCHEMES,
    RedisAddress,
    Symptom,
    client_of,
    of_mode,
    primaries_of,
    redis_address,
    tls_for,
    trouble_at,
)
from ollama_cache_proxy.service.settings import SettingsError, is_loopback, named_redis, public_url
from ollama_cache_proxy.service.store_survey import Surveyed, product, survey_store

_URLS = tuple(f"{scheme}://" for scheme in SCHEMES)
_DEADLINE = 3.0
"""Seconds for one command."""

_MIN_VERSION = (5, 0)
_FULL_SHARE = 0.95
"""The share of maxmemory from which on Redis counts as full."""

_ACCESS_FIX = "give the proxy's user the permissions that stand in docs/operations.md, Redis"
_DRAGONFLY_FIX = "start it with `--cache_mode=true`, and bound it with `--maxmemory`"
_BOUND_FIX = "`redis-cli CONFIG SET maxmemory 512mb` and `CONFIG SET maxmemory-policy allkeys-lru`, also in redis.conf"


class _AccessDenied(Failed):
    """Redis answers, but refuses this user or password."""


async def answers(scene: Scene) -> list[Finding]:
    """Check that Redis answers, and what it does when it is full or restarts."""
    authority = scene.settings.redis_ca
    try:
        url = named_redis(scene.settings)
    except SettingsError as error:
        return [problem(str(error), "set OCP_REDIS_URL, or another store")]
    if url:
        found = await _examined(url, authority, named=True)
        return [*found, *await _evicts(scene)]
    used = printable(str(((await scene.stats() or {}).get("store") or {}).get("name", "")))
    if not used.startswith(_URLS):
        return [ok("no URL is set, and none is needed: the proxy starts its own store")]
    if not is_loopback(urlsplit(scene.proxy.url).hostname or ""):
        return [note(f"the proxy uses {used}; the settings here name none", "set OCP_REDIS_URL to check it")]
    return await _examined(used, authority, named=False)


async def _evicts(scene: Scene) -> list[Finding]:
    """Return a problem where entries are to live until they are evicted, and the server would not evict them."""
    try:
        unknown = await check_eviction(scene.settings)
    except SettingsError as error:
        fix = "set a limit and an allkeys policy: " + _BOUND_FIX + '; or lifetime = "idle"'
        return [problem(str(error), fix)]
    return [warning(unknown, "start it")] if unknown else []


async def _examined(url: str, authority: str | None, *, named: bool) -> list[Finding]:
    """Check one server: `named` by the settings here, or used by the proxy, whose password may be unknown here."""
    name = public_url(url)
    try:
        address = redis_address(url)
        tls = tls_for(address, authority)
        if address.nodes:
            return await _cluster(name, address, tls)
        return await _server(name, address, tls)
    except ValueError as error:
        return [problem(str(error), "set OCP_REDIS_URL again")]
    except SettingsError as error:
        return [problem(str(error), "change the setting")]
    except Failed as failed:
        if isinstance(failed, _AccessDenied) and not named:
            return [note(f"the proxy uses {name}, which needs a password", "set OCP_REDIS_URL here to check it")]
        return [problem(failed.what, failed.fix)]


async def _cluster(name: str, address: RedisAddress, tls: ssl.SSLContext | None) -> list[Finding]:
    """Check each primary of a cluster. Raises Failed."""
    if (found := await trouble_at(address, tls)) is not None:
        raise Failed(found.what(name), found.fix)
    try:
        async with asyncio.timeout(_DEADLINE):
            primaries = await primaries_of(address, tls, within=_DEADLINE)
    except Exception:  # noqa: BLE001 - redis-py raises anything
        raise Failed(f"{name} does not say which node has what", _ACCESS_FIX) from None
    findings = [ok(f"{name} is a cluster, and {len(primaries)} primaries have all slots")]
    for primary in primaries:
        findings += await _server(primary.place, primary, tls, of_cluster=True)
    return list({finding.text: finding for finding in findings}.values())


async def _server(
    name: str, address: RedisAddress, tls: ssl.SSLContext | None, *, of_cluster: bool = False
) -> list[Finding]:
    """Check one server. Raises Failed."""
    about, save = await _info(name, address, tls)
    if not of_cluster and of_mode(about) is not None and (found := await trouble_at(address, tls)) is not None:
        raise Failed(found.what(name), found.fix)
    findings = judged(name, about, save) if about else [note(f"{name} answers, but this user may not run INFO (+info)")]
    try:
        surveyed = await _surveyed(address, tls, of_cluster=of_cluster)
    except Exception:  # noqa: BLE001 - redis-py raises anything; what was found before is said anyway
        return findings
    return findings + refusals(name, surveyed, product(about) or surveyed.product)


def refusals(name: str, found: Surveyed, version: str) -> list[Finding]:
    """Return a finding for each command that the server refuses, but for INFO, which has its own."""
    who = f"{name} ({version})" if version else name
    if found.unusable:
        names = ", ".join(command.name for command in found.refused)
        return [problem(f"{who} refuses {names}: nothing is stored or found", _ACCESS_FIX)]
    findings = []
    for command in found.refused:
        if command.name == "INFO":
            continue
        text = f"{who} refuses {command.name}: {command.effect}"
        rule = command.name.lower().replace(" ", "|")
        fix = f"permit it (+{rule}), if the server has it; see Redis in docs/operations.md"
        findings.append(note(text) if command.replaced else warning(text, fix))
    return findings


async def _surveyed(address: RedisAddress, tls: ssl.SSLContext | None, *, of_cluster: bool) -> Surveyed:
    async with client_of(address, tls, within=_DEADLINE) as client, asyncio.timeout(2 * _DEADLINE):
        connection = client.connection_pool.make_connection()  # type: ignore[no-untyped-call] # redis-py says no type
        try:
            await connection.connect()
            return await survey_store(connection, cluster=of_cluster)
        finally:
            await connection.disconnect(nowait=True)


async def skew(scene: Scene) -> float | None:
    """Return by how many seconds the clock of Redis is ahead of ours, None if it cannot be asked."""
    try:
        url = named_redis(scene.settings)
    except SettingsError:
        return None
    if not url:
        return None
    try:
        client = _client(url, scene.settings.redis_ca)
        async with client, asyncio.timeout(_DEADLINE):
            begun = time.time()
            seconds, micros = await client.time()
            return float(seconds) + int(micros) / 1e6 - (begun + time.time()) / 2
    except Exception:  # noqa: BLE001 - it is no Redis
        return None


def _client(url: str, authority: str | None) -> redis.asyncio.Redis:
    """Return a client; raise ValueError for a URL that is none, and SettingsError."""
    address = redis_address(url)
    return client_of(address, tls_for(address, authority), within=_DEADLINE)


async def _info(name: str, address: RedisAddress, tls: ssl.SSLContext | None) -> tuple[dict[str, Any], str | None]:
    """Return INFO and the setting `save`, empty or None if this user may not read them. Raise Failed."""
    try:
        async with client_of(address, tls, within=_DEADLINE) as client, asyncio.timeout(2 * _DEADLINE):
            with suppress(NoPermissionError):  # an answer, too
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
    except BusyLoadingError:
        raise Failed(f"{name} is still loading its data", "wait; afterwards entries can be looked up again") from None
    except SettingsError as error:
        raise Failed(str(error), "change the setting") from None
    except Exception:  # noqa: BLE001 - redis-py raises anything for a server that is no Redis
        found = await trouble_at(address, tls)
        if found is not None and found is not Symptom.REFUSES:
            raise Failed(found.what(name), found.fix) from None
        raise Failed(
            f"Redis does not answer at {name}: requests are served without the cache",
            f"start it, or set OCP_REDIS_URL to another; `redis-cli -u {name} ping` should say PONG",
        ) from None


def judged(name: str, about: dict[str, Any], save: str | None) -> list[Finding]:
    """Judge INFO and the setting `save`, which is None if it may not be read."""
    findings = []
    version = str(about.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < _MIN_VERSION:
        findings.append(problem(f"{name} is Redis {version}", "the proxy needs Redis 5 or later, or Valkey"))
    if about.get("role") == "slave":
        master = f"{about.get('master_host')}:{about.get('master_port')}"
        findings.append(problem(f"{name} is a replica and takes no entries", f"use its master, {master}"))
    if about.get("rdb_last_bgsave_status", "ok") != "ok" or about.get("aof_last_write_status", "ok") != "ok":
        findings.append(
            problem(
                f"{name} cannot save to disk, and may refuse entries",
                'free disk space, or turn saving off: `redis-cli CONFIG SET save ""`',
            )
        )
    findings += _memory(name, about)
    persists = save or int(about.get("aof_enabled", 0))
    restart = "" if save is None else f", {'kept' if persists else 'lost'} on restart"
    used, keys = (
        size(int(about.get("used_memory", 0))),
        sum(int(row.get("keys", 0)) for base, row in about.items() if base.startswith("db") and isinstance(row, dict)),
    )
    evicts = about.get("cache_mode") or about.get("maxmemory_policy")
    policy = f", {evicts}" if evicts else ""
    return findings or [ok(f"{name} answers ({product(about)}): {keys:,} keys in {used}{policy}{restart}")]


def _memory(name: str, about: dict[str, Any]) -> list[Finding]:
    used, bound = int(about.get("used_memory", 0)), int(about.get("maxmemory", 0))
    policy = str(about.get("maxmemory_policy", ""))
    if about.get("cache_mode") == "store":
        return [warning(f"{name} evicts nothing when it is full (cache_mode store)", _DRAGONFLY_FIX)]
    if not bound:
        return [
            warning(
                f"{name} has no memory limit (maxmemory 0), and grows until the machine's memory is full", _BOUND_FIX
            )
        ]
    if policy != "noeviction":
        return []
    if used >= bound * _FULL_SHARE:
        return [
            problem(
                f"{name} is full ({size(used)} of {size(bound)}) and evicts nothing: it refuses entries", _BOUND_FIX
            )
        ]
    return [warning(f"{name} evicts nothing when it is full (noeviction), and will then refuse entries", _BOUND_FIX)]
