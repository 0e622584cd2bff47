from __future__ import annotations

from ollama_cache_proxy.policy.steps import Steps, finish


def counted(steps: int) -> Steps[str]:
    for _ in range(steps):
        yield
    return f"{steps} steps"


def test_all_steps_are_taken() -> None:
    assert finish(counted(0)) == "0 steps"
    assert finish(counted(3)) == "3 steps"
