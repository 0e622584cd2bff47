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
from ollama_cache_proxy.service.port_holder import Holder, holder_of
from ollama_cache_proxy.service.settings import FORMER_LISTEN, http_url, ollama_host, same_listener, url_of

_LAUNCHCTL_DEADLINE: Final = 2.0
"""Seconds for launchctl to answer."""


async def former(scene: Scene) -> list[Finding]:
    """Check whether clients that still name the former default reach something other than this proxy."""
    url, tls = scene.proxy.url, scene.settings.tls_cert is not None
    found = [] if same_listener(url, FORMER_LISTEN) else _elsewhere(url, await _asked(url_of(FORMER_LISTEN, tls=tls)))
    found += _named(url, await _ollama_hosts())
    return found or [ok(f"nothing sends clients to {FORMER_LISTEN}, the default before 0.3")]


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


def _named(url: str, hosts: dict[str, str]) -> list[Finding]:
    """Judge the values of OLLAMA_HOST that name the port of the gateway.

    With such a value the application refuses to start it (Ollama 0.33, app/cmd/app/app_darwin.go).
    """
    port = urlsplit(url_of(FORMER_LISTEN, tls=False)).port
    found = []
    for where, value in hosts.items():
        try:
            named = http_url(ollama_host(value))
        except ValueError:
            continue  # the check of Ollama reports it
        if urlsplit(named).port != port:
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
