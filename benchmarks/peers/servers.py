"""The peers, each started in front of a given Ollama, and configured as their own documentation suggests for it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final

from benchmarks.speed.questions import answer
from benchmarks.speed.subjects import SERVER_CORE, Subject, Subjects, child, nginx_version, process
from ollama_cache_proxy import __version__
from tests.support.rawhttp import ask
from tests.support.servers import free_port

PINS: Final = ("litellm[proxy]==1.108.7", "redis==8.1.0")
"""The newest LiteLLM that can be installed with its proxy: 1.110.2 asks for a package that pip does not find."""

_STARTS_WITHIN: Final = 90.0
"""Seconds for a peer to answer."""
_LOOKS_FOR: Final = 5.0
"""Seconds of one look."""

_NGINX: Final = """
  proxy_cache_path {folder}/cache levels=1:2 keys_zone=kept:64m max_size=1g inactive=60m;
  upstream ollama {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=1024;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    location / {{ proxy_pass http://ollama; proxy_buffering off; }}
    location ~ ^/(api/(generate|chat|embed|embeddings)|v1/(chat/completions|completions|embeddings))$ {{
      proxy_pass http://ollama;
      proxy_cache kept; proxy_cache_methods POST; proxy_cache_valid 200 1h;
      proxy_cache_key "$request_method|$request_uri|$http_authorization|$request_body";
    }}
  }}
"""
_VARNISH: Final = """
vcl 4.1;
import std;
import bodyaccess;
backend ollama {{ .host = "127.0.0.1"; .port = "{port}"; .first_byte_timeout = 600s; .between_bytes_timeout = 600s; }}
sub vcl_recv {{
  unset req.http.X-Posted;
  if (req.method == "POST" &&
      req.url ~ "^/(api/(generate|chat|embed|embeddings)|v1/(chat/completions|completions|embeddings))$" &&
      std.integer(req.http.Content-Length, 0) <= 1048576) {{
    if (!std.cache_req_body(1MB)) {{ return (synth(413)); }}
    set req.http.X-Posted = "yes";
    return (hash);
  }}
  return (pass);
}}
sub vcl_hash {{
  hash_data(req.url);
  if (req.http.Authorization) {{ hash_data(req.http.Authorization); }}
  if (req.http.X-Posted) {{ bodyaccess.hash_req_body(); }}
  return (lookup);
}}
sub vcl_backend_fetch {{
  if (bereq.http.X-Posted) {{ set bereq.method = "POST"; unset bereq.http.X-Posted; }}
}}
sub vcl_backend_response {{
  set beresp.grace = 0s;
  if (beresp.status == 200) {{ set beresp.ttl = 1h; }} else {{ set beresp.ttl = 0s; set beresp.uncacheable = true; }}
  return (deliver);
}}
"""
_LITELLM: Final = """
model_list:
  - model_name: "all-minilm"
    litellm_params: {{model: "ollama/all-minilm", api_base: "{upstream}"}}
  - model_name: "tiny"  # costs, so that no miss asks Ollama what the model is
    litellm_params:
      {{model: "ollama_chat/tiny", api_base: "{upstream}", input_cost_per_token: 0, output_cost_per_token: 0}}
  - model_name: "*"
    litellm_params: {{model: "ollama_chat/*", api_base: "{upstream}"}}
litellm_settings:
  cache: true
  cache_params: {{type: redis, host: 127.0.0.1, port: {redis}, ttl: 3600}}
"""
_OURS: Final = {
    f"OCP_CACHE_{name}": "always"
    for name in ("CHAT", "V1_CHAT", "V1_COMPLETIONS", "GENERATE", "EMBED", "V1_EMBEDDINGS")
} | {"OCP_CACHE_STREAMS": "true"}

_CHAT: Final = "/v1/chat/completions"

Start = Callable[[str], Awaitable[Subject]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A proxy that can be started in front of an upstream; `speaks` is the start of the paths that it takes."""

    name: str
    version: str
    start: Start
    speaks: str = ""


async def stub(subjects: Subjects) -> str:
    """Start an upstream that responds at once, also to chats."""
    plain = answer().decode()
    chat = re.sub(r'"response":("[^"]*")', r'"message":{"role":"assistant","content":\1}', plain)
    return await subjects.stub({"/api/show": "{}", "/api/chat": chat})


def _varnishd() -> str | None:
    return shutil.which("varnishd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def _varnish(subjects: Subjects, binary: str) -> Start:
    async def start(upstream: str) -> Subject:
        port = free_port()
        folder = subjects.folder / f"varnish-{port}"
        folder.mkdir(parents=True)
        (folder / "default.vcl").write_text(_VARNISH.format(port=upstream.rpartition(":")[2]))
        command = (binary, "-F", "-j", "none", "-a", f"127.0.0.1:{port}", "-f", str(folder / "default.vcl"))
        more = ("-n", str(folder / "work"), "-s", "malloc,512m")
        running = await subjects.stack.enter_async_context(process(SERVER_CORE, *command, *more))
        await _answers(running, f"http://127.0.0.1:{port}/api/version")
        return Subject("varnish", f"http://127.0.0.1:{port}", await child(running.pid))

    return start


async def install(folder: Path) -> Path | str:
    """Install LiteLLM into an environment of its own; return its program, or why there is none."""
    python = folder / "litellm" / "bin" / "python"
    for command in (
        (sys.executable, "-m", "venv", str(folder / "litellm")),
        (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS),
    ):
        running = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        _, said = await running.communicate()
        if running.returncode:
            return "not installed: " + (said.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
    return python.with_name("litellm")


def _litellm(subjects: Subjects, program: Path) -> Start:
    async def start(upstream: str) -> Subject:
        port = free_port()
        file = subjects.folder / f"litellm-{port}.yaml"
        subjects.folder.mkdir(parents=True, exist_ok=True)
        url = await subjects.redis()  # one for each, so that none finds another's entries
        file.write_text(_LITELLM.format(upstream=upstream, redis=url.rpartition(":")[2].removesuffix("/0")))
        command = (str(program), "--config", str(file), "--host", "127.0.0.1", "--port", str(port))
        environment = {  # nothing is fetched, nothing is told, and no key is needed on loopback
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            "PYTHONPATH": "",
            "PYTHONDONTWRITEBYTECODE": "",  # it imports modules in the middle of requests
        }
        running = await subjects.stack.enter_async_context(
            process(SERVER_CORE, *command, "--telemetry", "False", environment=environment)
        )
        await _answers(running, f"http://127.0.0.1:{port}/health/liveliness")
        return Subject("litellm", f"http://127.0.0.1:{port}", running.pid, _CHAT)

    return start


async def _answers(running: asyncio.subprocess.Process, url: str) -> None:
    """Wait until a server answers."""
    async with asyncio.timeout(_STARTS_WITHIN):
        while not await _alive(url):
            assert running.returncode is None, f"it ended with {running.returncode}"
            await asyncio.sleep(0.2)


async def _alive(url: str) -> bool:
    with suppress(OSError, EOFError):  # it does not listen yet, or closes at once
        async with asyncio.timeout(_LOOKS_FOR):
            return (await ask(url, "GET", "/" + url.split("/", 3)[3])).status == HTTPStatus.OK
    return False


def peers(subjects: Subjects, litellm: Path | str) -> tuple[list[Peer], dict[str, str]]:
    """Return the peers that can be run, and why others are left out; `litellm` is its program, or why there is none."""
    left_out = {"NOMYO router": "in no registry", "Olla": "in no registry"}

    async def proxy(upstream: str) -> Subject:
        await subjects.redis()
        return await subjects.proxy("proxy", upstream, **_OURS)

    async def nginx(upstream: str) -> Subject:
        return await subjects.nginx("nginx", SERVER_CORE, _NGINX, upstream=upstream.removeprefix("http://"))

    found = [
        Peer(name="ollama-cache-proxy", version=__version__, start=proxy),
        Peer(name="nginx proxy_cache", version=nginx_version(), start=nginx),
    ]
    if binary := _varnishd():
        said = subprocess.run([binary, "-V"], capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
        told = re.search(r"varnish-([\d.]+)", said.stderr + said.stdout)
        found.append(Peer(name="Varnish", version=told[1] if told else "", start=_varnish(subjects, binary)))
    else:
        left_out["Varnish"] = "not installed: `make bench-tools` installs it"
    if isinstance(litellm, str):
        left_out["LiteLLM with Redis"] = litellm
    else:
        start, number = _litellm(subjects, litellm), PINS[0].partition("==")[2]
        found.append(Peer(name="LiteLLM with Redis", version=number, start=start, speaks="/v1/"))
    return found, left_out
