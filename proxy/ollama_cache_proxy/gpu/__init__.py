"""Metrics of NVIDIA cards under the names of NVIDIA's dcgm-exporter, for where that cannot run.

    readings.py    the figures of cards, pure
    exposition.py  readings as Prometheus text, pure
    nvml.py        NVML, and one reading of every card
    watch.py       readings in their own thread, within a deadline
    replay.py      a stand-in for NVML that plays a recording, for machines without a card
    recordings/    the recordings that come with the package

Nothing here is imported before it is needed: `serve` starts without it.
"""
