"""Write docs/settings.md and docs/metrics.md from the code that they describe: `python docs/generate.py`.

tests/test_docs.py holds the files against what this would write.
"""

from __future__ import annotations

from pathlib import Path

from proxy.adapters.metrics import Metrics
from proxy.settings import Settings

HERE = Path(__file__).parent

SETTINGS = """\
# Settings

The command line wins over the environment, and that over the TOML file (`--config FILE` or `OCP_CONFIG`;
`config/ollama-cache-proxy.toml` is a commented example).
Times are seconds, sizes bytes. A wrong value stops the start with one line and exit status 2.

| setting | environment | default | what it is |
|---|---|---|---|
"""

METRICS = """\
# Metrics

`GET /metrics` gives them in Prometheus' text format, or OpenMetrics where the scraper asks for it. `endpoint` is the
operation (`generate`, `embed`, …, `other`), `cache` is `hit`, `miss` or `bypass`, `model` is bounded to 50 names, then
`other`.

| metric | type | labels | what it is |
|---|---|---|---|
"""


def settings() -> str:
    """Give docs/settings.md."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "") else f"`{_plain(field.default)}`"
        rows.append(f"| `{name}` | `OCP_{name.upper()}` | {default} | {field.description} |\n")
    return SETTINGS + "".join(rows)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def metrics() -> str:
    """Give docs/metrics.md."""
    rows = [
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | {metric.text} |\n"
        for metric in sorted(Metrics().described(), key=lambda metric: metric.name)
    ]
    return METRICS + "".join(rows)


if __name__ == "__main__":
    (HERE / "settings.md").write_text(settings(), "utf-8")
    (HERE / "metrics.md").write_text(metrics(), "utf-8")
