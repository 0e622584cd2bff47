"""What the other end of a Redis URL looks like, by what it said or how it failed; and what to write instead.

Two connections look at it, one plain and one with TLS. No text has anything that the other end sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto
from typing import Final

from ollama_cache_proxy.policy.record import record


class Heard(Enum):
    """What one connection heard."""

    REDIS = auto()
    HTTP = auto()
    TLS = auto()
    """A record of TLS, over a plain connection."""
    OTHER = auto()
    CLOSED = auto()
    """Closed or reset."""
    SILENT = auto()
    REFUSED = auto()
    UNREACHABLE = auto()
    """No connection in time."""
    UNKNOWN_HOST = auto()
    FORBIDDEN = auto()
    """By the file system: a Unix socket."""
    NO_TLS = auto()
    """What came in the handshake is not TLS."""
    HANDSHAKE = auto()
    """TLS, but neither version nor cipher in common."""
    WANTS_CERTIFICATE = auto()
    AUTHORITY = auto()
    """As the four below: the certificate was not verified."""
    HOST = auto()
    EXPIRED = auto()
    NOT_YET = auto()
    UNVERIFIED = auto()


class Symptom(Enum):
    """What the other end looks like, and what to do; `{place}` is host and port, or the path of a socket."""

    SPEAKS_TLS = ("{place} seems to speak TLS", "write rediss://")
    SPEAKS_PLAIN = ("{place} seems to speak no TLS", "write redis://")
    SPEAKS_HTTP = ("{place} speaks HTTP and is no Redis", "write the host and port of a Redis")
    SPEAKS_OTHER = ("{place} answers, but not as Redis does", "write the host and port of a Redis")
    BREAKS_OFF = (
        "{place} accepts connections and closes them without an answer",
        "see whether a Redis is there, and takes connections from this machine",
    )
    SILENT = (
        "{place} accepts connections and says nothing",
        "see whether a Redis is there, and whether it hangs",
    )
    REFUSES = ("nothing listens at {place}", "start Redis, or write where it is")
    UNREACHABLE = ("{place} takes no connection in time", "see whether it is up, and lets this machine through")
    UNKNOWN_HOST = ("the host of {place} is not known", "write a name that this machine can resolve, or an address")
    FORBIDDEN = ("this user may not open {place}", "let this user write to the socket (unixsocketperm)")
    AUTHORITY = (
        "the certificate of {place} is signed by an authority that is not trusted",
        "name its file with redis_ca",
    )
    HOST = (
        "the certificate of {place} is of another host",
        "write the name that the certificate has, or ?ssl_check_hostname=false",
    )
    EXPIRED = ("the certificate of {place} has expired", "renew it, or set this machine's clock")
    NOT_YET = ("the certificate of {place} is not valid yet", "set this machine's clock, or renew it")
    UNVERIFIED = ("the certificate of {place} could not be verified", "see what is wrong with it: openssl s_client")
    WANTS_CERTIFICATE = (
        "{place} seems to want a certificate of the proxy's own",
        "name it with ?ssl_certfile= and ssl_keyfile=, or set tls-auth-clients no",
    )
    HANDSHAKE = (
        "{place} has no version or cipher of TLS in common with the proxy",
        "see its tls-protocols and tls-ciphers (the proxy takes TLS 1.2 and 1.3)",
    )
    PASSWORD = ("{place} refuses the user or the password", "set OCP_REDIS_URL=redis://USER:PASSWORD@…")
    DATABASE = ("{place} has no database of that number", "write a smaller one, such as /0")
    PROTECTED = ("{place} is in protected mode and has no password", "set one there (requirepass), and in redis_url")
    FULL = ("{place} takes no more clients", "raise its maxclients, or close some")
    CLUSTER = (
        "{place} is one node of a cluster, in which nothing can be stored",
        "write redis+cluster://, and where some of its nodes are",
    )
    NO_CLUSTER = ("{place} is no node of a cluster", "write redis://, or start it with cluster-enabled yes")
    CLUSTER_FAILS = (
        "the cluster at {place} is not in order: some slots have no primary",
        "see which (redis-cli --cluster check), and start or add what is missing (redis-cli --cluster fix)",
    )
    SENTINEL = (
        "{place} is a Sentinel, in which nothing can be stored",
        "write redis+sentinel:// and the name of the primary that it watches, such as /mymaster",
    )
    NO_SENTINEL = (
        "no Sentinel answers at {place}",
        "start one, or write where they are; a password of theirs is ?sentinel_password=",
    )
    NO_SUCH_PRIMARY = (
        "the Sentinels at {place} know no primary of that name",
        "write the name that they know it by, such as /mymaster (redis-cli -p 26379 SENTINEL MASTERS)",
    )

    def __init__(self, looks: str, fix: str) -> None:
        self.looks = looks
        self.fix = fix

    def what(self, place: str) -> str:
        """Return what it looks like."""
        return self.looks.format(place=place)

    def line(self, place: str) -> str:
        """Return one line: what it looks like, and what to do."""
        return f"{self.what(place)}: {self.fix}"


@record
class Sight:
    """What one connection saw."""

    heard: Heard
    handshake: bool = False
    """Whether TLS was agreed on."""


_FIRST: Final = (
    (re.compile(rb"\+PONG\r?\n|-[A-Z]+[ \r]"), Heard.REDIS),
    (re.compile(rb"HTTP/[0-9]"), Heard.HTTP),
    (re.compile(rb"[\x14-\x17]\x03[\x00-\x04]"), Heard.TLS),
)
"""The first bytes of a reply to PING. A record of TLS begins with type and version (RFC 8446, 5.1)."""

_VERIFY_CODES: Final[Mapping[int, Heard]] = {
    **dict.fromkeys((2, 18, 19, 20, 21), Heard.AUTHORITY),
    **dict.fromkeys((62, 64), Heard.HOST),
    9: Heard.NOT_YET,
    10: Heard.EXPIRED,
}
"""OpenSSL's X509_V_ERR_… (x509_vfy.h)."""

