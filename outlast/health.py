"""Asking a running gateway how it is, for people and for probes: its report at /health, or, of one that has none there,
/healthz (alive?) and /readyz (serving?).

It asks directly, never through a proxy from the environment: a probe must see the gateway and nothing in
between.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import trio

from outlast.finding import Finding, State, lines_of
from outlast.kinds import Refused

ASK_SECONDS = 5.0  # all questions together; probes are usually given 1 to 10 s
_ANSWER_BYTES_MAX = 1024 * 1024


@attrs.frozen
class Health:
    """What a gateway said of itself."""

    url: str
    alive: bool
    ready: bool
    detail: str  # what it said, or why there was no answer; one line
    document: Mapping[str, Any] | None = None  # its report; None: it gave none

    @property
    def state(self) -> State:
        """How it is."""
        if self.document is not None:
            return _state_of(self.document.get("status"))
        return State.HEALTHY if self.ready else State.DEGRADED if self.alive else State.DOWN

    @property
    def code(self) -> int:
        """The exit code that says it to a probe."""
        return int(self.state)

    def __str__(self) -> str:
        state = "ready" if self.ready else "alive, not ready" if self.alive else "no answer"
        if self.document is not None:
            state = f"{self.state}, {'ready' if self.ready else 'not ready'}"
        return f"{self.url}: {state}{f' ({self.detail})' if self.detail else ''}"

    def lines(self) -> Iterator[str]:
        """Write the findings for people; nothing where there are none."""
        yield from lines_of(_findings(self.document or {}))

    def as_json(self) -> Mapping[str, Any]:
        """Write it for programs."""
        if self.document is not None:
            return {"url": self.url, **self.document}
        return {"url": self.url, "status": str(self.state), "ready": self.ready, "detail": self.detail}


def health_base(url: str) -> str:
    """Check the URL of a gateway and give it without its path.

    Raises:
      Refused
    """
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc:
        raise Refused("it must be the URL of a gateway, for example http://127.0.0.1:8080")
    return f"{parts.scheme}://{parts.netloc}"


def trust(cafile: Path | None) -> ssl.SSLContext:
    """Make the context to ask over HTTPS with.

    Args:
      cafile: whom to trust, PEM; None: whom the system trusts.

    Raises:
      Refused: it cannot be read, or has no certificate in it.
    """
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as error:  # ssl.SSLError is one
        raise Refused(f"it must be a file of certificates (PEM): {error.strerror or error}") from None


async def ask_health(
    base: str,
    *,
    token: str | None = None,
    ask_seconds: float = ASK_SECONDS,
    context: ssl.SSLContext | None = None,
) -> Health:
    """Ask a gateway how it is.

    Args:
      base: its URL without a path, as `health_base` gives it.
      token: the operators' token, for the report in full; None: who comes from the same machine needs none.
      ask_seconds: how long all questions may take.
      context: whom to trust, for https; None: whom the system trusts.
    """
    with trio.move_on_after(ask_seconds):
        # http.client bounds each read, not their sum; so the thread is left behind if somebody drips bytes at
        # us.
        return await trio.to_thread.run_sync(_ask, base, token, ask_seconds, context, abandon_on_cancel=True)
    return Health(base, alive=False, ready=False, detail=f"nothing within {ask_seconds:g} s")


def _ask(base: str, token: str | None, ask_seconds: float, context: ssl.SSLContext | None) -> Health:
    try:
        document = _document(_get(base, "/health", ask_seconds, context, token)[1])
        if document is not None:
            return _reported(base, document)
        status, text = _get(base, "/healthz", ask_seconds, context)
        if status != 200:
            return Health(base, alive=False, ready=False, detail=f"/healthz: {status} {text}".rstrip())
        status, text = _get(base, "/readyz", ask_seconds, context)
    except (OSError, http.client.HTTPException) as error:
        return Health(base, alive=False, ready=False, detail=str(error) or type(error).__name__)
    return Health(base, alive=True, ready=status == 200, detail=text)


def _document(text: str) -> Mapping[str, Any] | None:
    """Read a health report; None if this is none (another program's page, an error of something in between)."""
    try:
        document = json.loads(text)
    except ValueError:
        return None
    known = (
        isinstance(document, dict) and "ready" in document and document.get("status") in [str(state) for state in State]
    )
    return document if known else None


def _reported(base: str, document: Mapping[str, Any]) -> Health:
    detail = document.get("reason") or document.get("version") or ""
    if not detail and isinstance(areas := document.get("areas"), dict):
        troubled = [f"{area} {state}" for area, state in areas.items() if state != str(State.HEALTHY)]
        detail = ", ".join(troubled) or "in detail for operators only: set OUTLAST_OPERATORS_TOKEN"
    return Health(base, alive=True, ready=bool(document["ready"]), detail=str(detail), document=document)


def _state_of(text: object) -> State:
    return next((state for state in State if str(state) == text), State.DOWN)


def _findings(document: Mapping[str, Any]) -> Sequence[Finding]:
    found = document.get("findings")
    return [
        Finding(str(one.get("about")), _state_of(one.get("status")), str(one.get("said")), str(one.get("advice") or ""))
        for one in (found if isinstance(found, list) else [])
        if isinstance(one, dict)
    ]


def _get(
    base: str, path: str, ask_seconds: float, context: ssl.SSLContext | None, token: str | None = None
) -> tuple[int, str]:
    parts = urlsplit(base)
    host = parts.hostname or ""
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=ask_seconds, context=context or trust(None)
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=ask_seconds)
    headers = {"Accept": "application/json, text/plain"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        text = answer.read(_ANSWER_BYTES_MAX).decode(errors="replace")
    finally:
        connection.close()
    return answer.status, " ".join(text.split())
