"""Checks of the port that was the default before 0.3: who answers there, and who sends clients there."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from ollama_cache_proxy.cli.checks.finding import Finding, note, ok, warning
from ollama_cache_proxy.cli.checks.scene import Scene
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.service.port_holder import Holder, holder_of
from ollama_cache_proxy.service.settings import (
    DEFAULT_LISTEN,
    FORMER_LISTEN,
    Settings,
    http_url,
    ollama_host,
    same_listener,
    url_of,
)

_LAUNCHCTL_DEADLINE: Final = 2.0
"""Seconds for launchctl to answer."""


async def former(scene: Scene) -> list[Finding]:
    """Check whether clients that still name the former default reach something other than this proxy."""
    url, hosts = scene.proxy.url, await _ollama_hosts()
    is_own = same_listener(url, FORMER_LISTEN)
    if is_own and await scene.stats() is not None:
        return _named(url, hosts) or [_nothing()]
    holder = await _asked(url if is_own else url_of(FORMER_LISTEN, tls=scene.settings.tls_cert is not None))
    if is_own:  # the check of the proxy says what else there is to say
        return _elsewhere(_default(scene.settings), holder) if holder is Holder.GATEWAY else []
    if holder is not Holder.GATEWAY and any(same_listener(ollama, FORMER_LISTEN) for ollama in _upstreams(scene)):
        return [ok(f"{FORMER_LISTEN}, the default before 0.3, is an Ollama of this proxy")]
    overlooked = await _overlooked(scene, hosts) if holder is Holder.OLLAMA else []
    return overlooked or _elsewhere(url, holder) + _named(url, hosts) or [_nothing()]


def _nothing() -> Finding:
    return ok(f"nothing sends clients to {FORMER_LISTEN}, the default before 0.3")


def _upstreams(scene: Scene) -> list[str]:
    return [scene.ollama.url, *(table.url for table in scene.settings.upstreams)]


def _default(settings: Settings) -> str:
    """Return the URL at which the proxy is by the settings, or by default where they name the former one."""
    tls = settings.tls_cert is not None
    url = url_of(settings.listen, tls=tls)
    return url_of(DEFAULT_LISTEN, tls=tls) if same_listener(url, FORMER_LISTEN) else url


async def _overlooked(scene: Scene, hosts: dict[str, str]) -> list[Finding]:
    """Judge an Ollama at the former default that the proxy does not ask; empty where it is not meant to."""
    told = scene.settings.upstream is not None or bool(scene.settings.upstreams)
    named = not told and any(same_listener(_client_url(value), FORMER_LISTEN) for value in hosts.values())
    try:
        await scene.ask(scene.ollama, "/api/version")
    except Failed:
        text = f"Ollama answers at {FORMER_LISTEN}, and none at {scene.ollama.url}"
    else:
        if not named:
            return []
        text = f"Ollama answers at {FORMER_LISTEN}, and the proxy asks another one at {scene.ollama.url}"
    if named:
        text += "; OLLAMA_HOST names the first, which until 0.4 is not taken for Ollama: the proxy was there before 0.3"
    return [warning(text, f"name it: `--upstream {url_of(FORMER_LISTEN, tls=False)}` (OCP_UPSTREAM)")]


async def _asked(url: str) -> Holder | None:
    return await asyncio.to_thread(holder_of, url)


def _elsewhere(url: str, holder: Holder | None) -> list[Finding]:
    """Judge what answers at the former default, which is not the address of the proxy, `url`."""
    if holder is None:
        return []
    if holder is Holder.GATEWAY:
        text = (
            f"{FORMER_LISTEN} is {holder.value}: a client with this address is not cached, and gets 404 for most of"
            " Ollama's API"
        )
        fix = f"set such clients to {url}"
        same_port = urlsplit(url).port == urlsplit(url_of(FORMER_LISTEN, tls=False)).port
        return [warning(text, f"{fix}, or let the proxy listen on another port") if same_port else note(text, fix)]
    return [note(f"{holder.value} answers at {FORMER_LISTEN}, the default before 0.3", f"set clients to {url}")]


async def _ollama_hosts() -> dict[str, str]:
    """Return where OLLAMA_HOST is set, and to what: here, and on macOS for applications."""
    found = {"in this environment": os.environ.get("OLLAMA_HOST", "")}
    if sys.platform == "darwin":
        found["for macOS applications"] = await _launchctl("getenv", "OLLAMA_HOST")
    return {where: value for where, value in found.items() if value.strip()}


async def _launchctl(*arguments: str) -> str:
    """Return the output of launchctl, empty if it fails."""
    with suppress(OSError, TimeoutError):
        process = await asyncio.create_subprocess_exec(
            "launchctl",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(_LAUNCHCTL_DEADLINE):
                return (await process.communicate())[0].decode("utf-8", "replace")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    return ""


def _client_url(value: str) -> str:
    """Return the URL that clients read from an OLLAMA_HOST; empty where it is none: the check of Ollama reports it."""
    try:
        return http_url(ollama_host(value))
    except ValueError:
        return ""


def _named(url: str, hosts: dict[str, str]) -> list[Finding]:
    """Judge the values of OLLAMA_HOST that name the port of the gateway.

    With such a value the application refuses to start it (Ollama 0.33, app/cmd/app/app_darwin.go).
    """
    port = urlsplit(url_of(FORMER_LISTEN, tls=False)).port
    found = []
    for where, value in hosts.items():
        named = _client_url(value)
        if not named or urlsplit(named).port != port:
            continue
        there = same_listener(url, FORMER_LISTEN)
        clients = "" if there else f"; `ollama` and other clients with it do not reach the proxy at {url}"
        found.append(
            note(
                f"OLLAMA_HOST {where} names port {port}, with which Ollama's macOS application does not start its"
                f" gateway for Claude Desktop (0.33 and later){clients}",
                f"set it to {url} for clients only; for the application: `launchctl unsetenv OLLAMA_HOST`",
            )
        )
    return found
