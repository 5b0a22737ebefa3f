"""InFlight: the requests that an upstream has yet to answer, and whose progress is whose.

For transports whose messages come all on one way: an answer tells its request by its id, progress by the token that the
request brought along, anything else not at all.
"""

from __future__ import annotations

import msgspec

from actors.jsonrpc import Message, RequestId, misanswered_id
from actors.link import About
from actors.reading import reader

PROGRESS = "notifications/progress"


class _Progress(msgspec.Struct, frozen=True):
    progressToken: int | str | None = None  # the protocol's name


class _Meta(msgspec.Struct, frozen=True):
    _meta: _Progress = _Progress()


class _RequestParams(msgspec.Struct, frozen=True):
    params: _Meta = _Meta()


class _ProgressParams(msgspec.Struct, frozen=True):
    params: _Progress = _Progress()


_decode_request_params = reader(_RequestParams)
_decode_progress_params = reader(_ProgressParams)


class InFlight:
    """Bounded by nature: a session has a bounded number of calls in flight."""

    __slots__ = ("_by_token", "_tickets", "_tokens")

    def __init__(self) -> None:
        self._tickets: dict[RequestId, int] = {}  # under which each request was sent
        self._tokens: dict[RequestId, int | str | None] = {}  # the progress token of each request
        self._by_token: dict[int | str, RequestId] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, request_id: RequestId | None) -> bool:
        return request_id in self._tokens

    def add(self, request: Message, ticket: int) -> None:
        """Take note that a request is sent."""
        assert request.id is not None
        self._tickets[request.id] = ticket
        token = _token_of_request(request.raw)
        self._tokens[request.id] = token
        if token is not None:
            self._by_token[token] = request.id

    def forget(self, request_id: RequestId) -> None:
        """Take note that it is answered, or given up."""
        self._tickets.pop(request_id, None)
        token = self._tokens.pop(request_id, None)
        if token is not None and self._by_token.get(token) == request_id:
            del self._by_token[token]

    def clear(self) -> None:
        """Forget all of them."""
        self._tickets.clear()
        self._tokens.clear()
        self._by_token.clear()

    def misanswered(self, raw: bytes) -> int | None:
        """Take note of something that is no message.

        Returns:
          the ticket of the request that it was meant to answer, which is in flight no more; None if there is none.
        """
        request_id = misanswered_id(raw)
        if request_id is None or request_id not in self._tickets:
            return None
        ticket = self._tickets[request_id]
        self.forget(request_id)
        return ticket

    def about(self, message: Message) -> RequestId | About:
        """Say which request a notification or a request of the upstream belongs to, as far as it tells."""
        if message.method != PROGRESS:
            return About.UNKNOWN
        try:
            token = _decode_progress_params(message.raw).params.progressToken
        except (msgspec.DecodeError, UnicodeDecodeError):
            return About.UNKNOWN
        return About.UNKNOWN if token is None else self._by_token.get(token, About.UNKNOWN)


def _token_of_request(raw: bytes) -> int | str | None:
    """Find the progress token of an outgoing request; nearly none has one, so nearly none is decoded."""
    if b"progressToken" not in raw:
        return None
    try:
        return _decode_request_params(raw).params._meta.progressToken
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
