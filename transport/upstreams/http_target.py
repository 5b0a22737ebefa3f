"""Where an HTTP upstream is, and the request heads that go there.

Pure. A head is written once, as bytes: per request only whose it is and the length of its body are added. Whatever
comes from settings or from the upstream is checked here before it becomes part of a head, so a line break in it can
never begin a header of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from urllib.parse import urlsplit

import attrs

from transport.upstreams.concealment import Concealment

# What every POST of a message says, in all revisions of Streamable HTTP.
POST_HEADERS = (
    ("Content-Type", "application/json"),
    ("Accept", "application/json, text/event-stream"),
    ("Accept-Encoding", "identity"),
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")  # RFC 9110, 5.6.2: token
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*\Z")  # RFC 9110, 5.5, as latin-1
# These frame the message or belong to the session: an operator who sets them by hand breaks the relay.
_OURS = frozenset(
    (
        *("host", "connection", "content-length", "transfer-encoding", "te", "upgrade"),
        *("accept", "accept-encoding", "content-type", "last-event-id"),
        *("mcp-session-id", "mcp-protocol-version"),
    )
)


@attrs.frozen
class Origin:
    """Where connections go to: all upstreams of one origin share them."""

    scheme: str  # http | https
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


@attrs.frozen
class HttpTarget:
    """One upstream's endpoint."""

    origin: Origin
    authority: str  # for the Host header
    path: str  # with the query; percent-encoded
    concealment: Concealment = attrs.field(default=Concealment(), eq=False)  # what of our answers to it may not be told

    @classmethod
    def parse(cls, url: str) -> HttpTarget:
        """Read an absolute http or https URL.

        Raises:
          ValueError: not such a URL, or one that carries credentials (these belong into the headers, which are
            kept out of logs).
        """
        parts = urlsplit(url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError("an upstream's URL looks like https://host/path")
        if parts.username is not None or parts.password is not None:
            raise ValueError("credentials do not belong into an upstream's URL: give them as a header")
        host = parts.hostname if ":" in parts.hostname else parts.hostname.encode("idna").decode()
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        authority = f"[{host}]" if ":" in host else host
        if port != _DEFAULT_PORTS[parts.scheme]:
            authority += f":{port}"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not re.fullmatch(r"[\x21-\x7e]+", path):
            raise ValueError("the path of an upstream's URL must be percent-encoded")
        return cls(Origin(parts.scheme, host, port), authority, path, Concealment.of({}, parts.query))

    def shown(self, headers: Mapping[str, str], tokens: Callable[[], Iterable[str]] = tuple) -> HttpTarget:
        """Give the same endpoint, with these headers known to be ours, and these tokens as of each moment."""
        return attrs.evolve(self, concealment=Concealment.of(headers, self.path.partition("?")[2], tokens))


def default_user_agent() -> str:
    """Name this gateway and its version, as far as it is installed."""
    try:
        return f"outlast/{metadata.version('outlast')}"
    except metadata.PackageNotFoundError:  # run from a source tree
        return "outlast/0"


def check_headers(headers: Mapping[str, str]) -> None:
    """Refuse headers that could not be sent as they are.

    Raises:
      ValueError: names the header, never its value, which may be a secret.
    """
    for name, value in headers.items():
        if not _NAME.match(name) or not _VALUE.match(value):
            raise ValueError(f"header {name!r} has characters that are not allowed in a header")
        if name.lower() in _OURS:
            raise ValueError(f"header {name!r} is set by the gateway itself")


def every_header(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Give the headers that every request carries: an operator's, and who we are where these do not say."""
    if any(name.lower() == "user-agent" for name in headers):
        return tuple(headers.items())
    return (*headers.items(), ("User-Agent", default_user_agent()))


def write_head(method: str, target: HttpTarget, headers: Sequence[tuple[str, str]]) -> bytes:
    """Write a request line and headers, each line ended; the blank line at the end is still to come.

    Args:
      headers: their characters have been checked, or are our own.
    """
    start = f"{method} {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n".encode("latin-1")
    return start + write_headers(headers)


def write_headers(headers: Sequence[tuple[str, str]]) -> bytes:
    """Write headers, each line ended; what their characters are as `write_head`."""
    return "".join([f"{name}: {value}\r\n" for name, value in headers]).encode("latin-1")
