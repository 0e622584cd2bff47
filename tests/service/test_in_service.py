from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from ollama_cache_proxy.service.in_service import InService, Service


class Stand:
    """Stands in for exchanges."""

    def __init__(self, serving: int) -> None:
        self.serving = serving
        self.reported = 0
        self.fast_path: Any = SimpleNamespace(report=self.report)

    def report(self) -> None:
        self.reported += 1


def service(exchanges: Any) -> Service:
    nothing: Any = None
    return Service(exchanges=exchanges, explainer=nothing, packing=nothing, rules=nothing)


def test_requests_of_replaced_services_count_until_they_have_ended() -> None:
    first, second, third = Stand(2), Stand(3), Stand(0)
    in_service = InService(service(first))
    in_service.replace(service(second))
    assert in_service.serving == 5
    first.serving = 0
    in_service.replace(service(third))
    assert in_service.serving == 3
    second.serving = 0
    assert in_service.serving == 0


def test_hits_are_reported_before_a_service_is_replaced_and_while_it_has_requests() -> None:
    first, second = Stand(1), Stand(0)
    in_service = InService(service(first))
    in_service.replace(service(second))
    assert (first.reported, second.reported) == (1, 0)
    in_service.report()
    assert (first.reported, second.reported) == (2, 1)
