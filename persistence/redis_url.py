"""The URL of a Redis store: where the server is, and how sessions are kept there. Pure.

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE][?OPTIONS]     rediss://...   the same over TLS
    unix://[USER[:PASSWORD]@]/PATH/OF/SOCKET[?db=DATABASE&OPTIONS]
    redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...][/DATABASE]?service=NAME[&OPTIONS]
                                                                   rediss+sentinel://...   the same over TLS

The first are the schemes of redis-py; `redis+unix:`, as other clients say, is taken for `unix:`. With `+sentinel` the
hosts are sentinels, which are asked where the primary of a service is; user and password are the primary's. The options
are ours, and those of redis-py's own that this store leaves to the operator: unknown ones are refused, because
redis-py's include retries and timeouts, on which this store's promises rest.

    level=redis|replicated    replicas=N     prefix=TEXT    unsafe=eviction,no-aof
    ssl_ca_certs=FILE         ssl_certfile=FILE             ssl_keyfile=FILE
    service=NAME              sentinel_username=TEXT        sentinel_password=TEXT

A URL holds a password: nothing here repeats one, in no error and no repr.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import attrs

from persistence.store import StoreUrlInvalid

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
SCHEMES = ("redis", "rediss", "unix", "redis+unix", *SENTINEL_SCHEMES)
EXPECTED = (
    '"redis://HOST:PORT/DATABASE", "rediss://...", "unix:///PATH/OF/SOCKET"'
    ' or "redis+sentinel://HOST:PORT,HOST:PORT/DATABASE?service=NAME"'
)
LEVELS = ("redis", "replicated")
EVICTION, NO_AOF = "eviction", "no-aof"  # what `unsafe` can allow

PORT = 6379
SENTINEL_PORT = 26379
SENTINELS_MAX = 16
PREFIX = "rr"
REPLICAS_MAX = 16

_UNSAFE = (EVICTION, NO_AOF)
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
PLAIN_OPTIONS = ("db", "level", "replicas", "prefix", "unsafe", "service")  # that are no secrets, wherever they stand
_SENTINEL_OPTIONS = ("service", "sentinel_username", "sentinel_password")
_OPTIONS = ("db", "level", "replicas", "prefix", "unsafe", *_FILES, *_SENTINEL_OPTIONS)
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_SERVICE = re.compile(r"[A-Za-z0-9_.-]{1,255}")  # what a sentinel takes for a name
# Before the authority, its user and password, its hosts, and the rest.
_AUTHORITY = re.compile(r"([a-z+]+://)([^/?#]*@)?([^/?#@]*)(.*)", re.DOTALL)
_HOST_AND_PORT = re.compile(r"(?:\[(?P<numeric>[0-9A-Fa-f:.]+)\]|(?P<named>[\w.-]+))(?::(?P<port>[0-9]{1,5}))?")


@attrs.frozen
class Endpoint:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@attrs.frozen(kw_only=True)
class RedisPlace:
    """Where a Redis store is, and what it promises there."""

    scheme: str  # redis, rediss, unix, redis+sentinel or rediss+sentinel
    host: str = ""
    port: int = PORT
    path: str = ""  # of a socket: in place of host and port
    database: int = 0
    username: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    level: str = "redis"
    replicas: int = 0  # which must have a commit before it is acknowledged
    prefix: str = PREFIX  # what all keys begin with: for tenants of one server
    unsafe: frozenset[str] = frozenset()  # what else would be refused at the start
    files: Mapping[str, str] = attrs.field(factory=dict)  # of certificates, by redis-py's name
    sentinels: tuple[Endpoint, ...] = ()  # who knows where the primary is: in place of host and port
    service: str = ""  # which primary they are asked for
    sentinel_username: str | None = attrs.field(default=None, repr=False)
    sentinel_password: str | None = attrs.field(default=None, repr=False)

    @property
    def over_tls(self) -> bool:
        """Whether its servers, and sentinels, are spoken to over TLS."""
        return self.scheme.startswith("rediss")

    @property
    def shown(self) -> str:
        """The URL, without users, passwords and what is about certificates."""
        where = self.path or ",".join(map(str, self.sentinels)) or str(Endpoint(self.host, self.port))
        database = f"/{self.database}" if self.database and not self.path else ""
        options = [f"service={self.service}"] if self.service else []
        options += [f"db={self.database}"] if self.database and self.path else []
        options += [f"level=replicated&replicas={self.replicas}"] if self.replicas else []
        options += [f"prefix={self.prefix}"] if self.prefix != PREFIX else []
        return f"{self.scheme}://{where}{database}{'?' if options else ''}{'&'.join(options)}"


def is_redis_url(url: str) -> bool:
    """Say whether a store URL is for this store."""
    scheme, colon, _ = url.partition(":")
    return bool(colon) and scheme in SCHEMES


def read_redis_url(url: str) -> RedisPlace:
    """Read a store URL.

    Raises:
      StoreUrlInvalid: with what is expected, and nothing of what the URL says.
    """
    parts, hosts, options = _parsed(url)
    unix = parts.scheme in ("unix", "redis+unix")
    sentinels = _sentinels(hosts) if parts.scheme in SENTINEL_SCHEMES else ()
    host, path = ("", "") if sentinels else _where(parts, unix=unix)
    level, replicas = _level(options)
    return RedisPlace(
        scheme="unix" if unix else parts.scheme,
        host=host,
        port=parts.port or PORT,
        path=path,
        database=_database(parts, options, unix=unix),
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        level=level,
        replicas=replicas,
        prefix=_prefix(options),
        unsafe=_unsafe(options),
        files={name: options[name] for name in _FILES if options.get(name)},
        sentinels=sentinels,
        service=_service(options, wanted=bool(sentinels)),
        sentinel_username=options.get("sentinel_username") or None,
        sentinel_password=options.get("sentinel_password") or None,
    )


def with_sentinel_password(url: str, password: str) -> str:
    """Add the password of sentinels to a store URL that needs one and has none.

    Args:
      password: "" if there is none. Another store's URL is given back as it is.
    """
    if not password or url.partition(":")[0] not in SENTINEL_SCHEMES or "sentinel_password" in _parsed(url)[2]:
        return url
    return f"{url}&sentinel_password={quote(password, safe='')}"


def _parsed(url: str) -> tuple[SplitResult, str, Mapping[str, str]]:
    """Give a URL's parts, its sentinels as they stand there, and its options."""
    hosts = ""
    try:
        if url.partition(":")[0] in SENTINEL_SCHEMES:
            url, hosts = _without_hosts(url)
        parts = urlsplit(url)
        parts.port  # noqa: B018 (it is read when it is asked for)
        found = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), max_num_fields=20)
    except ValueError:  # its text quotes parts of the URL
        raise _invalid("the URL cannot be understood") from None
    options = dict(found)
    if len(options) < len(found) or parts.fragment or "\0" in unquote(url):
        raise _invalid("an option is there twice, or there is a #fragment or a zero byte")
    if not options.keys() <= set(_OPTIONS):
        raise _invalid(f"there is an option beside {', '.join(_OPTIONS)}")
    return parts, hosts, options


