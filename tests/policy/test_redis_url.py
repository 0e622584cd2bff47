"""What a Redis URL may say: each part and option is honoured or refused by its name, and no text repeats a secret."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from ollama_cache_proxy.policy.redis_url import RedisAddress, public_url, redis_address

OPERATIONS = Path(__file__).parents[2] / "docs/operations.md"
SECRET = "canary-of-a-password"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", {"host": "localhost", "port": 6379}),
        ("redis://h", {"host": "h"}),
        ("REDIS://H:1/", {"host": "h", "port": 1}),
        ("redis://XX", {"host": "xx"}),
        ("unix:///X", {"socket": "/X"}),
        ("redis://h:1/15", {"host": "h", "port": 1, "database": 15}),
        ("redis://h/0?", {"host": "h"}),
        ("redis://h/2147483647", {"host": "h", "database": 2147483647}),
        ("redis://h?db=3", {"host": "h", "database": 3}),
        ("redis://[::1]:7/2", {"host": "::1", "port": 7, "database": 2}),
        ("redis://[fe80::1%eth0]", {"host": "fe80::1%eth0"}),
        ("rediss://h", {"host": "h", "tls": True}),
        ("redis://:pass@h", {"host": "h", "password": "pass"}),
        ("redis://user@h", {"host": "h", "username": "user"}),
        ("redis://user:pass@h", {"host": "h", "username": "user", "password": "pass"}),
        ("redis://:@h", {"host": "h"}),
        ("redis://:a%2Fb%3Fc%23d%40e%3Af%25@h", {"host": "h", "password": "a/b?c#d@e:f%"}),
        ("redis://:a@b:c@h:1", {"host": "h", "port": 1, "password": "a@b:c"}),
        ("redis://:a+b[c]@h", {"host": "h", "password": "a+b[c]"}),
        ("redis://:%C3%BC\N{LATIN SMALL LETTER U WITH DIAERESIS}%zz@h", {"host": "h", "password": "üü%zz"}),
        ("redis://h?username=u&password=a%2Bb", {"host": "h", "username": "u", "password": "a+b"}),
        ("redis://u@h?password=p", {"host": "h", "username": "u", "password": "p"}),
        ("unix:///run/a%20b.sock?db=1", {"socket": "/run/a b.sock", "database": 1}),
        ("unix://u:p@/run/redis.sock", {"socket": "/run/redis.sock", "username": "u", "password": "p"}),
        ("redis://h?client_name=proxy-1", {"host": "h", "options": {"client_name": "proxy-1"}}),
        ("redis://h?max_connections=20", {"host": "h", "options": {"max_connections": 20}}),
        ("redis://h?socket_keepalive=False", {"host": "h", "options": {"socket_keepalive": False}}),
        ("redis://h?protocol=2", {"host": "h", "options": {"protocol": 2}}),
        ("rediss://h?ssl_ca_certs=/ca.pem", {"host": "h", "tls": True, "options": {"ssl_ca_certs": "/ca.pem"}}),
        ("rediss://h?ssl_cert_reqs=none", {"host": "h", "tls": True, "options": {"ssl_cert_reqs": "none"}}),
        ("rediss://h?ssl_check_hostname=no", {"host": "h", "tls": True, "options": {"ssl_check_hostname": False}}),
        ("rediss://h?ssl_min_version=771", {"host": "h", "tls": True, "options": {"ssl_min_version": 771}}),
        ("rediss://h?ssl_min_version=772", {"host": "h", "tls": True, "options": {"ssl_min_version": 772}}),
        ("rediss://h?ssl_min_version=1.2", {"host": "h", "tls": True, "options": {"ssl_min_version": 771}}),
        ("rediss://h?ssl_min_version=1.3", {"host": "h", "tls": True, "options": {"ssl_min_version": 772}}),
    ],
)
def test_what_a_url_says(url: str, expected: dict[str, object]) -> None:
    assert redis_address(url) == RedisAddress(**{"options": {}, **expected})


def test_some_nodes_of_a_cluster_are_named() -> None:
    url = "REDISS+Cluster://u:p@One,two:7,[::1]/0?ssl_min_version=1.3"
    assert redis_address(url) == RedisAddress(
        tls=True,
        nodes=(("one", 6379), ("two", 7), ("::1", 6379)),
        username="u",
        password="p",
        options={"ssl_min_version": 772},
    )
    assert public_url(url) == "rediss+cluster://One,two:7,[::1]/0"
    assert redis_address("redis+cluster://h").nodes == (("h", 6379),)


def test_sentinels_are_named_with_the_primary_that_they_watch() -> None:
    url = "REDISS+Sentinel://u:p@One,two:7,[::1]/my-master.1/3?sentinel_username=a&sentinel_password=b&client_name=c"
    assert redis_address(url) == RedisAddress(
        tls=True,
        port=6379,
        sentinels=(("one", 26379), ("two", 7), ("::1", 26379)),
        primary="my-master.1",
        sentinel_username="a",
        sentinel_password="b",
        database=3,
        username="u",
        password="p",
        options={"client_name": "c"},
    )
    assert redis_address("redis+sentinel://h/m").database == redis_address("redis+sentinel://h/m?db=0").database == 0
    assert public_url(url) == "rediss+sentinel://One,two:7,[::1]/my-master.1/3"


@pytest.mark.parametrize("text", ["1", "true", "yes", "t", "y", "YES", "0", "false", "no", "f", "n", "False"])
def test_a_flag_is_written_in_any_usual_way(text: str) -> None:
    is_on = text.lower()[0] in "1ty"
    assert redis_address(f"redis://h?socket_keepalive={text}").options == {"socket_keepalive": is_on}


@pytest.mark.parametrize(
    ("name", "least", "most"), [("db", 0, 2**31 - 1), ("max_connections", 1, 1024)], ids=["db", "max_connections"]
)
def test_a_number_is_within_its_bounds(name: str, least: int, most: int) -> None:
    for value in (least, most):
        address = redis_address(f"redis://h?{name}={value}")
        assert (address.database if name == "db" else address.options[name]) == value
    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"the option {name} must be a number from {least} to {most}"):
            redis_address(f"redis://h?{name}={value}")


def test_a_port_and_a_name_are_within_their_bounds() -> None:
    assert redis_address("redis://h:65535").port == 65_535
    assert redis_address(f"redis://h?client_name={'x' * 100}").options == {"client_name": "x" * 100}
    with pytest.raises(ValueError, match="client_name must be of ASCII"):
        redis_address(f"redis://h?client_name={'x' * 101}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "/run/x.pem") for name in ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")),
        *(("ssl_cert_reqs", value) for value in ("none", "optional", "required")),
        ("ssl_password", SECRET),
        ("ssl_ciphers", "ECDHE"),
    ],
)
def test_an_option_of_tls_is_honoured_as_it_is_written(name: str, value: str) -> None:
    assert redis_address(f"rediss://h?{name}={value}").options == {name: value}


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h:1/2", "h:1"),
        ("redis://[::1]:7", "[::1]:7"),
        ("unix:///run/a.sock", "/run/a.sock"),
        ("redis+sentinel://h,[::1]:7/m", "h:26379,[::1]:7"),
        ("redis+cluster://h,[::1]:7", "h:6379,[::1]:7"),
    ],
)
def test_the_place_is_what_a_person_would_write(url: str, place: str) -> None:
    assert redis_address(url).place == place


OPTIONS = {
    "db": "-1",
    "max_connections": "many",
    "socket_keepalive": "perhaps",
    "protocol": "3",
    "client_name": "two%20words",
    "username": "",
    "password": "",
    "decode_responses": "true",
    "encoding": "latin-1",
    "encoding_errors": "ignore",
    "socket_timeout": "5",
    "socket_connect_timeout": "5",
    "timeout": "5",
    "retry": "3",
    "retry_on_timeout": "true",
    "retry_on_error": "x",
    "health_check_interval": "10",
    "socket_read_size": "1",
    "legacy_responses": "true",
    "host": "x",
    "port": "1",
    "path": "/x",
    "ssl_ca_data": "x",
    "ssl_include_verify_flags": "x",
    "ssl_exclude_verify_flags": "x",
    "ssl_cert_reqs": "perhaps",
    "ssl_check_hostname": "",
    "ssl_min_version": "1.1",
    "ssl_ca_certs": "",
}


@pytest.mark.parametrize(("name", "value"), OPTIONS.items())
def test_an_option_that_is_not_honoured_is_named(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=rf"^the option {name} .*") as caught:
        redis_address(f"rediss://h?{name}={value}")
    assert value not in ("x", "true") or f"={value}" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis", "must begin with redis://"),
        ("redis:/h", "must begin with redis://"),
        ("http://h", "must begin with redis://"),
        ("redis+sentinel://h", "must have the name"),
        ("redis+sentinel://h/", "must have the name"),
        ("redis+sentinel://h/my%20master", "must have the name"),
        ("redis+sentinel://h/mymaster/x", "the database"),
        ("redis+sentinel://h/mymaster/0/1", "the database"),
        ("redis+sentinel://h/mymaster/1?db=1", "the database once"),
        ("redis+sentinel:///mymaster", "must have hosts"),
        ("redis+cluster://", "must have hosts"),
        ("redis+cluster://h,", "must have hosts"),
        ("redis+cluster://h:0", "must have hosts"),
        ("redis+cluster://h/1", "no database but 0"),
        ("redis+cluster://h?db=1", "no database but 0"),
        ("redis+cluster://h?sentinel_password=x", "is for Sentinels"),
        ("redis+cluster://h?ssl_ciphers=x", "is for TLS"),
        ("redis+sentinel://h,/mymaster", "must have hosts"),
        ("redis+sentinel://h,h:0/mymaster", "must have hosts"),
        ("redis+sentinel://h/m?ssl_ciphers=x", "is for TLS"),
        ("redis://h?sentinel_password=x", "is for Sentinels"),
        ("rediss://h?sentinel_username=x", "is for Sentinels"),
        ("unix+sentinel://h/m", "must begin with redis://"),
        ("redis-sentinel://h", "must begin with redis://"),
        ("redis://h/mydb", "the database"),
        ("redis://h/-1", "the database"),
        ("redis://h/0/1", "the database"),
        ("redis://h//1", "the database"),
        ("redis://h/ 1", "blanks"),
        ("redis://h/1_0", "the database"),
        ("redis://h/99999999999", "the database"),
        ("redis://h/\N{ARABIC-INDIC DIGIT ONE}", "the database"),
        ("redis://h/2147483648", "the database"),
        ("redis://h/4294967296", "the database"),
        ("redis://h/1?db=2", "the database once"),
        ("redis://h/0?db=0", "the database once"),
        ("redis://h:0", "one host and a port"),
        ("redis://h:65536", "one host and a port"),
        ("redis://h:port", "one host and a port"),
        ("redis://h:", "one host and a port"),
        ("redis://h:1,i:2/0", "one host and a port"),
        ("redis://h,i/0", "one host and a port"),
        ("redis://::1/0", "one host and a port"),
        ("redis://[h/0", "one host and a port"),
        ("redis://h#0", "no #"),
        ("redis://h\n", "blanks"),
        ("redis://h\0", "blanks"),
        ("redis://h?password=a b", "blanks"),
        ("redis://u:p@h?password=q", "the password once"),
        ("redis://u@h?username=v", "the username once"),
        ("redis://h?password=a+b", "the option password must have \\+"),
        ("redis://:%FF@h", "the password must be UTF-8"),
        ("redis://h?db=1&db=1", "the option db once"),
        ("redis://h?ssl_ca_certs=/ca.pem", "the option ssl_ca_certs is for TLS: write rediss://"),
        ("unix://h/run/redis.sock", "three slashes"),
        ("unix://", "three slashes"),
        ("unix:///", "three slashes"),
        ("unix://run?db=0", "three slashes"),
    ],
)
def test_a_url_that_is_not_honoured_is_refused_by_its_part(url: str, named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        redis_address(url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("query", ["unknown=1", "=", "&", "DB=1", "decode%5Fresponses=true", "x"])
def test_an_option_that_nobody_knows_is_refused_without_its_name(query: str) -> None:
    with pytest.raises(ValueError, match="an option that the proxy does not know; it knows client_name, db, "):
        redis_address(f"redis://h?{query}")


PASSWORDS = [
    f"{before}{sign}{after}" for sign in "/?#@:" for before, after in (("1234", SECRET), (SECRET, "1"), ("", SECRET))
]
PASSWORDS += [
    f"1234/{SECRET}+x==",
    f"a&{SECRET}",
    f"{SECRET}%",
    f"a b{SECRET}",
    f"[{SECRET}",
    f"{SECRET}\\",
    f"\N{SNOWMAN}/{SECRET}",
]
PLACES = [
    "{}://u:{}@h:1/0",
    "{}://:{}@h",
    "{}://{}@h:1",
    "{}://{}@/run/x.sock",
    "{}://u:{}@h:1/0?db=1",
    "{}://h?password={}",
    "{}://{}",
    "{}://h/{}",
    "{}://h#{}",
]


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("scheme", ["redis", "rediss", "unix", "http"])
def test_a_password_shows_nowhere_however_it_is_written(scheme: str, password: str) -> None:
    """It is honoured whole, or the URL is refused."""
    for place in PLACES:
        url = place.format(scheme, password)
        address, text = read(url)
        assert SECRET not in text
        if address is not None and ("@" in place or "password=" in place):
            assert SECRET in str(address.username) + str(address.password)
            assert SECRET not in public_url(url) + address.place + repr(address)


def read(url: str) -> tuple[RedisAddress | None, str]:
    """What a URL says, and what is said of it."""
    try:
        return redis_address(url), ""
    except ValueError as error:
        return None, f"{error} {error.__cause__!r} {error.__context__!r}"


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_that_is_percent_encoded_is_honoured_whole(password: str) -> None:
    for place in ("redis://u:{}@h:1/0", "unix://:{}@/run/x.sock", "rediss://h?password={}"):
        assert redis_address(place.format(quote(password, safe=""))).password == password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:1/2", "redis://h:1/2"),
        ("REDIS://u:p@h:1/2?db=1#x", "redis://h:1/2"),
        (f"redis://u:1234/{SECRET}@h:1/0", "redis://h:1/0"),
        (f"redis://:p@{SECRET}/x@h:1/0", "redis://h:1/0"),
        (f"redis://:?{SECRET}@h", "redis://h"),
        (f"unix://u:{SECRET}@/s?password=x", "unix:///s"),
        (f"http://{SECRET}", "(hidden)"),
        (SECRET, "(hidden)"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert public_url(url) == shown


def test_every_option_that_is_honoured_is_documented() -> None:
    with pytest.raises(ValueError, match="it knows") as caught:
        redis_address("rediss://h?unknown=1")
    known = str(caught.value).partition("it knows ")[2].split(", ")
    assert len(known) == 18
    assert [name for name in known if f"`{name}`" not in OPERATIONS.read_text("utf-8")] == []


def test_its_text_is_where_it_is_and_no_more() -> None:
    assert repr(redis_address("redis://u:p@h:1/2?client_name=x")) == "RedisAddress(h:1)"
