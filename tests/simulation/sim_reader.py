"""Reading as clients do: one connection after another, each from the id of the last event that arrived.

A connection breaks when chance has it, also in the middle of a page: what had not arrived by then was not heard.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing

import trio

from actors.event_log import CursorLost, ReaderEnded
from actors.handle import CommandRejected, SessionHandle, SessionUnavailable
from actors.ids import EventId
from actors.registry import Draining, SessionNotFound
from persistence.store import StoreUnavailable
from tests.simulation.history import Heard, SessionHistory, Shown
from tests.simulation.surroundings import Habits, ProcessDied, Surroundings

CONNECTION_SECONDS_MEAN = 40.0  # until a connection breaks


class SimReader:
    """Reads streams of one session.

    Args:
      handle_of: gives the session at the process that serves.
      hear: told of each event as it arrives, after it was noted.
      gone: told why, when there is no such session any more.
    """

    def __init__(
        self,
        history: SessionHistory,
        world: Surroundings,
        chance: random.Random,
        habits: Habits,
        *,
        attempt: Callable[[Callable[[SessionHandle], Awaitable[None]]], Awaitable[None]],
        hear: Callable[[Shown], None],
        gone: Callable[[str], None],
    ) -> None:
        self._history = history
        self._world = world
        self._chance = chance
        self._habits = habits
        self._attempt = attempt
        self._tell = hear
        self._gone = gone

    async def read_on(self, heard: Heard) -> None:
        """Read with one connection, and note how it ends."""
        read = self._read_events if self._chance.random() < 0.3 else self._read_pages
        try:
            await self._attempt(lambda handle: read(heard, handle))
        except CursorLost as lost:
            self._note_loss(heard, str(lost))
        except (SessionNotFound, CommandRejected) as error:
            self._gone(str(error))
        except (ProcessDied, SessionUnavailable, Draining, StoreUnavailable):
            await trio.sleep(0.5 + self._chance.random())

    def _note_loss(self, heard: Heard, detail: str) -> None:
        if not self._world.was_lost(self._history.session_id, heard.stream, heard.offset):
            self._history.complaints.append(
                f"was told that events after {heard.offset} of stream {heard.stream} are lost; they are not: {detail}"
            )
        if heard.stream == 0:
            heard.gaps.add(len(heard.events))  # come back without a cursor
        else:
            heard.denied = detail

    def _cursor(self, heard: Heard) -> str | None:
        if self._habits.repeats and len(heard.events) > 1 and self._chance.random() < 0.2:
            return heard.events[-2].id
        return heard.cursor

    async def _read_pages(self, heard: Heard, handle: SessionHandle) -> None:
        """Read as transports do: page by page."""
        cursor = self._cursor(heard)
        after = None if cursor is None else EventId.read(handle.id, cursor)
        reading = await handle.read(after, stream=heard.stream)
        try:
            with trio.move_on_after(self._chance.expovariate(1 / CONNECTION_SECONDS_MEAN)):
                while page := await reading.next_page():
                    arrived = page if self._chance.random() < 0.9 else page[: self._chance.randrange(len(page)) + 1]
                    for entry in arrived:
                        self._hear(heard, Shown(reading.event_id(entry.offset), entry.stream, entry.offset, entry.body))
                    reading.shown(arrived[-1].offset)
                    if len(arrived) < len(page):
                        return
                heard.ended = True
        except ReaderEnded:
            return
        finally:
            reading.close()

    async def _read_events(self, heard: Heard, handle: SessionHandle) -> None:
        """Read as applications do: event by event."""
        with trio.move_on_after(self._chance.expovariate(1 / CONNECTION_SECONDS_MEAN)):
            async with aclosing(handle.events(self._cursor(heard), stream=heard.stream)) as events:
                async for event in events:
                    offset = EventId.read(handle.id, event.id).offset
                    self._hear(heard, Shown(event.id, heard.stream, offset, event.message.raw))

    def _hear(self, heard: Heard, shown: Shown) -> None:
        if self._habits.skips and self._chance.random() < 0.05:
            return
        heard.events.append(shown)
        self._tell(shown)
