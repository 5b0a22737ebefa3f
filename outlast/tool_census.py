"""The census of tools: whether a server has a tool of the name of the gateway's own, asked of each once, at the start.

Whoever wants our tool offered (`expose_health_tool`) is told at once where it cannot be: a server that answers and has
one of that name refuses the start, before anything is written. But no start depends on a server: one that is away, or
takes longer than `PATIENCE_SECONDS`, is asked on in the background, and what is found then is noted as what is found in
a list that a client asks for: its own tool stays, ours is not offered there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager

import structlog
import trio

from actors.link import Connect, ConnectFailed, ConnectRejected
from actors.own_tools import OwnTools
from actors.supervisor import ChildSpec, Restart, supervise
from outlast.endings import StartRefused
from transport.upstreams.own_session import HandshakeDeclined, own_session, tool_names_without_session
from transport.upstreams.stateless import StatelessUpstream

PATIENCE_SECONDS = 3.0  # a server over stdio takes one or two to start; clients' requests wait for five
ANSWER_SECONDS_MAX = 30.0  # as for the answers of a handshake that is repeated
ENDING_SECONDS = 2.0  # for the ends of sessions to reach their servers

log = structlog.get_logger("outlast.tool_census")


class ToolCensus:
    """One census; `run` asks all servers at once."""

    def __init__(
        self,
        own_tools: OwnTools,
        servers: Iterable[str],
        connect: Connect,
        stateless: Mapping[str, StatelessUpstream],
    ) -> None:
        """
        Args:
          servers: whom to ask, by name.
          connect: opens links to them.
          stateless: by name, those that are also asked without a session.
        """
        self._own_tools = own_tools
        self._servers = tuple(servers)
        self._connect = connect
        self._stateless = stateless
        self._unheard = set(self._servers)
        self._heard_all = trio.Event()
        self._colliding: set[str] = set()
        self._is_late = False

    @property
    def unsettled(self) -> bool:
        """Whether sessions that were opened for it may have to be ended yet; until everybody was asked they may."""
        return bool(self._unheard or self._colliding)

    async def ask(self, nursery: trio.Nursery, patience_seconds: float) -> None:
        """Ask all servers, and wait for a while; who has said nothing then is asked on in the nursery.

        Raises:
          StartRefused: some have a tool of the name of ours; all of those that said so in time are named.

        Cancellation: sessions that were opened for it are ended with the nursery.
        """
        for server in self._servers:
            ask = functools.partial(self._ask_one, server, nursery)
            # Supervised: what a server says may find a defect, which is to cost no start.
            spec = ChildSpec("census of tools", ask, Restart.TEMPORARY)
            nursery.start_soon(supervise, spec)
        with trio.move_on_after(patience_seconds):
            if self._servers:
                await self._heard_all.wait()
        self._is_late = True
        if self._colliding:
            raise StartRefused(self._refusal())
        if self._unheard:
            servers = sorted(self._unheard)
            log.info("servers are asked for their tools on in the background", servers=servers)

    def _refusal(self) -> str:
        names = ", ".join(repr(server) for server in self._servers if server in self._colliding)
        tool, (who, have) = self._own_tools.name, _NUMBERS[len(self._colliding) > 1]
        return (
            f"expose_health_tool: {who} {names} {have} a tool {tool} of {'their' if have == 'have' else 'its'} own:"
            " rename it there, or leave expose_health_tool out"
        )

    async def _ask_one(self, server: str, nursery: trio.Nursery) -> None:
        try:
            await self._note_answer(server, nursery)
        except (ConnectFailed, ConnectRejected) as error:
            log.warning(
                "a server could not be asked for its tools at the start",
                server=server,
                why=str(error),
                what_follows=f"whether it has a tool {self._own_tools.name} is seen when a client asks for its list",
            )
        finally:
            self._note_heard(server)

    async def _note_answer(self, server: str, nursery: trio.Nursery) -> None:
        try:
            session = own_session(self._connect, server, nursery, answer_seconds_max=ANSWER_SECONDS_MAX)
            async with session as opened:
                self._note_names(server, await opened.tool_names())
        except HandshakeDeclined:
            upstream = self._stateless.get(server)
            if upstream is None:
                raise
            names = await tool_names_without_session(upstream, answer_seconds_max=ANSWER_SECONDS_MAX)
            self._note_names(server, names)

    def _note_names(self, server: str, names: frozenset[str]) -> None:
        if self._own_tools.name in names:
            if self._is_late:
                self._own_tools.note_taken(server)
            else:
                self._colliding.add(server)
        self._note_heard(server)

    def _note_heard(self, server: str) -> None:
        self._unheard.discard(server)
        if not self._unheard:
            self._heard_all.set()


_NUMBERS = {False: ("the server", "has"), True: ("the servers", "have")}


@asynccontextmanager
async def taking(
    census: ToolCensus, wait_carried: Callable[[], Awaitable[None]], *, patience_seconds: float = PATIENCE_SECONDS
) -> AsyncIterator[None]:
    """Take a census before a block, and go on with it, where it takes longer, during the block at most.

    Args:
      wait_carried: waits until what was given to the pool of connections has left, and was answered.

    Raises:
      StartRefused: before the block (in a group, as everything that leaves a nursery).

    Cancellation: sessions that were opened for it are ended, for which this takes `ENDING_SECONDS` more at most.
    """
    settled_seconds = math.inf  # when the last of what was asked may have left, on trio's clock
    try:
        async with trio.open_nursery() as nursery:
            try:
                await census.ask(nursery, patience_seconds)
                settled_seconds = trio.current_time()
                yield
            finally:
                nursery.cancel_scope.cancel()
    finally:
        # The last requests of what was asked would be cut off with the pool. Shielded, and so bounded: a start that is
        # given up in the middle of this (SIGTERM) would leave a session at each server.
        if census.unsettled or trio.current_time() - settled_seconds < ENDING_SECONDS:
            with trio.move_on_after(ENDING_SECONDS, shield=True):
                await wait_carried()