_REASONS: Final = (
    (re.compile("CERTIFICATE_REQUIRED|BAD_CERTIFICATE|CERTIFICATE_UNKNOWN"), Heard.WANTS_CERTIFICATE),
    (
        re.compile("HANDSHAKE_FAILURE|PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|NO_SHARED_CIPHER|INSUFFICIENT"),
        Heard.HANDSHAKE,
    ),
    (re.compile("EOF"), Heard.CLOSED),
    (re.compile(""), Heard.NO_TLS),
)
"""Parts of OpenSSL's names of reasons; WRONG_VERSION_NUMBER and RECORD_LAYER_FAILURE are what is not TLS at all."""

_KINDS: Final[Mapping[str, Heard]] = {
    "gaierror": Heard.UNKNOWN_HOST,
    "FileNotFoundError": Heard.REFUSED,
    "PermissionError": Heard.FORBIDDEN,
    "ConnectionRefusedError": Heard.REFUSED,
    "ConnectionError": Heard.CLOSED,
    "EOFError": Heard.CLOSED,
    "TimeoutError": Heard.UNREACHABLE,
    "OSError": Heard.UNREACHABLE,
}
"""By the name of an exception's class or of the first of its bases that is here; other kinds are CLOSED (uvloop's)."""


def heard(first: bytes) -> Heard:
    """Return what replies with these first bytes to a PING; none at all are the end of the connection."""
    if not first:
        return Heard.CLOSED
    return next((kind for pattern, kind in _FIRST if pattern.match(first)), Heard.OTHER)


def heard_in(error: BaseException) -> Heard:
    """Return what an exception says of the other end. Its text is not read, since it may hold what that end sent."""
    names = [kind.__name__ for kind in type(error).__mro__]
    if "SSLCertVerificationError" in names:
        return _VERIFY_CODES.get(getattr(error, "verify_code", 0), Heard.UNVERIFIED)
    if "SSLError" in names:
        reason = str(getattr(error, "reason", "") or "")
        return next(kind for pattern, kind in _REASONS if pattern.search(reason))
    return next((_KINDS[name] for name in names if name in _KINDS), Heard.CLOSED)


