"""Access as settings: who is let in with which token, and what servers are told of us.

The kinds know how secrets are written by people; `authentication_of` and its neighbours make of them what the transport
asks. Secrets come from the configuration file and the environment, never from flags, which every user of the machine
can read; they are shown nowhere.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from outlast.kinds import Kind, Refused
from outlast.targets import StdioTarget

if TYPE_CHECKING:
    from outlast.settings import Settings
    from transport.authentication import Authentication, Verifier
    from transport.signing_keys import SigningKeys

TOKEN_CHARACTERS_MIN = 16
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.@-]+")
_FACES = ("mcp", "sse", "messages", "ws")  # last segments of the endpoints' paths
_NAMED = "NAME = TOKEN (in one text: NAME=TOKEN, separated by commas or line ends)"


def _read_token(raw: object) -> str | None:
    if raw is None:
        return None
    allowed = f"it must be a text of at least {TOKEN_CHARACTERS_MIN} visible ASCII characters"
    if not isinstance(raw, str) or len(raw) < TOKEN_CHARACTERS_MIN or not raw.isascii() or not raw.isprintable():
        raise Refused(allowed)
    if " " in raw:
        raise Refused(f"{allowed}, without spaces")
    return raw


def _read_tokens(raw: object) -> Mapping[str, str]:
    """Read a table NAME -> TOKEN, or a text of NAME=TOKEN."""
    problems: list[str] = []
    tokens: dict[str, str] = {}
    for number, (name, token) in enumerate(_pairs(raw), 1):
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or not token:
            problems.append(f"each token needs a name, and number {number} has none: {_NAMED}")
        elif name in tokens:
            problems.append(f"the token of {_shown_name(name, number)} is there twice")
        else:
            try:
                tokens[name] = _read_token(token) or ""
            except Refused as refused:
                problems.append(f"the token of {_shown_name(name, number)}: {refused}")
    if len(set(tokens.values())) < len(tokens):
        problems.append("two names have the same token: which one a request is of could not be told")
    if problems:
        raise Refused(*problems)
    return MappingProxyType(tokens)


def _shown_name(name: str, number: int) -> str:
    """Give a token's name, or its number where the name may be a token: people write the two the wrong way round."""
    return repr(name) if len(name) < TOKEN_CHARACTERS_MIN and _PLAIN_NAME.fullmatch(name) else f"number {number}"


def _pairs(raw: object) -> list[tuple[object, object]]:
    if isinstance(raw, Mapping):
        return list(raw.items())
    if not isinstance(raw, str):
        raise Refused(f"it must be a table of {_NAMED}")
    parts = [part.strip() for part in raw.replace("\n", ",").split(",") if part.strip()]
    return [(name.strip(), token.strip()) for name, _, token in (part.partition("=") for part in parts)]


def _read_server_headers(raw: object) -> Mapping[str, Mapping[str, str]]:
    """Read a table SERVER -> HEADER -> VALUE, or lines `SERVER: HEADER: VALUE`."""
    table = server_table(raw, ":", "HEADER")
    from transport.upstreams.http_target import check_headers  # here: few have such headers, and all read settings

    for server, headers in table.items():
        try:
            check_headers(headers)
        except ValueError as error:
            raise Refused(f"server {server!r}: {error}") from None
    return table


def _read_server_environment(raw: object) -> Mapping[str, Mapping[str, str]]:
    """Read a table SERVER -> VARIABLE -> VALUE, or lines `SERVER: VARIABLE=VALUE`."""
    table = server_table(raw, "=", "VARIABLE")
    for server, variables in table.items():
        for name, value in variables.items():
            if not name or "=" in name or "\0" in name + value:
                raise Refused(f"server {server!r}: {name!r}: a variable has a name without '=', and no zero bytes")
    return table


def server_table(raw: object, sign: str, what: str) -> Mapping[str, Mapping[str, str]]:
    """Read a table of tables of texts, or in one text a line `SERVER: NAME<sign>VALUE` for each."""
    line_form = f"SERVER: {what}{sign}{' ' if sign == ':' else ''}VALUE"
    allowed = f"it must be a table of SERVER = {{ {what} = VALUE }} (in one text: {line_form} in a line each)"
    table: dict[str, dict[str, str]] = {}
    if isinstance(raw, Mapping):
        for server, pairs in raw.items():
            if not isinstance(pairs, Mapping) or not all(isinstance(value, str) for value in pairs.values()):
                raise Refused(f"server {server!r}: {allowed}")
            table[str(server)] = {str(name): value for name, value in pairs.items()}
    elif isinstance(raw, str):
        for line in filter(str.strip, raw.splitlines()):
            server, _, pair = line.partition(":")
            name, found, value = pair.partition(sign)
            if not found:
                raise Refused(allowed)
            table.setdefault(server.strip(), {})[name.strip()] = value.strip()
    else:
        raise Refused(allowed)
    return MappingProxyType({server: MappingProxyType(pairs) for server, pairs in table.items()})


def _read_file(raw: object) -> Path | None:
    if raw is None or isinstance(raw, Path):
        return raw
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise Refused("it must be the path of a file")
    return Path(raw).expanduser()


def _read_url(raw: object) -> str:
    allowed = "it must be an https URL without user, query or fragment (http:// on this machine only)"
    if raw == "":
        return ""
    if not isinstance(raw, str) or not raw.isascii() or not raw.isprintable() or " " in raw:
        raise Refused(allowed)
    try:
        parts = urlsplit(raw)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        raise Refused(allowed) from None
    local = parts.scheme == "http" and is_loopback(host)
    if not host or "@" in parts.netloc or parts.query or parts.fragment or not (parts.scheme == "https" or local):
        raise Refused(allowed)
    return raw


