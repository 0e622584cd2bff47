"""A real nginx in front of a server, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.leaving_out import leave_out
from tests.support.servers import free_port
from tests.support.waiting import until

_CONFIG = """
{user}
worker_processes 1;
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass {upstream};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      {more}
    }}
  }}
}}
"""


@asynccontextmanager
async def nginx_before(upstream: str, folder: Path, more: str) -> AsyncIterator[str]:
    """Run nginx in front of a server, with `more` in its location; gives its URL."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    binary = shutil.which("nginx", path=path) or leave_out("no nginx on the PATH: run `make system-tools`")
    port, file = free_port(), folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # its default user may not write to the folder
    file.write_text(_CONFIG.format(user=user, folder=folder, port=port, upstream=upstream, more=more))
    process = await asyncio.create_subprocess_exec(
        *(binary, "-p", str(folder), "-c", str(file), "-e", str(folder / "error.log"))
    )
    try:
        await until((folder / "pid").exists)  # written once it listens
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()
