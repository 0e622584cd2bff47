"""The URL of a Redis, read by a table: each part and each option is honoured or refused, none is ignored.

No error repeats anything of a URL but names of options that the table has: with a bare `/`, `?`, `#` or `@` in it, a
password can be any part of the URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, NoReturn, TypeAlias
from urllib.parse import unquote_to_bytes

from ollama_cache_proxy.policy.record import record

_SENTINEL: Final = "+sentinel"
_CLUSTER: Final = "+cluster"
SCHEMES: Final = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
_DEFAULT_HOST: Final = "localhost"
_DEFAULT_PORT: Final = 6379
_SENTINEL_PORT: Final = 26_379
_MAX_PORT: Final = 65_535
_MAX_DATABASE: Final = 2**31 - 1
_MAX_CONNECTIONS: Final = 1024

_URL: Final = re.compile(r"([A-Za-z+]+)://([^/?#]*)([^?#]*)(?:\?([^#]*))?")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%\w+)?\]|[^\[\]:,%]*)(?::([0-9]{1,5}))?")
_DATABASE: Final = re.compile(r"[0-9]{1,10}")
_PRIMARY: Final = re.compile(r"[A-Za-z0-9._-]{1,256}")
"""What a Sentinel takes as the name of a primary (its source: sentinel.c)."""
_CLIENT_NAME: Final = re.compile(r"[!-~]{1,100}")
"""Redis takes no blanks and no control characters in it (CLIENT SETNAME)."""
_FLAGS: Final[Mapping[str, bool]] = {
    **dict.fromkeys(("1", "true", "yes", "t", "y"), True),
    **dict.fromkeys(("0", "false", "no", "f", "n"), False),
}
_TLS_VERSIONS: Final[Mapping[str, int]] = {"771": 771, "772": 772, "1.2": 771, "1.3": 772}
"""TLS 1.2 and 1.3 by their numbers on the wire (RFC 8446, 4.2.1), as redis-py takes them, and by their names."""

Value: TypeAlias = str | int | bool
Place: TypeAlias = tuple[str, int]
"""A host and its port."""


@record
class RedisAddress:
    """Where a Redis is, and how to connect to it. Its text has no password."""

    tls: bool = False
    host: str = ""
    """Empty for a Unix socket, behind Sentinels, and in a cluster."""
    port: int = _DEFAULT_PORT
    sentinels: tuple[Place, ...] = ()
    """The Sentinels to ask where the primary is; none where that is known."""
    primary: str = ""
    """The name by which they know it."""
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    nodes: tuple[Place, ...] = ()
    """Some nodes of a cluster, which know the others; none where it is no cluster."""
    socket: str = ""
    """The path of a Unix socket."""
    database: int = 0
    username: str | None = None
    password: str | None = None
    options: Mapping[str, Value]
    """The other options, by their names in the URL, which are redis-py's."""

    def __repr__(self) -> str:
        """Return where it is, and no more."""
        return f"RedisAddress({self.place})"

    @property
    def place(self) -> str:
        """Host and port, those of all Sentinels, or the path of the socket."""
        return self.socket or ",".join(map(_written, self.sentinels or self.nodes or ((self.host, self.port),)))


