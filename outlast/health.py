"""Asking a running gateway how it is: /healthz (alive?) and /readyz (serving?), for people and for probes.

It asks directly, never through a proxy from the environment: a probe must see the gateway and nothing in
between.
"""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import trio

from outlast.kinds import Refused

ASK_SECONDS = 5.0  # both questions together; probes are usually given 1 to 10 s
_ANSWER_BYTES_MAX = 64 * 1024


@attrs.frozen
class Health:
    """What a gateway said of itself."""

    url: str
    alive: bool
    ready: bool
    detail: str  # what it said, or why there was no answer; one line

    @property
    def code(self) -> int:
        """The exit code that says it to a probe."""
        return 0 if self.ready else 1 if self.alive else 2

    def __str__(self) -> str:
        state = "ready" if self.ready else "alive, not ready" if self.alive else "no answer"
        return f"{self.url}: {state}{f' ({self.detail})' if self.detail else ''}"


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


async def ask_health(base: str, *, ask_seconds: float = ASK_SECONDS, context: ssl.SSLContext | None = None) -> Health:
    """Ask a gateway whether it is alive and ready.

    Args:
      base: its URL without a path, as `health_base` gives it.
      ask_seconds: how long both questions may take.
      context: whom to trust, for https; None: whom the system trusts.
    """
    with trio.move_on_after(ask_seconds):
        # http.client bounds each read, not their sum; so the thread is left behind if somebody drips bytes at
        # us.
        return await trio.to_thread.run_sync(_ask, base, ask_seconds, context, abandon_on_cancel=True)
    return Health(base, alive=False, ready=False, detail=f"nothing within {ask_seconds:g} s")


def _ask(base: str, ask_seconds: float, context: ssl.SSLContext | None) -> Health:
    try:
        status, text = _get(base, "/healthz", ask_seconds, context)
        if status != 200:
            return Health(base, alive=False, ready=False, detail=f"/healthz: {status} {text}".rstrip())
        status, text = _get(base, "/readyz", ask_seconds, context)
    except (OSError, http.client.HTTPException) as error:
        return Health(base, alive=False, ready=False, detail=str(error) or type(error).__name__)
    return Health(base, alive=True, ready=status == 200, detail=text)


def _get(base: str, path: str, ask_seconds: float, context: ssl.SSLContext | None) -> tuple[int, str]:
    parts = urlsplit(base)
    host = parts.hostname or ""
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=ask_seconds, context=context or trust(None)
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=ask_seconds)
    try:
        connection.request("GET", path, headers={"Accept": "application/json, text/plain"})
        answer = connection.getresponse()
        text = answer.read(_ANSWER_BYTES_MAX).decode(errors="replace")
    finally:
        connection.close()
    return answer.status, " ".join(text.split())