def _without_hosts(url: str) -> tuple[str, str]:
    """Take several hosts out of a URL: `urlsplit` knows one."""
    found = _AUTHORITY.fullmatch(url)
    if found is None:
        raise _invalid("the URL cannot be understood")
    scheme, user, hosts, rest = found.groups()
    return f"{scheme}{user or ''}{rest}", hosts


def _sentinels(hosts: str) -> tuple[Endpoint, ...]:
    named = hosts.split(",")
    if not hosts or len(named) > SENTINELS_MAX:
        raise _invalid(f"name 1 to {SENTINELS_MAX} sentinels, with commas between them")
    return tuple(_sentinel(number, text) for number, text in enumerate(named, 1))


def _sentinel(number: int, text: str) -> Endpoint:
    found = _HOST_AND_PORT.fullmatch(text)
    port = int(found["port"] or SENTINEL_PORT) if found is not None else 0
    if found is None or not 1 <= port <= 65535:
        raise _invalid(f"sentinel {number} is not HOST or HOST:PORT with a port from 1 to 65535")
    return Endpoint(found["numeric"] or found["named"], port)


def _service(options: Mapping[str, str], *, wanted: bool) -> str:
    if not wanted:
        if not options.keys().isdisjoint(_SENTINEL_OPTIONS):
            raise _invalid(f"{', '.join(_SENTINEL_OPTIONS)} are for redis+sentinel:// and rediss+sentinel://")
        return ""
    service = options.get("service", "")
    if not _SERVICE.fullmatch(service):
        raise _invalid("service is the name under which the sentinels watch the primary, as in ?service=mymaster")
    return service


def _where(parts: SplitResult, *, unix: bool) -> tuple[str, str]:
    host = parts.hostname or ""
    if not unix:
        return host or "localhost", ""
    path = unquote(parts.path)
    if host or not path.startswith("/") or path == "/":
        raise _invalid("a socket is named by its whole path, with three slashes: unix:///run/redis.sock")
    return "", path


def _database(parts: SplitResult, options: Mapping[str, str], *, unix: bool) -> int:
    text = options.get("db") or ("" if unix else parts.path.strip("/")) or "0"
    if not text.isdecimal() or not text.isascii() or len(text) > 5:
        raise _invalid("the database is a number")
    return int(text)


def _level(options: Mapping[str, str]) -> tuple[str, int]:
    level = options.get("level", "redis")
    if level not in LEVELS:
        raise _invalid(f"level is one of {', '.join(LEVELS)}")
    text = options.get("replicas", "1")
    if level == "redis":
        if "replicas" in options:
            raise _invalid("replicas are counted with level=replicated")
        return level, 0
    if not text.isdecimal() or not text.isascii() or len(text) > 2 or not 1 <= int(text) <= REPLICAS_MAX:
        raise _invalid(f"replicas is a number from 1 to {REPLICAS_MAX}")
    return level, int(text)


def _prefix(options: Mapping[str, str]) -> str:
    prefix = options.get("prefix", PREFIX)
    if not _PREFIX.fullmatch(prefix):
        raise _invalid("prefix has letters, digits and _ . : -, at most 64")
    return prefix


def _unsafe(options: Mapping[str, str]) -> frozenset[str]:
    unsafe = frozenset(word for word in options.get("unsafe", "").split(",") if word)
    if not unsafe <= set(_UNSAFE):
        raise _invalid(f"unsafe lists some of {', '.join(_UNSAFE)}")
    return unsafe


def _invalid(problem: str) -> StoreUrlInvalid:
    return StoreUrlInvalid(f"the URL of a Redis store: {problem}; expected {EXPECTED}")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
