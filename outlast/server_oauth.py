"""OAuth toward servers, as settings: how the gateway gets the tokens that a server behind it asks for.

One table for each server. Its secret stands in the configuration file, in the environment, or in a file of its own that
is named here; never on a command line. Nothing here shows one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import attrs

from outlast.access import URL, is_loopback, server_table, shown_names
from outlast.kinds import Kind, Refused
from outlast.targets import StdioTarget, Target

if TYPE_CHECKING:
    from outlast.settings import Settings
    from transport.subjects import LiveSubjects
    from transport.upstreams.access_tokens import Authorization
    from transport.upstreams.breaker import Breaker
    from transport.upstreams.http_pool import HttpPool

CLIENT_CREDENTIALS = "client_credentials"
TOKEN_EXCHANGE = "token_exchange"
GRANTS = (CLIENT_CREDENTIALS, TOKEN_EXCHANGE)
_AUTHENTICATIONS = ("client_secret_basic", "client_secret_post")
SECRET_BYTES_MAX = 16 * 1024


@attrs.frozen
class ServerOAuth:
    """How tokens for one server are got."""

    grant: str  # one of GRANTS
    client_id: str
    client_secret: str = attrs.field(repr=False)
    token_endpoint: str = ""  # "": found in the issuer's metadata
    issuer: str = ""  # "": found in the server's metadata (RFC 9728)
    scope: str = ""
    resource: str | None = None  # RFC 8707; None: the server's URL, "": not sent
    audience: str = ""  # RFC 8693; "": not sent
    client_authentication: str = ""  # "": as the issuer's metadata says


_KEYS = tuple(field.name for field in attrs.fields(ServerOAuth))
_FILE_KEY = "client_secret_file"
_SPELLED = (*_KEYS, _FILE_KEY)
_KEY = re.compile(r"[a-z_]{1,32}")
_URL_KEYS = ("token_endpoint", "issuer")


def _read_server_oauth(raw: object) -> Mapping[str, ServerOAuth]:
    """Read a table SERVER -> KEY -> VALUE, or lines `SERVER: KEY=VALUE`."""
    if isinstance(raw, Mapping) and all(isinstance(value, ServerOAuth) for value in raw.values()):
        return raw
    problems: list[str] = []
    read: dict[str, ServerOAuth] = {}
    for server, table in server_table(raw, "=", "KEY").items():
        try:
            read[server] = _read_one(table)
        except Refused as refused:
            problems += [f"server {server!r}: {problem}" for problem in refused.problems]
    if problems:
        raise Refused(*problems)
    return MappingProxyType(read)


def _read_one(table: Mapping[str, str]) -> ServerOAuth:
    problems = [_about_stranger(key) for key in table if key not in _SPELLED]
    problems += _problems_of_choices(table)
    secret = ""
    try:
        secret = _read_secret(table)
    except Refused as refused:
        problems += refused.problems
    for key in _URL_KEYS:
        try:
            URL.read(table.get(key, ""))
        except Refused as refused:
            problems += [f"{key} = {URL.show(table[key])}: {problem}" for problem in refused.problems]
    problems += [
        f"{key}: it must be visible ASCII"
        for key in ("client_id", "scope", "resource", "audience")
        if not _is_plain(table, key)
    ]
    if table.get("token_endpoint") and table.get("issuer"):
        problems.append("token_endpoint and issuer: name one of them; the issuer's metadata names its endpoint")
    if problems:
        raise Refused(*problems)
    return ServerOAuth(**{key: table[key] for key in _KEYS if key in table} | {"client_secret": secret})


def _problems_of_choices(table: Mapping[str, str]) -> list[str]:
    problems = []
    if table.get("grant") not in GRANTS:
        problems.append(f"grant: it must be {' or '.join(GRANTS)}")
    if not table.get("client_id"):
        problems.append("client_id: it is needed: the gateway's name at the authorization server")
    if table.get("client_authentication", _AUTHENTICATIONS[0]) not in _AUTHENTICATIONS:
        problems.append(f"client_authentication: it must be {' or '.join(_AUTHENTICATIONS)}")
    return problems


def _about_stranger(key: str) -> str:
    near = difflib.get_close_matches(key, _SPELLED, n=1)
    meant = f": did you mean {near[0]}?" if near else f"; there are {', '.join(_SPELLED)}"
    # People write keys and values the wrong way round: what does not look like a key may be a secret.
    return f"there is no key {key if _KEY.fullmatch(key) else '<not shown>'}{meant}"


def _read_secret(table: Mapping[str, str]) -> str:
    given, file = table.get("client_secret", ""), table.get(_FILE_KEY, "")
    if bool(given) == bool(file):
        raise Refused(f"client_secret or {_FILE_KEY}: exactly one of them is needed")
    secret = given or _read_secret_file(Path(file).expanduser())
    if not secret.isascii() or not secret.isprintable():
        raise Refused(f"{'client_secret' if given else _FILE_KEY}: a secret is one line of visible ASCII")
    return secret


def _read_secret_file(file: Path) -> str:
    """Read a secret. A line end behind it is the editor's."""
    try:
        with file.open("rb") as opened:
            data = opened.read(SECRET_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise Refused(f"{_FILE_KEY}: {file} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    text = data.decode("latin-1").strip("\r\n")
    if not text or len(data) > SECRET_BYTES_MAX:
        raise Refused(f"{_FILE_KEY}: {file} must hold one line, of at most {SECRET_BYTES_MAX} bytes")
    return text


def _is_plain(table: Mapping[str, str], key: str) -> bool:
    text = table.get(key, "")
    return text.isascii() and (not text or text.isprintable())


SERVER_OAUTH: Kind[Mapping[str, ServerOAuth]] = Kind(_read_server_oauth, shown_names, "SERVER: KEY=VALUE")


def oauth_troubles(settings: Settings) -> list[str]:
    """Say what was set for a server that would not reach it, or contradicts something else; one line each."""
    troubles = []
    for name, oauth in settings.server_oauth.items():
        if oauth.grant == TOKEN_EXCHANGE and not settings.oauth_issuer:
            troubles.append(
                f"server_oauth: server {name!r}: token_exchange needs oauth_issuer, whose tokens clients bring"
            )
        target = settings.servers.get(name)
        if target is None:
            troubles.append(f"server_oauth: there is no server {name!r}")
        elif isinstance(target, StdioTarget):
            troubles.append(f"server_oauth: server {name!r} is a program: set server_environment")
        elif not (oauth.issuer or oauth.token_endpoint or _is_believed(target.url)):
            troubles.append(
                f"server_oauth: server {name!r} is reached in clear, so where its tokens come from"
                " cannot be believed: name issuer or token_endpoint"
            )
        if any(header.lower() == "authorization" for header in settings.server_headers.get(name, {})):
            troubles.append(f"server_oauth: server {name!r} has an Authorization in server_headers: leave one out")
    return troubles


def exchanging_servers(settings: Settings) -> frozenset[str]:
    """Name the servers whose tokens are got in exchange for clients' own."""
    return frozenset(name for name, oauth in settings.server_oauth.items() if oauth.grant == TOKEN_EXCHANGE)


def subjects_of(settings: Settings) -> LiveSubjects | None:
    """Make what knows the tokens that clients present now; None: none of them is exchanged."""
    servers = exchanging_servers(settings)
    if not servers:
        return None
    from transport.subjects import LiveSubjects

    return LiveSubjects(settings.oauth_issuer, servers)


def authorization_of(
    name: str,
    oauth: ServerOAuth,
    target: Target,
    pool: HttpPool,
    breaker: Breaker,
    subjects: LiveSubjects | None,
) -> Authorization:
    """Make what gets the tokens for one server.

    Args:
      subjects: who has presented which token; needed where these are exchanged.
      breaker: is told why there is none.
    """
    from transport.upstreams.client_credentials import ClientCredentials
    from transport.upstreams.side_requests import PooledSideRequests
    from transport.upstreams.token_discovery import TokenClient
    from transport.upstreams.token_requests import TokenRequests

    assert not isinstance(target, StdioTarget)  # refused before
    client = TokenClient(
        oauth.client_id,
        oauth.client_secret,
        _http_url(target.url),
        token_endpoint=oauth.token_endpoint,
        issuer=oauth.issuer,
        authentication=oauth.client_authentication,
        scope=oauth.scope,
        resource=oauth.resource,
        audience=oauth.audience,
    )
    requests = TokenRequests(name, client, PooledSideRequests(pool))

    def tell(why: str) -> None:
        if why:
            breaker.credentials_missing(why)
        else:
            breaker.credentials_accepted()

    if oauth.grant == TOKEN_EXCHANGE:
        from transport.upstreams.token_exchange import TokenExchange

        assert subjects is not None
        return TokenExchange(requests, pool.start_soon, subjects, server=name, told=tell)
    return ClientCredentials(requests, pool.start_soon, server=name, told=tell)


def _is_believed(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("https", "wss") or is_loopback(parts.hostname or "")


def _http_url(url: str) -> str:
    """Give the URL of the HTTP request that a WebSocket begins as."""
    return f"http{url[2:]}" if url.startswith(("ws://", "wss://")) else url
