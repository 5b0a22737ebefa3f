"""Settings: everything an operator can choose, in one frozen record.

Each field says once, beside its default: its kind (what is allowed), its environment variable, whether it has
a flag, and what it means; the loaders (sources.py), the command line and its help are made from that. Units
stand last in names. Where settings come from, and which source wins, is the business of sources.py.

typed-settings was weighed and left out: its errors quote the refused value, secrets included, and name
neither the variable nor what is allowed; it stops at the first source with a mistake; and it adds 45 ms to
every start.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import attrs

from outlast.access import CLIENT_TOKENS, FILE, KEYS, SECRET_TOKEN, SERVER_ENVIRONMENT, SERVER_HEADERS, URL
from outlast.at_rest import COMPRESSION, ENCRYPTION_KEYS
from outlast.kinds import DIRECTORY, SWITCH, Kind, Refused, affordable_connections, choice, connections, count, seconds
from outlast.own_kinds import AUDIENCES, HOSTS, ORIGINS, PATH_PREFIX, SCOPES, STORE
from outlast.server_oauth import SERVER_OAUTH, ServerOAuth
from outlast.targets import SERVERS, Target
from outlast.urls import ADDRESS, Address
from persistence.key_ring import KeyRing

T = TypeVar("T")

VARIABLE_PREFIX = "OUTLAST_"
_METADATA_KEY = "outlast"
_YEAR_SECONDS = 365 * 24 * 3600
_DAY_SECONDS = 24 * 3600
_MIB = 1024 * 1024

# Connections cost 19 KB each (measured, idle keep-alive or SSE): 20,000 are 400 MB, where one process should
# stop.
_CONNECTIONS_MAX = 20_000


@attrs.frozen
class Facts:
    """What is known of one setting beside its value."""

    name: str
    kind: Kind[Any]
    about: str  # what it means, in a sentence for help texts
    variable: str  # its name in the environment
    flag: str  # its name on the command line, "" when it has none
    default_text: str  # its default, for help texts


def _setting(
    kind: Kind[T],
    default: T,
    about: str,
    *,
    variable: str = "",
    flag: bool | str = False,
    default_text: str = "",
) -> T:
    # Typed as its value, as attrs.field is too: that is what the type checker is to see in the class body.
    return attrs.field(
        default=default,
        converter=attrs.Converter(_convert, takes_field=True),
        repr=True if kind.show is repr else kind.show,
        metadata={
            _METADATA_KEY: {
                "kind": kind,
                "about": about,
                "variable": variable,
                "flag": flag,
                "default_text": default_text,
            }
        },
    )


def _convert(raw: object, field: attrs.Attribute[Any]) -> object:
    """Hold values given in code to the same rules as values from a file."""
    kind: Kind[Any] = field.metadata[_METADATA_KEY]["kind"]
    try:
        return kind.read(raw)
    except Refused as refused:
        raise ValueError(f"{field.name} = {kind.show(raw)}: {refused}") from None


_LEVELS = ("debug", "info", "warning", "error", "critical")


@attrs.frozen(kw_only=True)
class Settings:
    """Everything an operator can choose. Defaults suit one machine that serves people's tools.

    Raises:
      ValueError: a value is not allowed; the message says which and what is.
    """

    listen: Address = _setting(
        ADDRESS,
        Address("127.0.0.1", 8080),
        "where to serve clients, HOST:PORT; port 0: any free one",
        flag=True,
    )
    data_directory: Path = _setting(
        DIRECTORY,
        Path("data"),
        "where the default store keeps its file",
        variable="SESSION_DATA_DIR",
        flag=True,
    )
    store: str = _setting(
        STORE,
        attrs.Factory(lambda self: f"sqlite:{self.data_directory / 'outlast.db'}", takes_self=True),
        "where sessions are kept: memory:, sqlite:PATH, or a Redis or Valkey server",
        variable="SESSION_STORE",
        flag=True,
        default_text="REDIS_URL, or sqlite:DATA_DIRECTORY/outlast.db",
    )
    # Degrading is for those who would rather lose sessions in a crash than turn clients away meanwhile: to be
    # chosen, never assumed. Patience is short of the 5 s after which callers are told that the outcome is in doubt.
    store_outage: str = _setting(
        choice("refuse", "degrade"),
        "refuse",
        "while the store is away: refuse what would have to be kept, or go on from memory (degrade)",
    )
    store_outage_patience_seconds: float = _setting(
        seconds(0, 60), 1.0, "how long to insist on a store that does not answer before degrading (with degrade)"
    )
    servers: Mapping[str, Target] = _setting(
        SERVERS,
        attrs.Factory(lambda: MappingProxyType({})),
        "the MCP servers behind the gateway, NAME=TARGET each",
        flag="--server",
        default_text="none",
    )

    # A client that is told 404 seldom opens a session anew (most of the popular ones never do), and few end
    # theirs with DELETE: so a session must live through a night with the lid closed, and must not live for
    # ever. Any use starts the time again. A day, with sessions_max sessions, allows one new session every
    # second all day long.
    session_ttl_seconds: float = _setting(
        seconds(1, 10 * _YEAR_SECONDS),
        float(_DAY_SECONDS),
        "a session that nobody used for this long is removed",
        variable="SESSION_TTL",
        flag=True,
    )
    # Clients of HTTP+SSE know no way back to their sessions, but for browsers' EventSource and those that were written
    # for us: what is away for longer than a restart takes is hardly ever coming back.
    sse_session_ttl_seconds: float = _setting(
        seconds(1, 10 * _YEAR_SECONDS),
        300.0,
        "an HTTP+SSE session whose event stream was away for this long is removed",
    )
    events_per_session_max: int = _setting(
        count(1, 1_000_000),
        1000,
        "events kept per session for replay; older ones are trimmed",
        variable="MAX_EVENTS_PER_SESSION",
        flag=True,
    )
    events_bytes_max: int = _setting(
        count(1024, 1024 * _MIB), 16 * _MIB, "bytes of events kept per session for replay; older ones are trimmed"
    )
    event_bytes_max: int = _setting(
        count(1024, 1024 * _MIB), 16 * _MIB, "largest event of a stream; a larger answer becomes an error"
    )
    # What was called is for people to look up, and shares a commit with what is kept anyway. What it was called with,
    # and what it said, may be anybody's secret: only whoever may keep that switches it on.
    call_history_max: int = _setting(
        count(0, 100_000), 200, "tool calls kept per session for looking up; older ones are trimmed; 0: none"
    )
    call_history_bytes_max: int = _setting(
        count(1024, 1024 * _MIB), _MIB, "bytes of them kept per session; older ones are trimmed"
    )
    call_history_contents: bool = _setting(
        SWITCH, False, "keep arguments and results of tool calls, too, which may hold secrets"
    )
    call_history_content_bytes_max: int = _setting(
        count(1, 16 * _MIB), 4096, "bytes kept of a call's arguments, and of its result; the rest is cut off"
    )
    sessions_max: int = _setting(
        count(1, 10_000_000),
        100_000,
        "sessions in all; beyond, opening one is answered with 503",
        flag=True,
    )
    # One client's mistake (a session for each call) is to be its own. A token may also be a whole company's.
    sessions_per_principal_max: int = _setting(
        count(1, 10_000_000), 10_000, "sessions of each client that has a token; beyond, opening one gets 503"
    )
    exchanges_per_principal_max: int = _setting(
        count(1, 1_000_000), 5_000, "requests and streams at a time of each client that has a token; beyond, 429"
    )
    resident_sessions_max: int = _setting(
        count(1, 1_000_000), 10_000, "sessions in memory; beyond, the longest idle are passivated", flag=True
    )
    passivate_after_seconds: float = _setting(
        seconds(0.1, _YEAR_SECONDS), 300.0, "an idle session leaves memory after this long; its record stays"
    )
    stdio_idle_seconds: float = _setting(
        seconds(1, _YEAR_SECONDS), 1800.0, "an idle session's stdio server is ended after this long"
    )

    # Most tools answer within a quarter of a second: they get plain JSON and cost no commit. Whatever is
    # slower becomes a stream that can be resumed, at the price of one commit that it does not notice.
    answer_json_within_seconds: float = _setting(
        seconds(0, 3600), 0.25, "a call answered this soon gets plain JSON, a slower one a resumable stream"
    )
    call_total_seconds_max: float = _setting(
        seconds(1, 30 * _DAY_SECONDS),
        float(_DAY_SECONDS),
        "a call ends with an error after this long, whatever it told",
    )
    call_seconds_max: float = _setting(
        seconds(1, 30 * _DAY_SECONDS), 3600.0, "a call about which nothing was heard for this long ends with an error"
    )
    connect_seconds_max: float = _setting(seconds(0.1, 600), 10.0, "how long connecting to a server may take")
    restore_wait_seconds: float = _setting(
        seconds(0, 600), 5.0, "how long a request waits for its session to be restored before it gets 503"
    )
    calls_in_flight_max: int = _setting(count(1, 10_000), 32, "calls in flight per session")
    stateless_calls_in_flight_max: int = _setting(
        count(1, 1_000_000), 1024, "calls in flight per server that belong to no session (2026-07-28)"
    )
    body_bytes_max: int = _setting(count(1024, 1024 * _MIB), 4 * _MIB, "largest body of a client's request")
    # Of silence: proxies between us and either side cut what says nothing for a minute, the strictest seen for 30 s.
    websocket_ping_seconds: float = _setting(
        seconds(0.1, 3600),
        25.0,
        "a WebSocket client that was silent for this long is sent a ping; a server is sent one this often",
    )
    websocket_pong_seconds: float = _setting(
        seconds(0.1, 3600), 15.0, "a WebSocket client that says nothing for this long after a ping is taken for gone"
    )
    websocket_message_bytes_max: int = _setting(
        count(1024, 1024 * _MIB),
        attrs.Factory(lambda self: self.body_bytes_max, takes_self=True),
        "largest message of a WebSocket client; a larger one ends the connection (1009)",
        default_text="body_bytes_max",
    )
    websocket_initialize_seconds_max: float = _setting(
        seconds(0.1, 3600), 30.0, "a WebSocket on which no session is opened for this long is closed (4408)"
    )
    # A crash of one session, or its way back into memory, is not to be felt by whoever is connected to it.
    websocket_return_seconds_max: float = _setting(
        seconds(0.1, 600), 10.0, "how long a WebSocket waits for its session to come back before it is closed (1013)"
    )
    # More than a session takes by default (32 calls, 64 other messages): what is refused is to be refused by it.
    websocket_messages_in_hand_max: int = _setting(
        count(1, 100_000), 128, "messages of one WebSocket on their way; beyond, the client is not read"
    )
    connections_max: int = _setting(
        connections(1_000_000),
        attrs.Factory(lambda: affordable_connections(_CONNECTIONS_MAX)),
        "clients' connections at a time; auto: what the open-file limit allows",
        default_text="auto",
    )
    write_seconds_max: float = _setting(
        seconds(0.1, 3600), 10.0, "a client that takes nothing for this long is disconnected"
    )
    # Load balancers and HTTP clients give up on silence after 30 to 300 s; the strictest seen need under 25
    # s.
    keepalive_comment_seconds: float = _setting(
        seconds(0.1, 3600),
        15.0,
        "a silent stream gets a comment this often, lest it be taken for dead",
    )
    shutdown_grace_seconds: float = _setting(
        seconds(0, 3600),
        10.0,
        "how long calls in flight may go on when asked to stop",
        flag=True,
    )
    restore_permits: int = _setting(count(1, 10_000), 64, "sessions being restored at a time")
    restore_permits_per_server: int = _setting(
        count(1, 10_000), 8, "sessions being restored at a time per server behind the gateway"
    )
    allowed_hosts: tuple[str, ...] = _setting(
        HOSTS, (), "further names by which clients may address the gateway (Host header); *: any", flag=True
    )
    allowed_origins: tuple[str, ...] = _setting(
        ORIGINS, (), "web origins whose pages may use the gateway, http://localhost:* for any port; *: all", flag=True
    )
    allow_anonymous: bool = _setting(
        SWITCH, False, "serve without tokens beyond this machine: where a proxy in front keeps strangers out", flag=True
    )
    client_tokens: Mapping[str, str] = _setting(
        CLIENT_TOKENS,
        attrs.Factory(lambda: MappingProxyType({})),
        "tokens that clients present, NAME=TOKEN each; a session belongs to the name that opened it",
        default_text="none",
    )
    public_url: str = _setting(URL, "", "the gateway's URL as clients know it, https://HOST; tokens are issued for it")
    public_path_prefix: str = _setting(
        PATH_PREFIX,
        attrs.Factory(lambda self: urlsplit(self.public_url).path.rstrip("/"), takes_self=True),
        "what a proxy in front takes off the paths, such as /tools: HTTP+SSE clients are told paths that begin so",
        default_text="the path of public_url",
    )
    oauth_issuer: str = _setting(URL, "", "the authorization server whose tokens (JWT) clients present")
    oauth_audiences: tuple[str, ...] = _setting(
        AUDIENCES, (), "what names this gateway in its tokens' audience", default_text="public_url"
    )
    oauth_keys: str = _setting(
        KEYS, "", "the issuer's key set, a URL or a file", default_text="found in the issuer's metadata"
    )
    oauth_scopes: tuple[str, ...] = _setting(SCOPES, (), "scopes that every token must have")
    operators_token: str | None = _setting(
        SECRET_TOKEN,
        None,
        "the token for operations (health in detail, metrics, administration)",
        default_text="none: from this machine only",
    )
    expose_health_tool: bool = _setting(
        SWITCH, False, "offer clients the tool session_health_check among each server's own", flag=True
    )
    server_headers: Mapping[str, Mapping[str, str]] = _setting(
        SERVER_HEADERS,
        attrs.Factory(lambda: MappingProxyType({})),
        "headers for each server behind the gateway, such as its Authorization; never a client's",
        default_text="none",
    )
    server_oauth: Mapping[str, ServerOAuth] = _setting(
        SERVER_OAUTH,
        attrs.Factory(lambda: MappingProxyType({})),
        "how the gateway gets the tokens that a server behind it asks for; docs/security.md has the keys",
        default_text="none",
    )
    server_environment: Mapping[str, Mapping[str, str]] = _setting(
        SERVER_ENVIRONMENT,
        attrs.Factory(lambda: MappingProxyType({})),
        "variables for each server that is a program, such as its API key; the gateway's own settings never reach one",
        default_text="none",
    )
    certfile: Path | None = _setting(FILE, None, "the certificate chain (PEM): serve HTTPS", flag=True)
    keyfile: Path | None = _setting(FILE, None, "the certificate's private key (PEM)", flag=True)
    hot_road: bool = _setting(SWITCH, True, "MCP over HTTP/1.1 takes the fast path; false: all by hypercorn")
    compression: str = _setting(
        COMPRESSION,
        "zstd:3",
        "how stored records are compressed: zstd, zstd:LEVEL, or none; any are read",
        variable="SESSION_COMPRESSION",
    )
    encryption_keys: KeyRing | None = _setting(
        ENCRYPTION_KEYS,
        None,
        "the key that stored records are encrypted with, from outlast keygen; more, separated by commas, are for"
        " reading what older keys encrypted",
        variable="SESSION_ENCRYPTION_KEY",
        default_text="none",
    )
    allow_secrets_in_clear: bool = _setting(
        SWITCH, False, "without an encryption key, store even secrets (such as tokens for a server) in clear"
    )
    log_level: str = _setting(choice(*_LEVELS), "info", f"the least urgent to log: {', '.join(_LEVELS)}", flag=True)
    log_format: str = _setting(
        choice("json", "console", "auto"),
        "auto",
        "how to log: json, console, or auto (console on a terminal)",
        flag=True,
    )
    # Not every request by default: proxies in front have such a log, and a busy gateway would write gigabytes a day.
    access_log: str = _setting(
        choice("off", "errors", "all"),
        "errors",
        "which requests to log when they are answered: off, errors (answers of 500 and above), or all",
        flag=True,
    )


@attrs.frozen
class NotYet:
    """A setting of a later version. Ignoring it would be a lie: who sets it relies on what it does."""

    variable: str
    promise: str  # what this version does not do yet
    harmless: tuple[str, ...] = ()  # values that ask for nothing


NOT_YET: Mapping[str, NotYet] = {}  # by name; none at present


def facts() -> Mapping[str, Facts]:
    """Give what is known of each setting, by name, in the order of the record."""
    return _FACTS


def _facts_of(field: attrs.Attribute[Any]) -> Facts:
    known: Mapping[str, Any] = field.metadata[_METADATA_KEY]
    flag = known["flag"]
    if flag is True:
        flag = f"--{field.name.replace('_', '-')}"
    return Facts(
        name=field.name,
        kind=known["kind"],
        about=known["about"],
        variable=known["variable"] or f"{VARIABLE_PREFIX}{field.name.upper()}",
        flag=flag or "",
        default_text=known["default_text"] or _default_text(field.default),
    )


def _default_text(default: object) -> str:
    if isinstance(default, float):
        return f"{default:g}"
    return "none" if default in ((), "", None) else str(default).lower()


_FACTS: Mapping[str, Facts] = {field.name: _facts_of(field) for field in attrs.fields(Settings)}
