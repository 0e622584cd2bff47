"""One typed model of every setting: TOML file < environment (OCP_*) < command line.

`load` returns the settings, or raises a `SettingsError` of one line that names the setting, the value and what is
allowed.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ollama_cache_proxy.policy import redis_url as redis_urls
from ollama_cache_proxy.policy.audit_sampling import read_rate
from ollama_cache_proxy.policy.callers import callers
from ollama_cache_proxy.policy.credentials import may_carry_credentials
from ollama_cache_proxy.policy.host_names import host_names
from ollama_cache_proxy.policy.lane_rules import batches
from ollama_cache_proxy.policy.lifetimes import FOREVER
from ollama_cache_proxy.service.durations import Duration
from ollama_cache_proxy.service.prefix_tables import PrefixTable, PrefixTables, chosen_rules
from ollama_cache_proxy.service.tables import Caching, CategoryTables, KindOfLifetime, ModelTables, Table, shown
from ollama_cache_proxy.service.texts import Texts
from ollama_cache_proxy.service.upstream_credentials import authorization, authorization_in, without_user
from ollama_cache_proxy.service.upstream_tables import UpstreamTable, UpstreamTables, as_values, checked

DEFAULT_PORT: Final = 11494
"""Free on machines with Ollama: docs/decisions/0028-default-port.md."""
DEFAULT_LISTEN: Final = f"127.0.0.1:{DEFAULT_PORT}"
FORMER_LISTEN: Final = "127.0.0.1:11435"
"""The default up to 0.2; since 0.33 Ollama's macOS application has that port. Still tried in 0.3, not from 0.4 on."""
DEFAULT_UPSTREAM: Final = "http://127.0.0.1:11434"
_MIB: Final = 1024 * 1024
_MAX_PORT: Final = 65_535

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Bytes = Annotated[int, Field(ge=1024, le=1 << 40)]


class SettingsError(Exception):
    """A setting is invalid; the text is one line for the person who set it, and contains no secret."""


