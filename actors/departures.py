"""Departures: sessions at rest whose time is over. They end here; then the other side, which has them too, is told.

First here, durably, and then there. Told first, the other side would have forgotten a session that lives on when its
end could not be kept: on a full disk, or where another process has the store by now, whose client goes on with it and
whose fence refuses our burial. So a crash between the two costs the other side one session, or as many as are under way
at that instant; its own expiry takes care of those. What still waits here is still stored: the next process finds it
due, and tells.

For whoever asks, a session has ended as soon as it is taken here. Its record goes when it is its turn; who has waited
for that for too long, behind a server that takes its time, is removed without a word. Nothing is told of sessions whose
record cannot be read, and of those that never had a handshake. A session in memory needs none of this: its actor knows
its link (`link_holder.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial

import attrs
import structlog
import trio

from actors.ids import SessionId
from actors.loading import NotLoaded, load
from actors.log_context import start_apart
from actors.mailbox import OneShot
from actors.snapshots import from_snapshot
from actors.state import SessionState
from actors.supervisor import ChildSpec, Restart, supervise
from actors.surroundings import Surroundings
from actors.upstream_ending import EndsSessions, Told, UpstreamEnding
from persistence.records import SnapshotHeader, Tombstone
from persistence.writer import Receipt

log = structlog.get_logger("outlast.departures")

PERMITS = 64  # at a time in all, as for restoring
PERMITS_PER_SERVER = 8
# A server that answers at all answers in milliseconds: eight at a time are thousands in this time. One that is silent
# costs `TELL_SECONDS_MAX` each: a hundred of them, and then no more.
WAIT_SECONDS_MAX = 60.0


@attrs.frozen
class DepartureStatistics:
    """How many of those that have left had something to be told of."""

    told: int  # the server has ended the session, or had forgotten it
    not_told: int  # it was away, refused, was silent; or it was not known what to tell


@attrs.define(eq=False)
class _Departure:
    header: SnapshotHeader
    reason: str
    since_seconds: float  # on trio's clock
    buried: bool = False  # its end is with the writer
    stays: bool = False  # the store is away: it is found due again


@attrs.define(eq=False)
class _Server:
    """Who leaves one server, and what became of that since the queue was empty last."""

    server_id: str
    queue: deque[_Departure] = attrs.field(factory=deque)  # bounded by nature: each was in the index before
    workers: int = 0
    not_told: int = 0
    why: str = ""  # of the last one


class Departures:
    """Those of one registry."""

    def __init__(
        self, shared: Surroundings, *, stopping: Callable[[], bool], stays: Callable[[SnapshotHeader], None]
    ) -> None:
        """
        Args:
          stopping: whether the process is on its way out: then nobody leaves any more.
          stays: told of a session that could not leave now, and is there as before.
        """
        self._shared = shared
        self._stopping = stopping
        self._stays = stays
        self._servers: dict[str, _Server] = {}  # those with somebody under way
        self._under_way: set[str] = set()
        self._limiter = trio.CapacityLimiter(PERMITS)
        self._told = 0
        self._not_told = 0

    def __contains__(self, session_id: object) -> bool:
        """Whether this session is about to leave, and may still be stored."""
        return session_id in self._under_way

    def __len__(self) -> int:
        return len(self._under_way)

    def statistics(self) -> DepartureStatistics:
        """Count what was told, and what was not, since the start."""
        return DepartureStatistics(self._told, self._not_told)

    def bury(self, header: SnapshotHeader, reason: str) -> OneShot[Receipt]:
        """Have a session's end kept, soon; nobody is told. One for whose end there is no room stays.

        Returns:
          what is set when it is durable, or will not be.
        """
        settled: OneShot[Receipt] = OneShot()

        def note(receipt: Receipt) -> None:
            if receipt.failure is not None:  # there was no room even for that: the reaper tries again
                self._stays(header)
            settled.set(receipt)

        session_id = SessionId(header.session_id)
        self._shared.writer.bury(Tombstone(session_id, reason, self._shared.clock.now_unix_s()), note)
        return settled

    def take(self, header: SnapshotHeader, reason: str) -> None:
        """Have a session leave, soon: buried, and then its server told, if that may keep anything."""
        if not isinstance(self._shared.connect, EndsSessions):
            self.bury(header, reason)
            return
        self._under_way.add(header.session_id)
        server = self._servers.setdefault(header.server_id, _Server(header.server_id))
        server.queue.append(_Departure(header, reason, trio.current_time()))
        if server.workers < PERMITS_PER_SERVER:
            server.workers += 1
            start_apart(self._shared.link_nursery, self._work, server)

    # ---- the work ----

    async def _work(self, server: _Server) -> None:
        try:
            while server.queue and not self._stopping():
                departure = server.queue.popleft()
                # Supervised: what one record does to us is no reason to keep the others.
                child = ChildSpec("departure", partial(self._depart, server, departure), Restart.TEMPORARY)
                async with self._limiter:
                    await supervise(child)
                self._under_way.discard(departure.header.session_id)
                if departure.stays:
                    self._have_stay(departure, *server.queue)
                    server.queue.clear()
                elif not (departure.buried or self._stopping()):  # its record is what broke us
                    self.bury(departure.header, departure.reason)
        finally:
            server.workers -= 1
            if not server.workers:
                self._sum_up(self._servers.pop(server.server_id))

    def _have_stay(self, *departures: _Departure) -> None:
        """Have them found due again: those that wait, too, which is no fault of their server's."""
        for departure in departures:
            self._under_way.discard(departure.header.session_id)
            self._stays(departure.header)

    async def _depart(self, server: _Server, departure: _Departure) -> None:
        waited_seconds = trio.current_time() - departure.since_seconds
        state, why = None, ""
        if waited_seconds > WAIT_SECONDS_MAX:
            why = f"it was not its turn within {WAIT_SECONDS_MAX:g} s"
        else:
            try:
                state = from_snapshot(await load(self._shared, departure.header.session_id))
            except NotLoaded as failed:
                departure.stays = failed.away
                why = f"its record cannot be read: {failed.outcome.detail}"
        if departure.stays or self._stopping():
            return
        departure.buried = True
        receipt = await self._settled(self.bury(departure.header, departure.reason))
        if receipt is not None and receipt.failure is not None:  # it has not ended, and is found due again
            return
        if receipt is None:
            why = "the store did not keep its end in time"
        if why:
            self._note(server, Told.NOT_TOLD, why)
        elif state is not None and state.handshake is not None and not self._stopping():
            await self._tell(server, state)

    async def _settled(self, burial: OneShot[Receipt]) -> Receipt | None:
        with trio.move_on_after(self._shared.store_wait_seconds):
            return await burial.wait()
        return None

    async def _tell(self, server: _Server, state: SessionState) -> None:
        ending = UpstreamEnding()
        await ending.tell(self._shared.connect, state)  # for some seconds at most
        end = await ending.wait()
        self._note(server, end.told, end.detail)

    def _note(self, server: _Server, told: Told, why: str) -> None:
        if told is Told.NOT_TOLD:
            self._not_told += 1
            server.not_told += 1
            server.why = why
        elif told is Told.TOLD:
            self._told += 1

    def _sum_up(self, server: _Server) -> None:
        if server.not_told:  # one line for all that left together: a server that is away is no news for each session
            what = "sessions have ended, and their server was not told"
            log.warning(what, server=server.server_id, sessions=server.not_told, why=server.why)
