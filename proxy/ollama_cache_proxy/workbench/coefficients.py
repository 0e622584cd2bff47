"""What `plan` computes with; made by `python -m benchmarks.capacity --report`."""

from __future__ import annotations

from typing import Final

from ollama_cache_proxy.workbench.capacity import Coefficients, Cost, Costs

MEASURED: Final = Coefficients(
    noted=Cost(fixed=15.5, byte=0.000541),
    disturbed=18.1,
    posed=102.0,
    noting=69.0,
    parsed=399.0,
    stored=Cost(fixed=17.4, byte=0.000536),
    missed=Cost(fixed=536.0, byte=0.000432),
    lease=Costs(proxy=187.0, store=18.9, commands=5.57, wire=643.0),
    several=1.0,
    notice=14.6,
    notes=9_362,
    store_found=Cost(fixed=2.55, byte=0.000268),
    store_parsed=24.5,
    store_missed=Cost(fixed=25.9, byte=0.000495),
    store_notice=8.76,
    commands_found=0.112,
    commands_missed=2.08,
    wire_found=562.0,
    wire_missed=956.0,
    entry=618.0,
    hot_entry=1100.0,
    bodies=(400, 32_000),
    entries=1_000_000,
    workers=2,
    store_busy=0.154,
)