class Settings(BaseSettings):
    """All settings. Times are seconds, sizes are bytes."""

    model_config = SettingsConfigDict(env_prefix="OCP_", extra="forbid", frozen=True, env_ignore_empty=True)

    listen: str = Field(DEFAULT_LISTEN, description="Address and port to listen on, as HOST:PORT.")
    allowed_hosts: Texts = Field(
        (),
        description="Host names that a listener on loopback answers to besides its own: box.example, or *.ts.net for"
        " all below it.",
    )
    path_prefix: str = Field(
        "", description="A path before every other, such as /ollama, under which requests are served too."
    )
    upstream: str | None = Field(
        None,
        description="Ollama's URL; else OLLAMA_HOST, else http://127.0.0.1:11434. A user and password in it are"
        " upstream_authorization.",
    )
    upstreams: UpstreamTables = Field(
        (),
        description="Several Ollamas, in place of upstream: a table for each, [[upstreams]], with its url, and name,"
        " weight, models, labels and epoch (docs/operations.md); in the environment URLs with commas between, or JSON.",
    )
    changes_to: Literal["home", "all"] = Field(
        "home",
        description="Which of several Ollamas a pull, create, copy, delete or upload goes to, without X-Upstream. home:"
        " the one that has the model, else the first. all: every one.",
    )
    upstream_authorization: SecretStr | None = Field(
        None,
        description="Credentials for Ollama: the whole value of Authorization, such as Bearer and a token. Not on the"
        " command line.",
    )
    upstream_authorization_file: str | None = Field(
        None, description="File that holds it, such as a container's secret, unless upstream_authorization is set."
    )
    upstream_authorization_for: Literal["looks", "all"] = Field(
        "looks",
        description="What they are for. looks: the proxy's own requests (version, models). all: also requests of"
        " clients that have no Authorization of their own.",
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Worker processes. Several need a Redis that they share, and divide some limits among them."
    )
    tls_cert: str | None = Field(None, description="PEM file with the listener's certificate, for https.")
    tls_key: str | None = Field(None, description="PEM file with the certificate's key, if it is not in tls_cert.")
    upstream_ca: str | None = Field(
        None, description="PEM file of the authorities that may sign Ollama's certificate; else the system's."
    )
    store: Literal["auto", "redis", "private", "memory"] = Field(
        "auto",
        description="Where entries are stored. auto: redis_url, REDIS_URL, a private server or memory, in this order.",
    )
    redis_url: SecretStr | None = Field(
        None,
        description="Redis or Valkey, by a redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// URL.",
    )
    redis_ca: str | None = Field(
        None, description="PEM file of the authorities that may sign Redis' certificate (rediss://); else the system's."
    )
    store_deadline: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] = Field(
        0.5,
        description="Seconds that a request waits for Redis at most. It waits for less, 0.25 s and more, where Redis"
        " usually answers sooner.",
    )
    keep: bool = Field(
        default=True,
        description="Keep the entries of a private server in store_dir, so that they are known after a restart; false:"
        " nothing is written.",
    )
    store_dir: str | None = Field(
        None,
        description="Folder in which a private server keeps its entries; by default ollama-cache-proxy in"
        " XDG_CACHE_HOME, else in ~/.cache.",
    )
    store_stop_timeout: Seconds = Field(
        10.0, description="Seconds that a private server may take at the end to write its files."
    )
    seal_key_file: str | None = Field(
        None,
        description="File with the key that seals entries before they are stored in a Redis or private server"
        " (ollama-cache-proxy seal-key FILE makes one); without it they are stored in the clear.",
    )
    private_redis_bytes: Bytes = Field(512 * _MIB, description="Size limit of a private server.")
    memory_bytes: Bytes = Field(256 * _MIB, description="Size limit of the memory store.")
    hot_bytes: Annotated[int, Field(ge=0)] = Field(
        64 * _MIB,
        description="Size limit of the hot tier, a copy of Redis' entries in memory; 0: none. Divided among workers.",
    )
    ttl_completion: Duration = Field(
        3600, description="How long completions are fresh: seconds, or a text such as 12h."
    )
    ttl_embedding: Duration = Field(86_400, description="How long embeddings are fresh.")
    max_ttl: Duration = Field(604_800, description="The largest X-Cache-TTL that a request may ask for.")
    lifetime: KindOfLifetime = Field(
        "fixed",
        description="What ends stored embeddings. fixed: ttl_embedding, from storing. idle: ttl_embedding without a"
        " hit, or max_lifetime. until-evicted: the store, when it needs room. One with X-Cache-TTL is fixed.",
    )
    max_lifetime: Duration = Field(
        7_776_000, description="How long after it was stored an idle entry ends, hits or not."
    )
    models: ModelTables = Field(
        {},
        description="What differs for a model, a table for each: ttl, lifetime, and cache (a policy), as in"
        ' [models."all-minilm"]; JSON in the environment.',
    )
    categories: CategoryTables = Field(
        {},
        description="The same for a category that requests name (X-Cache-Category), as in [categories.docs]. It takes"
        " precedence over that of the model.",
    )
    max_request_bytes: Bytes = Field(8 * _MIB, description="Larger requests bypass the cache.")
    max_entry_bytes: Bytes = Field(_MIB, description="Larger completions are not stored.")
    max_list_bytes: Bytes = Field(64 * _MIB, description="Larger embeddings responses are not stored.")
    max_buffered_bytes: Bytes = Field(
        256 * _MIB,
        description="Bytes of requests and responses in memory; above it they are not cached. Divided among workers.",
    )
    max_misses: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None,
        description="Misses of one model in flight; above it 503 with Retry-After. Off by default."
        " Divided among workers.",
    )
    collapse_across_proxies: bool = Field(
        default=True,
        description="Ask Ollama once for equal requests that wait at the same time at several proxies or workers with"
        " one Redis.",
    )
    epoch: str = Field(
        "",
        description="Part of every key; change it when Ollama's settings, its environment or hardware change."
        " When a model gets another context length, the proxy notices.",
    )
    credential_fields: Texts = Field(
        (),
        description="More request fields that a check in front of Ollama reads: part of every key, as Authorization,"
        " X-API-Key and the other usual ones always are.",
    )
    placeholder_credentials: Texts = Field(
        (),
        description="Bearer tokens that are no credentials, such as ollama: they count as no Authorization in the key.",
    )
    cache_generate: Caching = Field("always", description="Cache policy of /api/generate.")
    cache_embed: Caching = Field("always", description="Cache policy of /api/embed.")
    cache_embeddings: Caching = Field("always", description="Cache policy of /api/embeddings.")
    cache_v1_embeddings: Caching = Field("always", description="Cache policy of /v1/embeddings.")
    cache_chat: Caching = Field("off", description="Cache policy of /api/chat.")
    cache_v1_chat: Caching = Field("off", description="Cache policy of /v1/chat/completions.")
    cache_v1_completions: Caching = Field("off", description="Cache policy of /v1/completions.")
    cache_v1_responses: Caching = Field("off", description="Cache policy of /v1/responses.")
    cache_v1_messages: Caching = Field("off", description="Cache policy of /v1/messages.")
    cache_v1_count_tokens: Caching = Field("off", description="Cache policy of /v1/messages/count_tokens.")
    cache_dated_templates: bool = Field(
        default=True,
        description="Cache responses of models whose template may write the date; false: they bypass the cache.",
    )
    cache_v1_transcriptions: Caching = Field("off", description="Cache policy of /v1/audio/transcriptions.")
    cache_streams: bool = Field(default=False, description="Record streams too, if their endpoint is cached.")
    stream_pace: Literal["at-once", "recorded", "line"] = Field(
        "at-once",
        description="How a recorded stream is replayed: at once, at the pace that it had, or line by line, 2 ms apart.",
    )
    line_pace_for: Texts = Field(
        (), description="Operations (chat) and clients (agent:node) whose streams are replayed line by line."
    )
    stable_prefix_rules: PrefixTables = Field(
        {},
        description="Rules for stable_prefix of your own, a table for each: path, pattern and client, as in"
        " [stable_prefix_rules.NAME] (docs/prompts.md); JSON in the environment.",
    )
    stable_prefix: Texts = Field(
        (),
        description="Rules by which counters and marks in the beginning of prompts are pinned, so that Ollama's prompt"
        " cache can be used: claude-code, and those of stable_prefix_rules. Such requests are not cached.",
    )
    ignore_no_cache: Texts = Field(
        (),
        description="Operations (v1-chat) and clients (agent:Go-http-client/) whose streams are served from the cache"
        " although they say no-cache. no-store always holds.",
    )
    unbuffered_streams: bool = Field(
        default=False, description="Tell an nginx in front not to hold streams back (X-Accel-Buffering: no)."
    )
    prompt_watch: bool = Field(
        default=True,
        description="See how much of each prompt's beginning Ollama had worked on before, and what changes there, by"
        " fingerprints in memory; false: nothing of prompts is looked at.",
    )
    prompt_slots: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="How many requests of a model Ollama works on at a time: its OLLAMA_NUM_PARALLEL."
    )
    explain: bool = Field(
        default=False,
        description="Store fingerprints of a request's fields with its entry, so that explain can name what differs.",
    )
    record_requests: str | None = Field(
        None,
        description="Folder to which requests that may be cached are written, prompts included, for warm; those with"
        " credentials are not. Nobody else may be able to enter it.",
    )
    record_requests_bytes: Annotated[int, Field(ge=_MIB, le=1 << 40)] = Field(
        64 * _MIB, description="Size limit of that folder; beyond it the oldest requests go."
    )
    audit: str = Field(
        "off",
        description="Ask Ollama again for some of the hits, while it is idle, and compare: 1% of them, 100%, or 4 a"
        " minute. Wrong entries are deleted and reported.",
    )
    audit_completions: bool = Field(
        default=False, description="Audit completions too, at temperature 0 or with a seed; else vectors alone."
    )
    estimated_counts: bool = Field(
        default=False,
        description="Answer a single text known from a list with its share of that list's token count, an estimate.",
    )
    lanes: Literal["off", "interactive-first"] = Field(
        "off",
        description="interactive-first: chats, streams and single texts go to Ollama before lists of texts and what"
        " lanes_batch_for names, which wait for them.",
    )
    lanes_batch_for: Texts = Field(
        (),
        description="What else is a batch: operations (embeddings), categories (category:docs) and clients"
        " (agent:python-requests/).",
    )
    lanes_trust_priority: bool = Field(
        default=False,
        description="Let a request's Priority (RFC 9218) make it interactive, with u=0 to u=2; false: it may only make"
        " it a batch, with u=4 to u=7.",
    )
    lanes_interactive_slots: Annotated[int, Field(ge=1, le=1024)] = Field(
        8, description="Interactive requests that Ollama has at a time; others wait. Divided among workers."
    )
    lanes_batch_slots: Annotated[int, Field(ge=1, le=1024)] = Field(
        2,
        description="Batches that Ollama has at a time; one for a minute after each interactive request. Divided among"
        " workers.",
    )
    lanes_batch_share: Annotated[float, Field(ge=0.01, le=0.9, allow_inf_nan=False)] = Field(
        0.1, description="Share of the time that batches get while interactive requests would leave them none."
    )
    lanes_part_seconds: Annotated[float, Field(ge=0.001, le=10, allow_inf_nan=False)] = Field(
        0.02,
        description="How long a part of a list may keep Ollama within a minute after an interactive request; at least"
        " one text is asked for. Otherwise it is half a second.",
    )
    lanes_max_waiting: Annotated[int, Field(ge=1, le=100_000)] = Field(
        256, description="Requests that may wait in each lane; above it 503 with Retry-After. Divided among workers."
    )
    lanes_max_wait: Seconds = Field(600.0, description="How long a request may wait; above it 503 with Retry-After.")
    linger: Seconds = Field(60.0, description="How long embeddings go on after the last client has left.")
    connect_timeout: Seconds = Field(5.0, description="How long to wait for Ollama to accept a connection.")
    upstream_timeout: Seconds | None = Field(
        None,
        description="How long to wait for the head of Ollama's response; off by default, and for /api/create,"
        " /api/pull, /api/push, /api/copy, /api/delete and POST /api/blobs/…, which may say nothing until they are"
        " done.",
    )
    head_timeout: Seconds = Field(20.0, description="How long a client may take to send the head of a request.")
    body_timeout: Seconds = Field(60.0, description="How long a client may pause within the body of a request.")
    keep_alive: Seconds | None = Field(
        None,
        description="How long an idle connection of a client stays open; off by default, as with Ollama. In any case"
        " idle ones make room when under a tenth of max_connections is free.",
    )
    drain_timeout: Seconds = Field(30.0, description="How long requests in progress may take after SIGTERM.")
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        4096, description="Client connections at a time. Divided among workers."
    )
    admin_token: SecretStr | None = Field(
        None, description="Token for clearing and listing entries on a listener that is not on loopback."
    )
    log: Literal["auto", "plain", "colour", "json"] = Field("auto", description="Format of the log.")
    log_requests: Literal["auto", "on", "off"] = Field(
        "auto",
        description="One line per request. auto: on a terminal, with JSON, in development. Faults are always logged.",
    )
    development: bool = Field(default=False, description="Log more: bypasses and their reasons.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources, the strongest first."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=_config_file)

    @field_validator("listen")
    @classmethod
    def _listen(cls, value: str) -> str:
        host_and_port(value)
        return value

    @field_validator("allowed_hosts")
    @classmethod
    def _allowed_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        host_names(value)
        return value

    @field_validator("path_prefix")
    @classmethod
    def _path_prefix(cls, value: str) -> str:
        prefix = value.rstrip("/")
        if prefix and _PREFIX.fullmatch(prefix) is None:
            text = "must be a path of letters, digits, - and _, such as /ollama, that none of Ollama's begins with"
            raise ValueError(text)
        return prefix

    @field_validator("upstream")
    @classmethod
    def _upstream(cls, value: str | None) -> str | None:
        if value is None:
            return None
        plain, given = without_user(value)
        url = http_url(plain)
        return value if given else url  # `load` takes the credentials out

    @field_validator("upstreams")
    @classmethod
    def _upstreams(cls, tables: tuple[UpstreamTable, ...]) -> tuple[UpstreamTable, ...]:
        return checked(tuple(table.model_copy(update={"url": http_url(table.url)}) for table in tables))

    @field_validator("upstream_authorization")
    @classmethod
    def _upstream_authorization(cls, value: SecretStr | None) -> SecretStr | None:
        return None if value is None else SecretStr(authorization(value.get_secret_value()))

    @field_validator("audit")
    @classmethod
    def _audit(cls, value: str) -> str:
        read_rate(value)
        return value

    @field_validator("line_pace_for", "ignore_no_cache")
    @classmethod
    def _callers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        callers(value)
        return value

    @field_validator("stable_prefix_rules")
    @classmethod
    def _stable_prefix_rules(cls, value: dict[str, PrefixTable]) -> dict[str, PrefixTable]:
        chosen_rules((), value)
        return value

    @field_validator("stable_prefix")
    @classmethod
    def _stable_prefix(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        chosen_rules(value, info.data.get("stable_prefix_rules", {}))
        return value

    @field_validator("lanes_batch_for")
    @classmethod
    def _lanes_batch_for(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        batches(value)
        return value

    @field_validator("credential_fields")
    @classmethod
    def _credential_fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(may_carry_credentials, value)):
            text = (
                "must be names of request fields that reach Ollama, such as X-Team-Key; none of one hop or of framing"
            )
            raise ValueError(text)
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: SecretStr | None) -> SecretStr | None:
        if secret(value):
            redis_urls.redis_address(secret(value))
        return value