def _read_keys(raw: object) -> str:
    """Take a URL of a key set, or the path of a file that holds one."""
    if isinstance(raw, str) and "://" in raw:
        return _read_url(raw)
    if not isinstance(raw, str) or "\0" in raw:
        raise Refused("it must be the https URL of a JSON Web Key Set, or the path of a file that holds one")
    return raw


def shown_names(raw: object) -> str:
    """Show a table by its names alone: what stands behind them is secret."""
    if not isinstance(raw, Mapping):
        return "<not shown>"
    return f"<of {', '.join(_shown_name(str(name), number) for number, name in enumerate(raw, 1))}>"


SECRET_TOKEN: Kind[str | None] = Kind(_read_token, lambda raw: "none" if raw is None else "<not shown>", "TOKEN")
CLIENT_TOKENS: Kind[Mapping[str, str]] = Kind(_read_tokens, shown_names, "NAME=TOKEN")
SERVER_HEADERS: Kind[Mapping[str, Mapping[str, str]]] = Kind(_read_server_headers, shown_names, "SERVER: HEADER: VALUE")
SERVER_ENVIRONMENT: Kind[Mapping[str, Mapping[str, str]]] = Kind(
    _read_server_environment, shown_names, "SERVER: VARIABLE=VALUE"
)
FILE: Kind[Path | None] = Kind(_read_file, lambda raw: "none" if raw is None else repr(str(raw)), "FILE")
URL: Kind[str] = Kind(_read_url, metavar="URL")
KEYS: Kind[str] = Kind(_read_keys, metavar="URL|FILE")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches who listens at this host."""
    try:
        return ipaddress.ip_address(host.strip("[]").partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def access_troubles(settings: Settings) -> list[str]:
    """Say what of these settings would let in whom it should not, or cannot work; one line each."""
    troubles = []
    if not (asks_for_tokens(settings) or settings.allow_anonymous or is_loopback(settings.listen.host)):
        troubles.append(
            f"listen {settings.listen}: everybody who reaches this address could open sessions: set client_tokens or"
            " oauth_issuer, or listen on 127.0.0.1; --allow-anonymous if a proxy in front keeps strangers out"
        )
    if settings.oauth_issuer and not (settings.oauth_audiences or settings.public_url):
        troubles.append("oauth_issuer needs public_url or oauth_audiences: the name of this gateway in tokens")
    if (settings.certfile is None) != (settings.keyfile is None):
        troubles.append("certfile and keyfile go together: set both, or neither")
    return troubles + _credential_troubles(settings)


def _credential_troubles(settings: Settings) -> list[str]:
    """Say what was set for a server that would not reach it: whoever set it relies on it."""
    troubles = []
    for setting, table in (
        ("server_headers", settings.server_headers),
        ("server_environment", settings.server_environment),
    ):
        for name in table:
            target = settings.servers.get(name)
            if target is None:
                troubles.append(f"{setting}: there is no server {name!r}")
            elif isinstance(target, StdioTarget) == (setting == "server_headers"):
                other = "a program: set server_environment" if setting == "server_headers" else "no program"
                troubles.append(f"{setting}: server {name!r} is {other}")
    return troubles


def asks_for_tokens(settings: Settings) -> bool:
    """Whether clients need a token."""
    return bool(settings.client_tokens or settings.oauth_issuer)


def authentication_of(settings: Settings) -> Authentication | None:
    """Make what tells clients apart; None: nothing does.

    Raises:
      OSError, ValueError: the issuer's keys cannot be read from their file.
    """
    if not asks_for_tokens(settings):
        return None
    from transport.authentication import Authentication
    from transport.protected_resource import ProtectedResource

    issuers = (settings.oauth_issuer,) if settings.oauth_issuer else ()
    resource = ProtectedResource(settings.public_url.rstrip("/"), issuers, frozenset(settings.oauth_scopes))
    # Trio's clock does not tell when tokens expire; a step of the wall clock moves that, as it does for the issuer.
    return Authentication(_verifiers(settings), now_unix_s=time.time, resource=resource)


def _verifiers(settings: Settings) -> list[Verifier]:
    verifiers: list[Verifier] = []
    if settings.client_tokens:
        from transport.static_tokens import StaticTokens

        verifiers.append(StaticTokens(settings.client_tokens, scopes=frozenset(settings.oauth_scopes)))
    if settings.oauth_issuer:
        from transport.jwt_tokens import Issuer, JwtTokens

        verifiers.append(JwtTokens(Issuer(settings.oauth_issuer, _audiences(settings)), _signing_keys(settings)))
    return verifiers


def _audiences(settings: Settings) -> tuple[str, ...]:
    """Name the gateway as tokens may: as the whole, or as one of its endpoints, which the metadata offers."""
    if settings.oauth_audiences:
        return settings.oauth_audiences
    base = settings.public_url.rstrip("/")
    roots = (base, *(f"{base}/servers/{name}" for name in settings.servers))
    return (base, *(f"{root}/{path}" for root in roots for path in ("mcp", "sse", "messages")))


def _signing_keys(settings: Settings) -> SigningKeys:
    from transport.signing_keys import FetchedKeys, KeysOfFile

    if settings.oauth_keys and "://" not in settings.oauth_keys:
        return KeysOfFile(Path(settings.oauth_keys))
    return FetchedKeys(settings.oauth_issuer, url=settings.oauth_keys)
