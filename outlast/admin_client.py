"""Asking a running gateway's administration, as its operator.

The token comes from the environment or a file, never from a flag: command lines are shown to every user of a machine.
It is asked directly, never through a proxy from the environment, and no redirect is followed: either would be shown
the token.
"""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import attrs
import msgspec
import trio

from outlast.health import health_base
from outlast.kinds import Refused
from outlast.settings import facts
from outlast.urls import local_url, read_address, redacted

ASK_SECONDS = 30.0  # for a whole answer; a re-initialization may wait for its server
_ANSWER_BYTES_MAX = 64 * 1024 * 1024


class AskFailed(Exception):
    """The gateway did not do it: what it said, in a line; `code` is the exit code that tells so."""

    def __init__(self, detail: str, *, code: int) -> None:
        super().__init__(detail)
        self.code = code


@attrs.frozen
class AdminClient:
    """Asks one gateway."""

    base: str  # its URL without a path
    token: str | None = attrs.field(default=None, repr=False)
    ask_seconds: float = ASK_SECONDS

    async def ask(
        self, method: str, path: str, *, query: Mapping[str, object] | None = None, body: object = None
    ) -> Any:
        """Ask, and give the answer's JSON; None: there is none.

        Args:
          path: below `/admin`, with its parts encoded: see `session_path`.
          query: parameters; those that are None are left out.
          body: sent as JSON; None: nothing.

        Raises:
          AskFailed

        Cancellation: what was asked may be done all the same.
        """
        given = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        target = f"/admin{path}{'?' if given else ''}{urlencode(given)}"
        raw = None if body is None else msgspec.json.encode(body)
        with trio.move_on_after(self.ask_seconds):
            # http.client bounds each read, not their sum; so the thread is left behind if somebody drips bytes at us
            status, answer = await trio.to_thread.run_sync(self._ask, method, target, raw, abandon_on_cancel=True)
            return _understood(status, answer, self.base)
        raise AskFailed(f"{self.base}: no answer within {self.ask_seconds:g} s", code=2)

    def _ask(self, method: str, target: str, body: bytes | None) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = self._connection()
        try:
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(_ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            raise AskFailed(f"{self.base}: {error or type(error).__name__}", code=2) from None
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.base)
        host = parts.hostname or ""
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, parts.port, timeout=self.ask_seconds, context=context)
        return http.client.HTTPConnection(host, parts.port, timeout=self.ask_seconds)


def session_path(name: str, below: str = "") -> str:
    """Give the path of a session, by its reference or id."""
    return f"/sessions/{quote(name, safe='')}{below}"


def make_client(url: str | None, token_file: Path | None, environment: Mapping[str, str]) -> AdminClient:
    """Make a client from what the command line and the environment say.

    Raises:
      Refused: in a line for people.
    """
    listen, token = facts()["listen"], facts()["operators_token"]
    try:
        base = health_base(
            url if url is not None else local_url(read_address(environment.get(listen.variable) or listen.default_text))
        )
    except Refused as refused:
        named = listen.variable if url is None else f"--url {redacted(url)}"
        raise Refused(f"{named}: {refused}") from None
    if token_file is None:
        return AdminClient(base, _checked(environment.get(token.variable) or None, token.variable))
    try:
        text = token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise Refused(f"--token-file {token_file}: {reason}") from None
    return AdminClient(base, _checked(text, f"--token-file {token_file}"))


def _checked(token: str | None, name: str) -> str | None:
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise Refused(f"{name}: a token is one line of visible ASCII characters")
    return token


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _understood(status: int, answer: bytes, base: str) -> Any:
    if status == 204:
        return None
    try:
        content = msgspec.json.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise AskFailed(f"{base}: it answered {status}, and no JSON: is this a gateway?", code=2) from None
    if status == 200:
        return content
    raise AskFailed(_reason(status, content), code=2 if status in (400, 401, 403, 415, 422) else 1)


def _reason(status: int, content: Any) -> str:
    """Give what a gateway said: a problem, or in its own words where a request comes no further than its door."""
    said = content if isinstance(content, dict) else {}
    error = said.get("error")
    detail = said.get("detail") or (error.get("message") if isinstance(error, dict) else None) or f"status {status}"
    where = said.get("field")
    return f"{detail} (at {where})" if where else str(detail)
