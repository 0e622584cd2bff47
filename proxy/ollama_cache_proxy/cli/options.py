"""What commands have in common on the command line: their help with examples, and options that several take."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import Any, Final

from ollama_cache_proxy.cli.ending import WRONG, Failed
from ollama_cache_proxy.service.settings import (
    OPERATIONS,
    POLICIES,
    Settings,
    SettingsError,
    chosen_upstream,
    host_and_port,
    http_url,
    load,
    setting_of,
)

_WILDCARDS: Final = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - replaced, not bound


class _Formatter(argparse.HelpFormatter):
    """Fills paragraphs, and leaves lines of examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def command(  # noqa: PLR0913 - what there is to say of a command
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,  # noqa: A002 - argparse's own name
    description: str,
    examples: tuple[str, ...],
) -> argparse.ArgumentParser:
    """Add a command; an example is what follows `ollama-cache-proxy`, with a remark behind `  # ` as it likes."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog="\n".join(["examples:", *(f"  ollama-cache-proxy {example}" for example in examples)]),
        formatter_class=_Formatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that are settings."""
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help="address to listen on (default 127.0.0.1:11435; OCP_LISTEN)"
    )
    add_upstream(parser)
    parser.add_argument("--workers", metavar="N", help="processes that serve, with one Redis (default 1; OCP_WORKERS)")
    parser.add_argument("--redis-url", metavar="URL", help="Redis or Valkey (default: a private one; OCP_REDIS_URL)")
    parser.add_argument(
        "--cache",
        metavar="ROUTE=POLICY",
        action="append",
        type=_policy,
        help=f"what the cache does for a route, once for each: {', '.join(OPERATIONS)};"
        f" {', '.join(POLICIES)} (OCP_CACHE_CHAT=always and so on)",
    )
    parser.add_argument(
        "--cache-streams",
        action=argparse.BooleanOptionalAction,
        help="record streams of cached routes too (OCP_CACHE_STREAMS)",
    )
    add_config(parser)
    parser.add_argument("--log", choices=("auto", "plain", "colour", "json"), help="how the log looks (OCP_LOG)")
    parser.add_argument(
        "--development", action=argparse.BooleanOptionalAction, help="log every request, and why it was passed on"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the file of settings."""
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings (OCP_CONFIG)")


def add_upstream(parser: argparse.ArgumentParser) -> None:
    """Add the option that names Ollama."""
    parser.add_argument(
        "--upstream", metavar="URL", help="Ollama (default OLLAMA_HOST or port 11434 here; OCP_UPSTREAM)"
    )


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that asks a running proxy."""
    parser.add_argument(
        "--url", metavar="URL", help="the running proxy (default OCP_URL, else where the settings say that it listens)"
    )
    add_config(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option of a command whose output programs may want to read."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Give the settings that the command line names; None where it does not. Raises SettingsError."""
    names = ("listen", "upstream", "workers", "redis_url", "cache_streams", "log", "development")
    found = {name: getattr(arguments, name, None) for name in names}
    _refuse_password(found["redis_url"])
    return found | dict(getattr(arguments, "cache", None) or ())


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Give the settings that the command runs with; raises Failed."""
    try:
        return load(arguments.config, given(arguments))
    except SettingsError as error:
        raise Failed(str(error), status=WRONG) from None


def proxy_url(arguments: argparse.Namespace, settings: Settings) -> str:
    """Give the URL of the running proxy; raises Failed."""
    for name, value in (("--url", arguments.url), ("OCP_URL", os.environ.get("OCP_URL"))):
        if value:
            try:
                return http_url(value)
            except ValueError as error:
                raise Failed(f"{name}: {_shown(value)} is not allowed: {error}", status=WRONG) from None
    host, port = host_and_port(settings.listen)
    host = _WILDCARDS.get(host, host)
    scheme = "https" if settings.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def upstream_url(settings: Settings) -> str:
    """Give Ollama's URL; raises Failed."""
    try:
        return chosen_upstream(settings, settings.listen)[0]
    except SettingsError as error:
        raise Failed(str(error), status=WRONG) from None


def _shown(url: str) -> str:
    return "(hidden)" if "@" in url else repr(url)


def _policy(text: str) -> tuple[str, str]:
    """Read ROUTE=POLICY as a setting's name and value; what policies there are is the setting's to say."""
    route, _, policy = text.partition("=")
    if route not in OPERATIONS:
        raise argparse.ArgumentTypeError(f"{route!r} is no route; choose from the list in --help")
    return setting_of(route), policy


def _refuse_password(url: str | None) -> None:
    """Refuse a password there: everyone on the machine can read it for as long as the proxy runs."""
    if url is not None and ("@" in url or "password=" in url):
        raise SettingsError(
            "redis_url: (hidden) is not allowed on the command line, where others read it: OCP_REDIS_URL"
        )


def entries(count: int) -> str:
    """Say how many entries there are."""
    return f"{count:,} {'entry' if count == 1 else 'entries'}"