_CERTIFICATES: Final[Mapping[Heard, Symptom]] = {
    Heard.AUTHORITY: Symptom.AUTHORITY,
    Heard.HOST: Symptom.HOST,
    Heard.EXPIRED: Symptom.EXPIRED,
    Heard.NOT_YET: Symptom.NOT_YET,
    Heard.UNVERIFIED: Symptom.UNVERIFIED,
    Heard.WANTS_CERTIFICATE: Symptom.WANTS_CERTIFICATE,
    Heard.HANDSHAKE: Symptom.HANDSHAKE,
}
_OTHERS: Final[Mapping[Heard, Symptom]] = {
    Heard.HTTP: Symptom.SPEAKS_HTTP,
    Heard.OTHER: Symptom.SPEAKS_OTHER,
    Heard.TLS: Symptom.SPEAKS_TLS,
    Heard.CLOSED: Symptom.BREAKS_OFF,
    Heard.SILENT: Symptom.SILENT,
    Heard.REFUSED: Symptom.REFUSES,
    Heard.UNREACHABLE: Symptom.UNREACHABLE,
    Heard.UNKNOWN_HOST: Symptom.UNKNOWN_HOST,
    Heard.FORBIDDEN: Symptom.FORBIDDEN,
}
_CLEAR: Final = (Heard.HTTP, Heard.TLS, Heard.REFUSED, Heard.UNKNOWN_HOST, Heard.FORBIDDEN)
"""What a plain connection heard that says enough."""


def symptom(*, tls: bool, plain: Sight, secure: Sight | None) -> Symptom | None:
    """Return what the other end looks like, None for a Redis. `tls` is whether the URL asks for it.

    `secure` is what a connection with TLS saw: one that verifies certificates where the URL asks for TLS, and one that
    does not where it does not; None for a Unix socket.
    """
    if tls and secure is not None:
        if secure.heard is Heard.REDIS:
            return None
        if secure.heard in _CERTIFICATES:
            return _CERTIFICATES[secure.heard]
        if secure.handshake:  # with TLS 1.3, a missing certificate shows after it, and not always as an alert
            return Symptom.WANTS_CERTIFICATE if secure.heard is Heard.CLOSED else _OTHERS[secure.heard]
        return Symptom.SPEAKS_PLAIN if plain.heard is Heard.REDIS else _OTHERS[plain.heard]
    if plain.heard is Heard.REDIS:
        return None
    speaks_tls = secure is not None and (secure.handshake or secure.heard in _CERTIFICATES)
    return Symptom.SPEAKS_TLS if speaks_tls and plain.heard not in _CLEAR else _OTHERS[plain.heard]


_REFUSALS: Final = (
    (re.compile("MOVED|ASK |CROSSSLOT|CLUSTERDOWN|TRYAGAIN"), Symptom.CLUSTER),
    (re.compile("WRONGPASS|NOAUTH"), Symptom.PASSWORD),
    (re.compile("DB index"), Symptom.DATABASE),
    (re.compile("DENIED"), Symptom.PROTECTED),
    (re.compile("max number of clients"), Symptom.FULL),
)
"""How Redis says what it refuses (its source: networking.c, acl.c, db.c, cluster.c)."""
_REFUSAL_KINDS: Final[Mapping[str, Symptom]] = {
    "MovedError": Symptom.CLUSTER,
    "AskError": Symptom.CLUSTER,
    "ClusterCrossSlotError": Symptom.CLUSTER,
    "ClusterDownError": Symptom.CLUSTER,
    "TryAgainError": Symptom.CLUSTER,
    "AuthenticationError": Symptom.PASSWORD,
}
"""By redis-py's classes, which leave the first word out of the text."""


def refused(error: BaseException) -> Symptom | None:
    """Return what Redis's refusal of a lookup says of it; None where it says nothing that a person can change here."""
    kinds = (_REFUSAL_KINDS.get(kind.__name__) for kind in type(error).__mro__)
    found = next((kind for kind in kinds if kind is not None), None)
    return found or next((kind for pattern, kind in _REFUSALS if pattern.match(str(error)[:200])), None)


def of_mode(info: Mapping[str, object]) -> Symptom | None:
    """Return what INFO says of a server's mode: `redis_mode`, or `server_mode` in Valkey; None for the usual one."""
    mode = str(info.get("redis_mode") or info.get("server_mode") or "")
    return {"sentinel": Symptom.SENTINEL, "cluster": Symptom.CLUSTER}.get(mode)
