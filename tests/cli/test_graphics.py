from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from ollama_cache_proxy.cli import graphics
from ollama_cache_proxy.gpu.readings import Found, Nothing

HERE, ELSEWHERE = "http://127.0.0.1:11434", "http://192.0.2.1:11434"
CARDS = Found(driver="550", readings=())


@pytest.mark.parametrize(
    ("urls", "seen", "exported", "known"),
    [
        ((HERE,), CARDS, False, True),
        ((HERE,), Nothing(why="no driver"), True, True),
        ((HERE,), Nothing(why="no driver"), False, False),
        ((ELSEWHERE,), CARDS, True, False),
        ((HERE, ELSEWHERE), CARDS, True, False),
    ],
    ids=["nvml", "exporter", "nothing-seen", "another-machine", "one-of-two"],
)
async def test_a_gpu_is_known_only_where_it_is_seen(
    urls: tuple[str, ...], seen: Found | Nothing, exported: bool, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def readings() -> Found | Nothing:
        return seen

    async def of_exporter() -> bool:
        return exported

    monkeypatch.setattr(graphics, "readings", readings)
    monkeypatch.setattr(graphics, "exported", of_exporter)
    assert await graphics.known_at(*urls) is known


@pytest.mark.parametrize(("text", "known"), [("DCGM_FI_DEV_GPU_UTIL{} 1", True), ("up 1", False)])
async def test_an_exporter_counts_where_it_has_metrics_of_a_card(
    text: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(text=text)

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    async with TestServer(app) as server:
        monkeypatch.setattr(graphics, "EXPORTER", str(server.make_url("")).rstrip("/"))
        assert await graphics.exported() is known