def _written(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def public_url(url: str) -> str:
    """Return a URL without user, password and options, whatever the URL is.

    What is before the last `@` is left out, and of the rest all from the first `?` or `#` on.
    """
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() not in SCHEMES:
        return "(hidden)"
    return f"{scheme.lower()}://{re.split('[?#]', rest.rpartition('@')[2], maxsplit=1)[0]}"


def redis_address(url: str) -> RedisAddress:
    """Return what a URL says. Raise ValueError, whose text names the part that is wrong, and what is right."""
    scheme, found, rest = url.partition("://")
    if not found or scheme.lower() not in SCHEMES:
        _refuse(
            "must begin with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster:// (with TLS: rediss+…)"
        )
    if any(letter.isspace() or not letter.isprintable() for letter in rest):
        _refuse("must have blanks and control characters percent-encoded (a blank is %20)")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        _refuse("must have / ? # and @ in user and password percent-encoded, as %2F, %3F, %23 and %40")
    match = _URL.fullmatch(url)
    if match is None:
        _refuse("must have no #, or have it percent-encoded as %23")
    user, _, place = authority.rpartition("@")
    scheme, path = scheme.lower(), match[3]
    tls, behind = scheme.startswith("rediss"), scheme.endswith(_SENTINEL)
    options = _options(match[4] or "", tls=tls, sentinel=behind)
    username, password = _login(user, options)
    host, port, socket, primary = "", _DEFAULT_PORT, "", ""
    sentinels: tuple[Place, ...] = ()
    nodes: tuple[Place, ...] = ()
    if scheme == "unix":
        socket, path = _socket(place, path), ""
    elif behind:
        sentinels = _places(place, _SENTINEL_PORT, "redis+sentinel://127.0.0.1:26379/mymaster/0")
        primary, path = _primary(path)
    elif scheme.endswith(_CLUSTER):
        nodes = _places(place, _DEFAULT_PORT, "redis+cluster://127.0.0.1:7000,127.0.0.1:7001")
    else:
        host, port = _server(place)
    database = _database(path)
    if nodes and (database or options.get("db")):
        _refuse("must have no database but 0: a cluster has no other")
    if database is not None and "db" in options:
        _refuse("must have the database once, as the path or as the option db")
    own = {name: str(options.pop(name)) for name in ("sentinel_username", "sentinel_password") if name in options}
    return RedisAddress(
        tls=tls,
        host=host,
        port=port,
        sentinels=sentinels,
        nodes=nodes,
        primary=primary,
        socket=socket,
        database=int(options.pop("db", database or 0)),
        username=username,
        password=password,
        options=options,
        **own,
    )


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _login(user: str, options: dict[str, Value]) -> tuple[str | None, str | None]:
    """Return user and password, from before the host or from the options, which lose them; None for none."""
    given = []
    for name, text in zip(("username", "password"), user.partition(":")[::2], strict=True):
        if text and name in options:
            _refuse(f"must have the {name} once, before the host or as an option")
        value = str(options.pop(name, "")) or _decoded(f"the {name}", text)
        given.append(value or None)
    return given[0], given[1]


def _decoded(part: str, text: str) -> str:
    with suppress(UnicodeDecodeError):  # and raise outside of it: it has the password
        return unquote_to_bytes(text).decode()
    _refuse(f"{part} must be UTF-8 where it is percent-encoded")


def _socket(place: str, path: str) -> str:
    if place or not path.strip("/"):
        _refuse("must have three slashes and the path of a socket, such as unix:///run/redis.sock")
    return _decoded("the path", path)


def _server(text: str) -> Place:
    place = _place(text, _DEFAULT_PORT)
    if place is None:
        _refuse("must have one host and a port from 1 to 65535, such as redis://127.0.0.1:6379/0")
    return place[0] or _DEFAULT_HOST, place[1]


def _places(text: str, usual: int, such_as: str) -> tuple[Place, ...]:
    places = [place for each in text.split(",") if (place := _place(each, usual)) is not None and place[0]]
    if len(places) <= text.count(","):
        _refuse(f"must have hosts and a port from 1 to 65535, such as {such_as}")
    return tuple(places)


def _place(text: str, usual: int) -> Place | None:
    """Return host and port, with the usual port where there is none; None for what is neither."""
    match = _HOST.fullmatch(text)
    if match is None or not 0 < int(match[2] or usual) <= _MAX_PORT:
        return None
    return match[1].strip("[]").lower(), int(match[2] or usual)


def _primary(path: str) -> tuple[str, str]:
    """Return the name of the primary that a path begins with, and the rest of the path."""
    name, _, rest = path.removeprefix("/").partition("/")
    if _PRIMARY.fullmatch(name) is None:
        _refuse(
            "must have the name that the Sentinels know the primary by, such as redis+sentinel://h1,h2,h3/mymaster/0"
        )
    return name, rest


def _database(path: str) -> int | None:
    """Return the number that a path names, None where it names none."""
    text = path.removeprefix("/")
    if not text:
        return None
    if _DATABASE.fullmatch(text) is None or int(text) > _MAX_DATABASE:
        _refuse("the database (the path) must be a number, such as /0")
    return int(text)


def _options(query: str, *, tls: bool, sentinel: bool) -> dict[str, Value]:
    """Return the options of a query as redis-py takes them."""
    found: dict[str, Value] = {}
    for part in query.split("&") if query else ():
        name, _, text = part.partition("=")
        option = _OPTIONS.get(name)
        if option is None:
            known = ", ".join(sorted(name for name, option in _OPTIONS.items() if not isinstance(option, str)))
            _refuse(f"has an option that the proxy does not know; it knows {known}")
        if isinstance(option, str):
            _refuse(f"the option {name} is not for the proxy: {option}")
        if name in found:
            _refuse(f"must have the option {name} once")
        if "+" in text:
            _refuse(f"the option {name} must have + percent-encoded as %2B (a blank is %20)")
        if name.startswith("ssl_") and not tls:
            _refuse(f"the option {name} is for TLS: write rediss://")
        if name.startswith("sentinel_") and not sentinel:
            _refuse(f"the option {name} is for Sentinels: write redis{_SENTINEL}://")
        value = option.read(_decoded(f"the option {name}", text))
        if value is None:
            _refuse(f"the option {name} must be {option.allowed}")
        found[name] = value
    return found


@record
class _Option:
    """An option that is honoured."""

    read: Callable[[str], Value | None]
    """Return its value; None for a text that is not allowed."""
    allowed: str


def _whole(least: int, most: int) -> _Option:
    def read(text: str) -> int | None:
        return int(text) if _DATABASE.fullmatch(text) is not None and least <= int(text) <= most else None

    return _Option(read=read, allowed=f"a number from {least} to {most}")


def _choice(values: Mapping[str, Value]) -> _Option:
    return _Option(read=lambda text: values.get(text.lower()), allowed=f"one of {', '.join(values)}")


_TEXT: Final = _Option(read=lambda text: text or None, allowed="set, or left out")
_FLAG: Final = _choice(_FLAGS)
_DEADLINES: Final = "store_deadline is how long it waits for Redis"
_BYTES: Final = "it reads what Redis stores as bytes"
_AGAIN: Final = "it decides when to try again"

_OPTIONS: Final[Mapping[str, _Option | str]] = {
    "db": _whole(0, _MAX_DATABASE),
    "username": _TEXT,
    "password": _TEXT,
    "sentinel_username": _TEXT,
    "sentinel_password": _TEXT,
    "client_name": _Option(
        read=lambda text: text if _CLIENT_NAME.fullmatch(text) else None, allowed="of ASCII, without blanks"
    ),
    "max_connections": _whole(1, _MAX_CONNECTIONS),
    "socket_keepalive": _FLAG,
    "protocol": _Option(read=lambda text: 2 if text == "2" else None, allowed="2: the proxy speaks RESP2"),
    "ssl_ca_certs": _TEXT,
    "ssl_ca_path": _TEXT,
    "ssl_certfile": _TEXT,
    "ssl_keyfile": _TEXT,
    "ssl_password": _TEXT,
    "ssl_cert_reqs": _choice({name: name for name in ("none", "optional", "required")}),
    "ssl_check_hostname": _FLAG,
    "ssl_min_version": _choice(_TLS_VERSIONS),
    "ssl_ciphers": _TEXT,
    "decode_responses": _BYTES,
    "encoding": _BYTES,
    "encoding_errors": _BYTES,
    "socket_timeout": _DEADLINES,
    "socket_connect_timeout": _DEADLINES,
    "timeout": _DEADLINES,
    "retry": _AGAIN,
    "retry_on_timeout": _AGAIN,
    "retry_on_error": _AGAIN,
    "health_check_interval": "it probes Redis itself",
    "socket_read_size": "it reads by its own size",
    "legacy_responses": "it speaks RESP2",
    "host": "name the host before the path",
    "port": "name the port before the path",
    "path": "name the path of a socket as unix:///run/redis.sock",
    "ssl_ca_data": "name a file, as ssl_ca_certs",
    "ssl_include_verify_flags": "it verifies certificates by Python's defaults",
    "ssl_exclude_verify_flags": "it verifies certificates by Python's defaults",
}
"""What is honoured, and what is refused with its reason: redis-py 8 takes each of these options, but for those of
Sentinels, which are ours."""
