"""Whether there is an NVIDIA card: seen through NVML, or by dcgm-exporter on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from ollama_cache_proxy.cli.asking import Server, client
from ollama_cache_proxy.cli.ending import Failed
from ollama_cache_proxy.service.settings import is_loopback

if TYPE_CHECKING:
    from ollama_cache_proxy.gpu.readings import Found, Nothing

EXPORTER: Final = "http://127.0.0.1:9400"
"""Where dcgm-exporter listens."""


async def readings() -> Found | Nothing:
    """Return what NVML tells of the cards of this machine."""
    from ollama_cache_proxy.gpu.nvml import Reader, pynvml
    from ollama_cache_proxy.gpu.watch import Watch

    return await Watch(Reader(pynvml).read, lambda _line: None).read()


async def exported() -> bool:
    """Return whether dcgm-exporter shows a card of this machine."""
    async with client() as session:
        try:
            response = await Server(session, EXPORTER, title="dcgm-exporter", fix="").ask("/metrics", within=2.0)
        except Failed:
            return False
    return b"DCGM_FI_" in response.body


async def known_at(*urls: str) -> bool:
    """Return whether the Ollama at each URL is known to have a GPU: it runs on this machine, and a card is seen here.

    Of any other nothing is known: `size_vram` of `/api/ps` can be above 0 without a GPU, since Ollama counts every
    buffer that is not called CPU, BLAS or Host, so those of AMX too (`isGPUBuffer` in llm/llama_server.go, 0.33.0-rc2).
    """
    if not all(is_loopback(urlsplit(url).hostname or "") for url in urls):
        return False
    from ollama_cache_proxy.gpu.readings import Nothing

    return not isinstance(await readings(), Nothing) or await exported()