_config_file: Path | None = None


def load(config: str | None, overrides: dict[str, Any]) -> Settings:
    """Return the settings; `config` is the path of a TOML file, `overrides` the command line (None: not given)."""
    global _config_file  # noqa: PLW0603 - pydantic-settings builds its sources from the class alone
    path = config or os.environ.get("OCP_CONFIG") or None
    _config_file = Path(path) if path else None
    if _config_file is not None and not _config_file.is_file():
        text = f"config: {path} is not a file"
        raise SettingsError(text)
    try:
        settings = Settings(**{name: value for name, value in overrides.items() if value is not None})
        return _with_credentials(_with_one_upstream(settings))
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"config: {path} is not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"config: {path} cannot be read: {error.strerror}") from None
    finally:
        _config_file = None


def _with_one_upstream(settings: Settings) -> Settings:
    """Return the settings with a single table of `upstreams` as `upstream`, and check what goes with several."""
    if len(settings.upstreams) > 1 and read_rate(settings.audit) is not None:
        text = f"audit: {settings.audit!r} is not allowed with several upstreams"
        raise SettingsError(text)
    if len(settings.upstreams) != 1:
        return settings
    (table,) = settings.upstreams
    epoch = settings.epoch if table.epoch is None else table.epoch
    return settings.model_copy(update={"upstream": table.url, "epoch": epoch, "upstreams": ()})


