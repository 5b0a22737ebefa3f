"""RequestFilter: lets through only bytes that the hot road would accept too. Pure.

It stands in front of hypercorn, whose parser (h11) takes more than we want: a length beside a transfer coding,
equal lengths given twice, folded headers, bare line feeds, HTTP/1.0. By the time an ASGI app sees the request these
are smoothed over, so they have to be caught on the wire. With the filter, both roads refuse the same things.
"""

from __future__ import annotations

from collections.abc import Mapping

from transport.chunked import ChunkedDecoder
from transport.handler import BadRequest, HttpLimits
from transport.head import CHUNKED, parse_head, refuse_endless_head


class RequestFilter:
    """Follows one connection's requests; passes their bytes on unchanged, heads only when they are whole."""

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._pending = b""  # of a head that is not whole yet
        self._body_remaining = 0
        self._chunked: ChunkedDecoder | None = None
        self._upgraded = False  # from here on the bytes are not HTTP (WebSocket)
        self._refusal: BadRequest | None = None

    @property
    def in_head(self) -> bool:
        """Whether a head has begun and is not whole."""
        return bool(self._pending)

    @property
    def has_upgraded(self) -> bool:
        """Whether what follows is not HTTP any more, if the upgrade that was asked for is accepted."""
        return self._upgraded

    @property
    def has_refused(self) -> bool:
        """Whether the next `feed` raises, whatever it is given."""
        return self._refusal is not None

    def feed(self, data: bytes) -> bytes:
        """Take bytes of the client; give those that may pass.

        Raises:
          BadRequest: what comes now must not pass; everything before it was given.
        """
        if self._refusal is not None:
            raise self._refusal
        passed: list[bytes] = []
        data, self._pending = self._pending + data, b""
        try:
            while data:
                data = self._step(data, passed)
        except BadRequest as refusal:
            self._refusal = refusal
            if not passed:
                raise
        return b"".join(passed)

    def _step(self, data: bytes, passed: list[bytes]) -> bytes:
        """Pass what belongs to one part of a request; give the bytes behind it."""
        if self._upgraded:
            passed.append(data)
            return b""
        if self._body_remaining:
            piece, data = data[: self._body_remaining], data[self._body_remaining :]
            self._body_remaining -= len(piece)
            passed.append(piece)
            return data
        if self._chunked is not None:
            return self._step_chunked(self._chunked, data, passed)
        return self._step_head(data, passed)

    def _step_chunked(self, decoder: ChunkedDecoder, data: bytes, passed: list[bytes]) -> bytes:
        decoder.feed(data)
        if decoder.done:
            self._chunked = None
        passed.append(data[: len(data) - len(decoder.rest)])
        return decoder.rest

    def _step_head(self, data: bytes, passed: list[bytes]) -> bytes:
        if data.startswith(b"\r\n"):
            data = data[2:]
        end = data.find(b"\r\n\r\n")
        if end < 0:
            refuse_endless_head(data, self._limits)
            self._pending = data
            return b""
        if end > self._limits.head_bytes_max:
            raise BadRequest(431, f"the head is larger than {self._limits.head_bytes_max} bytes")
        raw, data = data[: end + 4], data[end + 4 :]
        parsed = parse_head(raw, self._limits, peer="")
        if parsed.body_length > self._limits.body_bytes_max:
            raise BadRequest(413, f"the body is larger than {self._limits.body_bytes_max} bytes")
        if parsed.body_length == CHUNKED:
            self._chunked = ChunkedDecoder()
        else:
            self._body_remaining = parsed.body_length
        self._upgraded = asks_for_websocket(parsed.head.method, parsed.head.headers)
        if self._upgraded and parsed.body_length:
            raise BadRequest(400, "an upgrade to WebSocket has no body")
        passed.append(raw)
        return data


def asks_for_websocket(method: str, headers: Mapping[str, str]) -> bool:
    """Tell whether this request asks to speak WebSocket (RFC 6455, 4.1)."""
    tokens = headers.get("connection", "").lower().split(",")
    return (
        method == "GET"
        and headers.get("upgrade", "").lower() == "websocket"
        and any(token.strip() == "upgrade" for token in tokens)
    )
