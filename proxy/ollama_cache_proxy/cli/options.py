"""What commands share: help with examples, and options that several of them take."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from ollama_cache_proxy.cli.ending import WRONG, Failed
from ollama_cache_proxy.service.settings import (
    DEFAULT_LISTEN,
    DEFAULT_PORT,
    FORMER_LISTEN,
    OPERATIONS,
    POLICIES,
    Settings,
    SettingsError,
    chosen_upstream,
    http_url,
    load,
    setting_of,
    url_of,
)


class _Formatter(argparse.HelpFormatter):
    """A formatter that fills paragraphs and leaves examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


def command(  # noqa: PLR0913 - the parts of a command
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    help: str,  # noqa: A002 - argparse's own name
    description: str,
    examples: tuple[str, ...],
) -> argparse.ArgumentParser:
    """Add a command; an example is what follows `ollama-cache-proxy`, with an optional comment after `  # `."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog="\n".join(["examples:", *(f"  ollama-cache-proxy {example}" for example in examples)]),
        formatter_class=_Formatter,
        allow_abbrev=False,  # one that is cut short would be taken for another one
    )
    parser.set_defaults(run=run)
    return parser


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the options that are settings."""
    parser.add_argument(
        "--listen", metavar="HOST:PORT", help=f"address to listen on (default {DEFAULT_LISTEN}; OCP_LISTEN)"
    )
    add_upstream(parser, several=True)
    parser.add_argument("--workers", metavar="N", help="worker processes that share one Redis (default 1; OCP_WORKERS)")
    parser.add_argument(
        "--store",
        choices=("auto", "redis", "private", "memory"),
        help="where entries are stored (default: a Redis that is named, else a private one, else memory; OCP_STORE)",
    )
    parser.add_argument(
        "--redis-url", metavar="URL", help="Redis or Valkey (default: start a private one; OCP_REDIS_URL)"
    )
    parser.add_argument(
        "--redis-ca",
        metavar="FILE",
        help="authorities that may sign its certificate, in PEM (default: the system's; OCP_REDIS_CA)",
    )
    parser.add_argument(
        "--keep",
        action=argparse.BooleanOptionalAction,
        help="keep the entries of a private server over restarts (default: yes; OCP_KEEP)",
    )
    parser.add_argument(
        "--store-dir",
        metavar="DIR",
        help="where they are kept (default: ~/.cache/ollama-cache-proxy; OCP_STORE_DIR)",
    )
    parser.add_argument(
        "--cache",
        metavar="OPERATION=POLICY",
        action="append",
        type=_policy,
        help=f"the cache policy of an operation; repeatable. Operations: {', '.join(OPERATIONS)};"
        f" policies: {', '.join(POLICIES)} (OCP_CACHE_CHAT=always and so on)",
    )
    parser.add_argument(
        "--cache-streams",
        action=argparse.BooleanOptionalAction,
        help="cache streams of cached operations too (OCP_CACHE_STREAMS)",
    )
    parser.add_argument(
        "--lanes",
        choices=("off", "interactive-first"),
        help="whether chats and single texts go to Ollama before lists of texts (default: off; OCP_LANES)",
    )
    parser.add_argument(
        "--record-requests",
        metavar="DIR",
        help="write requests that may be cached, prompts included, to this folder of your own, for warm"
        " (OCP_RECORD_REQUESTS)",
    )
    add_config(parser)
    parser.add_argument("--log", choices=("auto", "plain", "colour", "json"), help="log format (OCP_LOG)")
    parser.add_argument(
        "--development", action=argparse.BooleanOptionalAction, help="log every request, with the reason for a bypass"
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the option for the settings file."""
    parser.add_argument("--config", metavar="FILE", help="settings file in TOML (OCP_CONFIG)")


def add_upstream(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add the option for the URL of Ollama, which may be repeated where there may be `several`."""
    more, action = ("; repeatable, for several", "append") if several else ("", "store")
    parser.add_argument(
        "--upstream",
        metavar="URL",
        action=action,
        help=f"Ollama (default OLLAMA_HOST, else port 11434 of this machine; OCP_UPSTREAM){more}",
    )


def add_url(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that connects to a running proxy."""
    parser.add_argument(
        "--url", metavar="URL", help="the running proxy (default OCP_URL, else the address in the settings)"
    )
    add_config(parser)


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option for output that programs read."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings on the command line, None for those that are not there. Raise SettingsError."""
    names = (
        *("listen", "upstream", "workers", "store", "redis_url", "redis_ca", "keep", "store_dir", "cache_streams"),
        *("lanes", "record_requests", "log", "development"),
    )
    found = {name: getattr(arguments, name, None) for name in names}
    upstreams = found.pop("upstream") or []
    if isinstance(upstreams, str):
        upstreams = [upstreams]
    for name, url in (("redis_url", found["redis_url"]), *(("upstream", url) for url in upstreams)):
        _refuse_password(name, url)
    if len(upstreams) == 1:  # also where a file has tables of several
        found |= {"upstream": upstreams[0], "upstreams": ()}
    elif upstreams:
        found["upstreams"] = tuple(upstreams)
    return found | dict(getattr(arguments, "cache", None) or ())


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return the settings that the command runs with. Raise Failed."""
    try:
        return load(arguments.config, given(arguments))
    except SettingsError as error:
        raise Failed(str(error), status=WRONG) from None


def proxy_url(arguments: argparse.Namespace, settings: Settings) -> str:
    """Return the URL of the running proxy. Raise Failed.

    Where nothing names an address, a proxy that answers at the former default is taken if none answers at the new one.
    """
    for name, value in (("--url", arguments.url), ("OCP_URL", os.environ.get("OCP_URL"))):
        if value:
            try:
                return http_url(value)
            except ValueError as error:
                raise Failed(f"{name}: {_shown(value)} is not allowed: {error}", status=WRONG) from None
    tls = settings.tls_cert is not None
    url = url_of(settings.listen, tls=tls)
    return url if "listen" in settings.model_fields_set else _or_former(url, url_of(FORMER_LISTEN, tls=tls))


def _or_former(url: str, former: str) -> str:
    """Return `url`, or `former` if a proxy answers there alone, and say so."""
    from ollama_cache_proxy.service.port_holder import Holder, holder_of

    if holder_of(url) is Holder.PROXY or holder_of(former) is not Holder.PROXY:
        return url
    sys.stderr.write(
        f"ollama-cache-proxy: the proxy at {former} answers, the default before 0.3 (now {DEFAULT_PORT});"
        " from 0.4 on it has to be named: --url or OCP_URL\n"
    )
    return former


def upstream_url(settings: Settings) -> str:
    """Return the URL of Ollama. Raise Failed."""
    try:
        return chosen_upstream(settings, settings.listen)[0]
    except SettingsError as error:
        raise Failed(str(error), status=WRONG) from None


def _shown(url: str) -> str:
    return "(hidden)" if set("@?") & set(url) else repr(url)


def _policy(text: str) -> tuple[str, str]:
    """Return the name and value of the setting in OPERATION=POLICY; the settings check the policy."""
    operation, _, policy = text.partition("=")
    if operation not in OPERATIONS:
        raise argparse.ArgumentTypeError(f"{operation!r} is not an operation; --help lists them")
    return setting_of(operation), policy


def _refuse_password(name: str, url: str | None) -> None:
    """Refuse a password on the command line: everyone on the machine can read it while the proxy runs."""
    if url is not None and ("@" in url or "password=" in url):
        raise SettingsError(
            f"{name}: (hidden) is not allowed on the command line, where others can read it; set OCP_{name.upper()}"
        )


def entries(count: int | None) -> str:
    """Return a number of entries as text; None for one that is not known."""
    if count is None:
        return "entries (number not known)"
    return f"{count:,} {'entry' if count == 1 else 'entries'}"
