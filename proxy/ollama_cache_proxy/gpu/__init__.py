"""Metrics of NVIDIA cards under the names of NVIDIA's DCGM exporter, for where that one cannot run.

    readings.py    what a card says of itself, pure
    exposition.py  readings as Prometheus text, pure
    nvml.py        NVML, and one reading of every card
    watch.py       readings in a thread of their own, within a deadline
    replay.py      an NVML that plays a recording, for machines without a card
    recordings/    the recordings that come with the package

Nothing here is imported before it is asked for: `serve` starts without it.
"""
