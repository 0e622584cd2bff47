"""`ollama-cache-proxy config`: the settings that `serve` would use, and where each comes from."""

from __future__ import annotations

import argparse
import os
from typing import Any

from pydantic import SecretStr

from ollama_cache_proxy.cli import options
from ollama_cache_proxy.cli.ending import DONE, WRONG, Failed
from ollama_cache_proxy.service.settings import (
    Settings,
    SettingsError,
    chosen_upstream,
    named_redis,
    public_url,
    sources,
)
from ollama_cache_proxy.service.tables import shown
from ollama_cache_proxy.service.upstream_tables import UpstreamTable, as_values


def add(commands: Any) -> None:
    """Add the command to the command line."""
    parser = options.command(
        commands,
        "config",
        run,
        help="show the settings in force, and where each comes from",
        description="Show the settings that `serve` would use with this environment, file and options, and where each"
        " comes from. Secrets are hidden.",
        examples=("config", "config --config ollama-cache-proxy.toml --listen 127.0.0.1:5000", "config --json"),
    )
    options.add_settings(parser)
    options.add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from ollama_cache_proxy.cli.screen import Column, Screen, table, write_json

    settings = options.settings_of(arguments)
    try:
        found = effective(settings, sources(arguments.config, options.given(arguments)))
    except SettingsError as error:
        raise Failed(str(error), status=WRONG) from None
    if arguments.json:
        write_json({name: {"value": value, "source": source} for name, (value, source) in found.items()})
        return DONE
    screen = Screen()
    columns = (Column(title="Setting", whole=True), Column(title="Value"), Column(title="From"))
    screen.show(table(screen, columns, [(name, _text(value), source) for name, (value, source) in found.items()]))
    return DONE


def effective(settings: Settings, origins: dict[str, str]) -> dict[str, tuple[Any, str]]:
    """Return each setting's value and where it comes from, OLLAMA_HOST and REDIS_URL included."""
    shown = {name: (_public(value), origins[name]) for name, value in settings}
    url, named_by = chosen_upstream(settings, settings.listen)
    if named_by != "upstream":
        shown["upstream"] = (url, "default" if named_by == "default" else named_by)
    if settings.upstream_authorization is not None and origins["upstream_authorization"] == "default":
        in_file = settings.upstream_authorization_file is not None  # else it was a user in upstream
        shown["upstream_authorization"] = ("(hidden)", "upstream_authorization_file" if in_file else "upstream")
    redis = named_redis(settings)
    if settings.redis_url is not None:
        shown["redis_url"] = (public_url(settings.redis_url.get_secret_value().strip()), origins["redis_url"])
    elif redis and os.environ.get("REDIS_URL"):
        shown["redis_url"] = (public_url(redis), "REDIS_URL")
    return shown


def _public(value: object) -> object:
    if isinstance(value, tuple) and value and isinstance(value[0], UpstreamTable):
        return as_values(value)
    if isinstance(value, dict):
        return shown(value)
    return "(hidden)" if isinstance(value, SecretStr) else value


def _members(table: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in table.items())


def _text(value: object) -> str:
    if value in (None, "", (), {}):
        return "–"
    if isinstance(value, list):
        return "; ".join(_members(table) for table in value)
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_members(table)}" for name, table in value.items())
    if isinstance(value, tuple):
        return ", ".join(text or '""' for text in value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
