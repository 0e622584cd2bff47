"""Write docs/settings.md, docs/metrics.md and tables in other pages: `python docs/generate.py`.

tests/project/test_docs.py holds the files against what this would write.
"""

from __future__ import annotations

from pathlib import Path

from ollama_cache_proxy.policy.status import Detail
from ollama_cache_proxy.service.reloading import RESTART
from ollama_cache_proxy.service.settings import Settings
from ollama_cache_proxy.stores.redis.commands import COMMANDS
from ollama_cache_proxy.telemetry.metrics import Metrics

HERE = Path(__file__).parent
CHART_VALUES = HERE.parent / "docker" / "helm" / "values.yaml"

SETTINGS = """\
# Settings

The command line wins over the environment, and that over the TOML file (`--config FILE` or `OCP_CONFIG`;
`config/ollama-cache-proxy.toml` is a commented example).
Times are seconds, sizes bytes. Times for which something is stored may also be texts such as `"90d"`, `"12h"` or
`"30m"`; `models` and `categories` are tables ([how long it is kept](cache-rules.md#how-long-it-is-kept)), in the
environment as JSON. A wrong value stops the start with one line and exit status 2.
`ollama-cache-proxy config` shows those in force, and where each comes from. SIGHUP reads them anew: what changes by a
[reload](operations.md#reloading) is in force at once, what takes a restart is named in the log and stays.

| setting | environment | default | changes by | what it is |
|---|---|---|---|---|
"""

METRICS = """\
# Metrics

`GET /metrics` gives them in Prometheus' text format, or OpenMetrics where the scraper asks for it. `endpoint` is the
operation (`generate`, `embed`, …, `other`), `cache` is `hit`, `miss` or `bypass`, `model` is bounded to 50 names as
Ollama lists them (`tiny:latest`), then `other`. A bypass may name anything, so it is counted without its model.

- Tokens and Ollama's own times are what Ollama says at the end of its answers, streams that only pass through included:
  once for each request that it worked on, never for what the cache answered. Times of reading and writing are in
  `/api/generate` and `/api/chat` alone, so tokens per second are `rate(ollama_cache_proxy_output_tokens_total[5m]) /
  rate(ollama_cache_proxy_eval_seconds_total[5m])`, by endpoint and model. OpenAI's streams name tokens only where the
  request asks for it (`stream_options.include_usage`). What a client leaves before its end has no account.
- Ollama's count of a prompt's tokens includes those from its own prompt cache, its time does not, so their quotient is
  no speed. Ollama tells them apart since 0.33.3 (`prompt_eval_cached_count`, `prompt_tokens_details.cached_tokens`,
  `input_tokens_details.cached_tokens`, `cache_read_input_tokens`). What is told is in `prompt_tokens_by_source_total`
  and, with the time, in `prompt_computed_tokens_total` and `prompt_computed_seconds_total`; the rest counts as
  `not-told`. So do vectors, and a 0 of `/v1/responses`, which was there before anything was told. What the proxy itself
  sees of prompts, told or not, is in the metrics that begin with `prompt_forecast` and `prompt_lost`
  ([prompts](prompts.md)).
- Loaded models (`/api/ps`) and Redis' own figures (`INFO`) are asked for in the background, every 5 s for a minute
  after a scrape. A scrape waits for neither: the first one does not show them yet.
- In OpenMetrics, `request_duration_seconds` has the trace id of a request's `traceparent` as an exemplar.
- `tier` is `memory`, `hot` (what is held in front of Redis) or `redis`; `operation` is one of Redis'; `category` is
  what `X-Cache-Category` names.

| metric | type | labels | what it is |
|---|---|---|---|
"""

REASONS = "## Every reason\n\n| reason | what it means |\n|---|---|\n"

VALUES = "| value | default | what it is |\n|---|---|---|\n"

COMMANDS_OF_REDIS = "| command | what it is for | without it |\n|---|---|---|\n"


def settings() -> str:
    """Give docs/settings.md."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, "", ()) else f"`{_plain(field.default)}`"
        by = "restart" if name in RESTART else "reload"
        rows.append(f"| `{name}` | `OCP_{name.upper()}` | {default} | {by} | {field.description} |\n")
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


def cache_rules() -> str:
    """Return docs/cache-rules.md with its table of reasons, which ends it."""
    before, title, _ = (HERE / "cache-rules.md").read_text("utf-8").partition(REASONS)
    return before + title + "".join(f"| `{detail.value}` | {detail.meaning} |\n" for detail in Detail)


def operations() -> str:
    """Return docs/operations.md with its table of the commands that a Redis is sent."""
    before, title, after = (HERE / "operations.md").read_text("utf-8").partition(COMMANDS_OF_REDIS)
    rows = [f"| `{command.name}` | {command.purpose} | {command.effect} |\n" for command in COMMANDS.values()]
    return before + title + "".join(rows) + "\n" + after.partition("\n\n" if after[0] == "|" else "\n")[2]


def kubernetes() -> str:
    """Return docs/kubernetes.md with its table of the chart's values, which ends it."""
    before, title, _ = (HERE / "kubernetes.md").read_text("utf-8").partition(VALUES)
    return before + title + "".join(_values())


def _values() -> list[str]:
    """Return a row for each value of the chart that has no others below it."""
    rows: list[str] = []
    above: list[str] = []
    comment = ""
    for line in CHART_VALUES.read_text("utf-8").splitlines():
        text = line.strip()
        if text.startswith("#"):
            comment = text.removeprefix("#").strip()
            continue
        name, _, default = text.partition(": ")
        above = [*above[: (len(line) - len(text)) // 2], name.removesuffix(":")]
        if default:
            rows.append(f"| `{'.'.join(above)}` | `{default}` | {comment} |\n")
    return rows


if __name__ == "__main__":
    (HERE / "operations.md").write_text(operations(), "utf-8")
    (HERE / "cache-rules.md").write_text(cache_rules(), "utf-8")
    (HERE / "kubernetes.md").write_text(kubernetes(), "utf-8")
    (HERE / "settings.md").write_text(settings(), "utf-8")
    (HERE / "metrics.md").write_text(metrics(), "utf-8")
