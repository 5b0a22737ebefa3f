"""A session of the gateway's own with a server, to ask it something about itself: opened, asked, and ended for good.

It is nobody's: no actor, no record, no client. It offers the server nothing, so that the server asks nothing of it;
what the server says besides answers is dropped. Servers of the revision without sessions are asked without one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import attrs
import msgspec
import trio

from actors import jsonrpc
from actors import messages as say
from actors.ids import SESSION_ID_RANDOM_BYTES, mint_session_id
from actors.inbox import LinkInbox
from actors.jsonrpc import Message
from actors.link import Connect, ConnectFailed, Failure, Link
from actors.own_tools import LIST
from actors.reading import reader
from actors.state import LogState, SessionState
from transport import modern
from transport.revisions import HANDSHAKE_REVISIONS
from transport.upstreams.handshake import (
    INITIALIZE,
    INITIALIZED,
    InvalidTerms,
    NoAnswer,
    Rehearsal,
    Terms,
    describe_error,
    own_id,
    read_terms,
)
from transport.upstreams.http_target import default_user_agent
from transport.upstreams.stateless import Answer, ServerUnavailable, StatelessUpstream, answer_within

PAGES_MAX = 64  # of a list; a server whose list is longer, or never ends, cannot be asked

_CLIENT = dict(zip(("name", "version"), default_user_agent().split("/"), strict=True))


class HandshakeDeclined(ConnectFailed):
    """The server answers, and takes no handshake: perhaps it speaks only the revision without sessions."""


@attrs.frozen
class OwnSession:
    """An open one."""

    _link: Link
    _rehearsal: Rehearsal
    _terms: Terms
    _seconds: float

    async def tool_names(self) -> frozenset[str]:
        """Give the names of the server's tools; none where it does not offer any.

        Raises:
          ConnectFailed: it does not say.

        Cancellation: safe.
        """
        if not isinstance(self._terms.capabilities.get("tools"), dict):
            return frozenset()

        async def ask(params: Mapping[str, str]) -> Message:
            request = jsonrpc.request(own_id("tools"), LIST, dict(params))
            try:
                return await self._rehearsal.ask(self._link, request, seconds=self._seconds)
            except NoAnswer as error:
                raise ConnectFailed(error.detail) from None

        return await _names_of_all_pages(ask)


@asynccontextmanager
async def own_session(
    connect: Connect, server_id: str, nursery: trio.Nursery, *, answer_seconds_max: float
) -> AsyncIterator[OwnSession]:
    """Have a session with a server for the length of a block; then it is ended there, too.

    Args:
      nursery: runs the link's tasks; one of them sees to it that a process is gone, and outlasts the block for that.
      answer_seconds_max: for each answer.

    Raises:
      ConnectFailed: it cannot be had now.
      HandshakeDeclined: also a ConnectFailed.

    Cancellation: it is ended, as at the end of the block.
    """
    stand_in = _StandIn(_state(server_id))
    inbox = LinkInbox(stand_in, nursery)
    rehearsal = stand_in.rehearsal = Rehearsal(inbox)
    try:
        link = await connect(stand_in.state, rehearsal)
        try:
            terms = await _open(link, rehearsal, answer_seconds_max)
            yield OwnSession(link, rehearsal, terms, answer_seconds_max)
        finally:
            link.close(end_session=True)
    finally:
        inbox.close()


async def tool_names_without_session(upstream: StatelessUpstream, *, answer_seconds_max: float) -> frozenset[str]:
    """Give the names of the tools of a server that is asked without a session (2026-07-28).

    Raises:
      ConnectFailed: it does not say.

    Cancellation: the request is given up.
    """

    async def ask(params: Mapping[str, str]) -> Message:
        request = modern.own_request(own_id("tools"), LIST, _CLIENT, params)
        try:
            end = await answer_within(await upstream.send(request), answer_seconds_max)
        except ServerUnavailable as error:
            raise ConnectFailed(str(error)) from None
        if isinstance(end, Answer):
            return end.message
        raise ConnectFailed(f"no answer within {answer_seconds_max:g} s" if end is None else end.detail)

    return await _names_of_all_pages(ask)


class _StandIn:
    """Implements `actors.inbox.Owner` in place of a session actor: nobody is there to hear anything."""

    def __init__(self, state: SessionState) -> None:
        self.state = state
        self.rehearsal: Rehearsal | None = None

    def tell(self, command: say.Command) -> None:
        """Nothing is told past the rehearsal."""

    def pinged(self, receive: say.Receive) -> None:
        """As `tell`."""

    def link_lost(self, inbox: LinkInbox, detail: str) -> None:
        """A task of the link has crashed."""
        if self.rehearsal is not None:
            self.rehearsal.lost(detail)


def _state(server_id: str) -> SessionState:
    now_unix_s = time.time()
    return SessionState(
        session_id=mint_session_id(secrets.token_bytes(SESSION_ID_RANDOM_BYTES)),
        server_id=server_id,
        created_unix_s=now_unix_s,
        last_active_unix_s=now_unix_s,
        ttl_seconds=0.0,
        log=LogState(epoch=0),
    )


async def _open(link: Link, rehearsal: Rehearsal, seconds: float) -> Terms:
    params = {"protocolVersion": HANDSHAKE_REVISIONS[-1], "capabilities": {}, "clientInfo": _CLIENT}
    request = jsonrpc.request(own_id("initialize"), INITIALIZE, params)
    try:
        answer = await rehearsal.ask(link, request, seconds=seconds)
        if answer.is_error:
            raise HandshakeDeclined(f"initialize was refused: {describe_error(answer)}")
        terms = read_terms(answer.raw)
        await rehearsal.tell(link, jsonrpc.notification(INITIALIZED), seconds=seconds)
    except NoAnswer as error:
        raise (HandshakeDeclined if error.failure is Failure.REFUSED else ConnectFailed)(error.detail) from None
    except InvalidTerms as error:
        raise HandshakeDeclined(f"not an initialize result: {error}") from None
    return terms


async def _names_of_all_pages(ask: Callable[[Mapping[str, str]], Awaitable[Message]]) -> frozenset[str]:
    names: set[str] = set()
    params: dict[str, str] = {}
    for _ in range(PAGES_MAX):
        page = _read_page(await ask(params))
        names.update(tool.name for tool in page.tools)
        if page.nextCursor is None:
            return frozenset(names)
        params = {"cursor": page.nextCursor}
    raise ConnectFailed(f"its list of tools has no end within {PAGES_MAX} pages")


class _Named(msgspec.Struct, gc=False):
    name: str = ""


class _Page(msgspec.Struct, gc=False):
    tools: list[_Named]
    nextCursor: str | None = None  # the protocol's name


class _PageAnswer(msgspec.Struct, gc=False):
    result: _Page


_decode_page = reader(_PageAnswer)


def _read_page(answer: Message) -> _Page:
    if answer.is_error:
        raise ConnectFailed(f"tools/list was refused: {describe_error(answer)}")
    try:
        return _decode_page(answer.raw).result
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConnectFailed(f"not a list of tools: {error}") from None
