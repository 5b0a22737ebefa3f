"""Asking an authorization server for a token, on behalf of one upstream (RFC 6749, RFC 8693, RFC 8707).

The gateway says who it is by its client id and secret, in the header or in the form. What comes back is checked before
it becomes part of a request's head. No error quotes a secret, a token, or what somebody else may have put there: of a
refusal, its code (RFC 6749, 5.2) is told, and its description is for the log.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus, urlencode

import structlog
import trio

from transport.upstreams.access_tokens import AccessToken, TokenRefused, TokenUnavailable
from transport.upstreams.concealment import Concealment
from transport.upstreams.side_requests import Reply, SideRequests
from transport.upstreams.token_discovery import POST, TokenClient, TokenEndpoint, find_token_endpoint

LASTS_SECONDS_DEFAULT = 600.0  # what a server that does not say is taken to mean; a 401 has the token renewed sooner
LASTS_SECONDS_MAX = 24 * 3600.0  # clocks and servers err; asking once a day costs nothing
_DESCRIPTION_CHARACTERS_MAX = 200
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TYPES = tuple(f"urn:ietf:params:oauth:token-type:{name}" for name in ("access_token", "jwt"))
_MAY_PASS = frozenset({"temporarily_unavailable", "server_error", "slow_down"})

# What somebody is to look at, by the code of a refusal (RFC 6749, 5.2; RFC 8707, 2; RFC 8693, 2.2.2).
_ADVICE = {
    "invalid_client": "the gateway's client_id and client_secret",
    "unauthorized_client": "whether this client may use this grant",
    "unsupported_grant_type": "whether the authorization server offers this grant",
    "invalid_scope": "the scope that is asked for, and whether this client may have it",
    "insufficient_scope": "the scope that is asked for, and the scopes of the client's own token",
    "invalid_target": "the resource and audience, and whether this client may have tokens for them",
    "invalid_grant": "whether the authorization server takes the client's own token: its issuer, audience and expiry",
    "invalid_request": "what the authorization server says of it in its own log",
}

_log = structlog.get_logger(__name__)


class TokenRequests:
    """Asks for tokens for one upstream; remembers where."""

    def __init__(self, server: str, client: TokenClient, requests: SideRequests) -> None:
        """
        Args:
          server: the upstream's name, for errors.
        """
        self._server = server
        self._client = client
        self._requests = requests
        self._endpoint: TokenEndpoint | None = None
        self._finding = trio.Lock()

    def __repr__(self) -> str:
        return f"<TokenRequests for {self._server}>"

    async def ask(self, grant: Mapping[str, str], *, secrets: Mapping[str, str] | None = None) -> AccessToken:
        """Ask for a token.

        Args:
          grant: the form, but for what all grants have: scope, resource, the client's own credentials.
          secrets: those of its values that nobody may be told, by name; they are part of the form.

        Raises:
          TokenUnavailable, TokenRefused

        Cancellation: it may have been asked.
        """
        endpoint = await self._find()
        form = {**grant, **(secrets or {})}
        named = {"scope": self._client.scope, "resource": endpoint.resource, "audience": self._client.audience}
        form |= {name: value for name, value in named.items() if value}
        headers = self._authenticate(endpoint, form)
        try:
            reply = await self._requests.post(endpoint.url, headers, urlencode(form).encode())
        except (OSError, ValueError) as error:
            self._endpoint = None  # it may have moved
            raise TokenUnavailable(self._say(f"cannot be asked: {error}")) from None
        if reply.status == 200:
            return self._read(reply)
        concealed = {**(secrets or {}), "secret": self._client.client_secret}
        raise self._refusal(reply, Concealment.of(concealed, ""))

    async def _find(self) -> TokenEndpoint:
        if self._endpoint is not None:
            return self._endpoint
        async with self._finding:
            if self._endpoint is None:  # who waited may find what it waited for
                try:
                    self._endpoint = await find_token_endpoint(self._client, self._requests)
                except OSError as error:
                    raise TokenUnavailable(self._say(f"cannot be found: {error}")) from None
                except ValueError as error:
                    raise TokenRefused(self._say(f"cannot be used: {error}")) from None
            return self._endpoint

    def _authenticate(self, endpoint: TokenEndpoint, form: dict[str, str]) -> Mapping[str, str]:
        """Say who asks: in the form, or in the header that is returned."""
        client = self._client
        if endpoint.authentication == POST:
            form |= {"client_id": client.client_id, "client_secret": client.client_secret}
            return {}
        return {"Authorization": f"Basic {basic_credentials(client.client_id, client.client_secret)}"}

    def _read(self, reply: Reply) -> AccessToken:
        answer = _object_of(reply.body)
        token = answer.get("access_token")
        kind = answer.get("token_type")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise TokenRefused(self._say("gave no token that can be sent"))
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise TokenRefused(self._say("gave a token that is no bearer token"))
        if answer.get("issued_token_type", _TYPES[0]) not in _TYPES:  # RFC 8693, 2.2.1; not every server says it
            raise TokenRefused(self._say("gave a token of a type that is no access token"))
        return AccessToken(token, _seconds(answer.get("expires_in")))

    def _refusal(self, reply: Reply, concealment: Concealment) -> TokenRefused | TokenUnavailable:
        answer = _object_of(reply.body)
        code, description = answer.get("error"), answer.get("error_description")
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            code = ""
        if isinstance(description, str):
            told = concealment.excerpt(description.encode(), _DESCRIPTION_CHARACTERS_MAX)
            _log.warning("token_refused", server=self._server, status=reply.status, code=code, description=told)
        if code in _MAY_PASS or reply.status >= 500 or reply.status in (408, 425, 429):
            return TokenUnavailable(self._say(f"gives no token now: {code or f'HTTP {reply.status}'}"))
        if not code:  # not an answer of a token endpoint: it may be found elsewhere
            self._endpoint = None
            return TokenRefused(self._say(f"answered with HTTP {reply.status}: look at its token endpoint's address"))
        advice = _ADVICE.get(code, "what the authorization server says of it in its own log")
        return TokenRefused(self._say(f"gives no token ({code}): look at {advice}"))

    def _say(self, what: str) -> str:
        return f"the authorization server for {self._server!r} {what}"


def basic_credentials(client_id: str, client_secret: str) -> str:
    """Write a client's id and secret as HTTP Basic has them (RFC 6749, 2.3.1: each form-encoded first)."""
    return base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(client_secret)}".encode()).decode()


def _object_of(body: bytes) -> Mapping[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _seconds(raw: object) -> float:
    """Read how long a token lasts; some servers write the number as a text."""
    try:
        seconds = float(raw) if isinstance(raw, int | float | str) and not isinstance(raw, bool) else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    return min(seconds, LASTS_SECONDS_MAX) if seconds > 0 else LASTS_SECONDS_DEFAULT