def _with_credentials(settings: Settings) -> Settings:
    """Return the settings with the credentials for Ollama in `upstream_authorization` alone, wherever they were."""
    url, in_url = without_user(settings.upstream or "")
    file = settings.upstream_authorization_file
    given = secret(settings.upstream_authorization) or ("" if file is None else _in_file(file))
    if given and in_url:
        text = "upstream_authorization: (hidden) is not allowed beside a user in upstream: choose one"
        raise SettingsError(text)
    if not (given or in_url):
        if settings.upstream_authorization_for == "all":
            text = "upstream_authorization_for: 'all' is not allowed without an upstream_authorization"
            raise SettingsError(text)
        return settings
    values: dict[str, Any] = {"upstream_authorization": SecretStr(given or in_url)}
    return settings.model_copy(update=values | ({"upstream": http_url(url)} if in_url else {}))


def _in_file(path: str) -> str:
    try:
        return authorization_in(path)
    except ValueError as error:
        raise SettingsError(f"upstream_authorization_file: {path!r} is not allowed: {error}") from None
    except OSError as error:
        raise SettingsError(f"upstream_authorization_file: {path} cannot be read: {error.strerror}") from None


def packed(settings: Settings) -> dict[str, Any]:
    """Return the settings, secrets included, as JSON values for a worker process."""
    return {name: _packed(value) for name, value in settings}


def _packed(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple) and value and isinstance(value[0], UpstreamTable):
        return as_values(value)
    return shown(value) if isinstance(value, dict) else value


def unpacked(values: dict[str, Any]) -> Settings:
    """Return the settings from packed values; the environment and the file are not read again."""
    return Settings(**values)


def share(settings: Settings) -> Settings:
    """Return the settings of one worker: limits of the whole proxy are divided by the number of workers."""
    shared = {"max_connections": 1, "max_misses": 1, "max_buffered_bytes": 1024, "hot_bytes": 0}
    shared |= dict.fromkeys(("lanes_interactive_slots", "lanes_batch_slots", "lanes_max_waiting"), 1)
    shares = {
        name: max(least, value // settings.workers)
        for name, least in shared.items()
        if (value := getattr(settings, name)) is not None
    }
    return settings.model_copy(update=shares)


def sources(config: str | None, overrides: dict[str, Any]) -> dict[str, str]:
    """Return the source of every setting; the file must be one that `load` has read."""
    path = config or os.environ.get("OCP_CONFIG")
    in_file = tomllib.loads(Path(path).read_text("utf-8")) if path else {}
    in_environment = {name.lower() for name, value in os.environ.items() if value}

    def source(name: str) -> str:
        if overrides.get(name) is not None:
            return "command line"
        if f"ocp_{name}" in in_environment:
            return "environment"
        return "file" if name in in_file else "default"

    return {name: source(name) for name in Settings.model_fields}


def chosen_upstream(settings: Settings, own: str) -> tuple[str, str]:
    """Return Ollama's URL and its source: `upstream`, `OLLAMA_HOST` or `default`; raise SettingsError.

    `own` is the HOST:PORT of the proxy itself, which is never chosen. With the default `listen`, OLLAMA_HOST may still
    name the former default: it was set so for clients of the proxy, and is not chosen either.
    """
    if settings.upstreams:
        return chosen_upstreams(settings, own)[0].url, "upstream"
    if settings.upstream is not None:
        if same_listener(settings.upstream, own):
            text = f"upstream: {settings.upstream!r} is not allowed: it is the proxy's own address"
            raise SettingsError(text)
        return settings.upstream, "upstream"
    named = os.environ.get("OLLAMA_HOST", "")
    if "@" in named:
        text = "OLLAMA_HOST: (hidden) is not allowed: Ollama's own tools take no user there; set OCP_UPSTREAM instead"
        raise SettingsError(text)
    if named.strip():
        try:
            url = http_url(ollama_host(named))
        except ValueError as error:
            shown = "(hidden)" if "?" in named else repr(named)
            raise SettingsError(f"OLLAMA_HOST: {shown} is not allowed: {error}") from None
        former = (FORMER_LISTEN,) if settings.listen == DEFAULT_LISTEN else ()
        if not any(same_listener(url, listener) for listener in (own, *former)):
            return url, "OLLAMA_HOST"
    return DEFAULT_UPSTREAM, "default"


def chosen_upstreams(settings: Settings, own: str) -> tuple[UpstreamTable, ...]:
    """Return the tables of several Ollamas, empty where there is one; raise SettingsError. `own` is as above."""
    looped = next((table.url for table in settings.upstreams if same_listener(table.url, own)), None)
    if looped is not None:
        text = f"upstreams: {looped!r} is not allowed: it is the proxy's own address"
        raise SettingsError(text)
    return settings.upstreams


def longest_lifetime(settings: Settings) -> int:
    """Return for how many seconds after storing an entry may be served, whatever it is."""
    kinds = kinds_of_lifetime(settings)
    if "until-evicted" in kinds:
        return FOREVER
    times = [settings.ttl_completion, settings.ttl_embedding, *(table.ttl or 0 for table in _tables(settings))]
    return max(*times, settings.max_lifetime if "idle" in kinds else 0)


def kinds_of_lifetime(settings: Settings) -> set[str | None]:
    """Return the kinds of lifetime that entries may have; None among them where a table names none."""
    return {settings.lifetime, *(table.lifetime for table in _tables(settings))}


def _tables(settings: Settings) -> tuple[Table, ...]:
    return (*settings.models.values(), *settings.categories.values())


def named_redis(settings: Settings) -> str:
    """Return the URL of the Redis that is to be the store, empty if none is set; raise SettingsError."""
    if settings.store not in ("auto", "redis"):
        return ""
    url = secret(settings.redis_url)
    if not url:
        url = os.environ.get("REDIS_URL", "").strip()
        try:
            redis_urls.redis_address(url or "redis://")
        except ValueError as error:
            raise SettingsError(f"REDIS_URL: (hidden) is not allowed: {error}") from None
    if settings.store == "redis" and not url:
        text = "store: 'redis' is not allowed without a redis_url"
        raise SettingsError(text)
    return url


def public_url(url: str) -> str:
    """Return a Redis URL without user, password and options, whatever the URL is."""
    return redis_urls.public_url(url)


def secret(value: SecretStr | None) -> str:
    """Return the text of a secret, empty if there is none."""
    return "" if value is None else value.get_secret_value().strip()


_SECRETS: Final = frozenset({"redis_url", "admin_token", "upstream_authorization"})
_PREFIX: Final = re.compile(r"(?!/(?:api|v1|cache|metrics|healthz|readyz)(?:/|$))(?:/[A-Za-z0-9_-]+)+")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LISTEN: Final = re.compile(r"(?P<host>\[[^\[\]]*\]|[^:\[\]]*):(?P<port>[0-9]{1,5})")


def _one_line(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    name = ".".join(str(part) for part in problem["loc"]) or "settings"
    if problem["type"] == "extra_forbidden":
        return f"{name}: there is no such setting; config/ollama-cache-proxy.toml lists them"
    given = problem["input"]
    hidden = name in _SECRETS or not isinstance(given, str | int | float) or "@" in str(given)
    hidden = hidden or (name.startswith("upstream") and "?" in str(given))  # a query may hold a token
    value = "(hidden)" if hidden else repr(given)
    allowed = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{name}: {value} is not allowed: {allowed}"


def setting_of(operation: str) -> str:
    """Return the name of the setting that holds the policy of an operation."""
    return "cache_" + operation.replace("-", "_")


POLICIES: Final[tuple[str, ...]] = get_args(Caching)
OPERATIONS: Final = tuple(
    name.removeprefix("cache_").replace("_", "-")
    for name, field in Settings.model_fields.items()
    if get_args(field.annotation) == POLICIES
)
"""The operations that have a policy."""


def host_and_port(text: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; raise ValueError. An empty host means every address."""
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > _MAX_PORT:
        raise ValueError(
            f"must be HOST:PORT with a port from 0 to 65535, such as {DEFAULT_LISTEN} or [::1]:{DEFAULT_PORT}"
        )
    return match["host"].strip("[]"), int(match["port"])


def url_of(listen: str, *, tls: bool) -> str:
    """Return the URL at which this machine reaches a listener on HOST:PORT, on loopback if it has every address."""
    host, port = host_and_port(listen)
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - replaced, not bound
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def http_url(text: str) -> str:
    """Return an http(s) URL with its port and without a trailing slash; raise ValueError if it is invalid."""
    message = (
        "must be an http:// or https:// URL of host and port, without user or query, such as http://127.0.0.1:11434"
    )
    try:
        parts = urlsplit(text.rstrip("/"))
        port = parts.port
    except ValueError:
        raise ValueError(message) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or set(text) & set("?#@ "):
        raise ValueError(message)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or {'http': 80, 'https': 443}[parts.scheme]}{parts.path}"


def ollama_host(value: str) -> str:
    """Return the URL that Ollama's own tools connect to for this OLLAMA_HOST (`envconfig/config.go`, 0.24 to 0.33)."""
    text = value.strip().strip("\"'").strip()
    scheme, found, rest = text.partition("://")
    if not found:
        scheme, rest = ("https", "ollama.com:443") if text == "ollama.com" else ("http", text)
    default = {"http": "80", "https": "443"}.get(scheme, "11434") if found else "11434"
    authority, slash, path = rest.partition("/")
    host, port = _split(authority)
    host = host or "127.0.0.1"
    if port is None or _PORT.fullmatch(port) is None or int(port) > _MAX_PORT:
        port = default
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"  # noqa: PLR2004 - IP's own number
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{slash}{path}".rstrip("/")


def _split(text: str) -> tuple[str, str | None]:
    """Return host and port as Go splits them: a bare IPv6 address has no port."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host, rest[1:] if rest.startswith(":") else None
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, port
    return text, None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a listener on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def same_listener(url: str, listen: str) -> bool:
    """Return whether a URL names the listener itself."""
    host, port = host_and_port(listen)
    try:
        parts = urlsplit(http_url(url))
    except ValueError:
        return False
    if parts.port != port or port == 0:
        return False
    theirs = _addresses(parts.hostname or "")
    ours = _addresses(host)
    everywhere = host in ("", "0.0.0.0", "::")  # noqa: S104 - compared, not bound
    return bool(theirs & ours) or (everywhere and any(is_loopback(address) for address in theirs))


def _addresses(host: str) -> set[str]:
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host or None, None)}
    except OSError:
        return {host}
