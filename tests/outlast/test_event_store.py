"""DurableEventStore keeps what it acknowledged, gives back exactly that, and never to another session.

Method: the real thing in its thread, called from asyncio and from trio; the memory store where nothing has to
survive, a SQLite file and another process where it has to.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import anyio
import mcp_types as types
import pytest
from mcp.server.streamable_http import EventMessage

from outlast.event_store import DurableEventStore, EventLimits, SessionEvents
from persistence.memory import MemoryStore
from persistence.records import Batch
from persistence.store import StoreInvalid, StoreUnavailable
from tests.outlast.event_store_bed import LIBRARIES, answer, progress, replayed, run, said
from tests.persistence.faulty import FaultyStore
from tests.persistence.making import snapshot

pytestmark = pytest.mark.parametrize("library", LIBRARIES)


def test_replay_gives_exactly_what_came_after_the_named_event(library: str) -> None:
    async def main() -> None:
        async with DurableEventStore("memory:") as store:
            events = store.session("a")
            messages = [progress(1), progress(2), answer(1, done=True)]
            primed = await events.store_event("1", None)
            ids = [await events.store_event("1", message) for message in messages]
            await events.store_event("2", progress(99))  # another stream: none of its business

            kept = list(zip(ids, map(said, messages), strict=True))
            assert await replayed(events, primed) == kept
            assert await replayed(events, ids[0]) == kept[1:]
            assert await replayed(events, ids[2]) == []

    run(library, main)


def test_replay_goes_on_with_what_comes_until_the_request_is_answered(library: str) -> None:
    async def main() -> None:
        async with DurableEventStore("memory:") as store, anyio.create_task_group() as group:
            events = store.session("a")
            primed = await events.store_event("1", None)
            messages = [*map(progress, range(50)), answer(1)]

            async def go_on() -> None:
                for message in messages:
                    await events.store_event("1", message)

            group.start_soon(go_on)
            assert [text for _, text in await replayed(events, primed)] == [said(message) for message in messages]

    run(library, main)


def test_the_standing_stream_is_never_at_its_end(library: str) -> None:
    async def main() -> None:
        async with DurableEventStore("memory:") as store, anyio.create_task_group() as group:
            events = store.session("a")
            first = await events.store_event("_GET_stream", progress(0))

            async def go_on() -> None:
                for number in (1, 2, 3):
                    await events.store_event("_GET_stream", progress(number))

            group.start_soon(go_on)
            seen = await replayed(events, first, expected=3)
            assert [text for _, text in seen] == [said(progress(number)) for number in (1, 2, 3)]

    run(library, main)


def test_newer_replay_takes_the_stream_over(library: str) -> None:
    """Each message goes to one of them: the older one ends before it sends anything more."""

    async def main() -> None:
        heard: dict[str, list[str]] = {"older": [], "newer": []}
        tailing = {name: anyio.Event() for name in heard}

        async with DurableEventStore("memory:") as store, anyio.create_task_group() as group:
            events = store.session("a")
            primed = await events.store_event("1", None)
            await events.store_event("1", progress(1))

            async def read(name: str) -> None:
                async def send(event: EventMessage) -> None:
                    heard[name].append(said(event.message))
                    tailing[name].set()

                await events.replay_events_after(primed, send)

            for name in heard:
                group.start_soon(read, name)
                await tailing[name].wait()
            await events.store_event("1", answer(1))
        assert heard == {"older": [said(progress(1))], "newer": [said(progress(1)), said(answer(1))]}

    run(library, main)


def test_event_id_of_another_session_is_refused(library: str) -> None:
    """Both sessions have a request 1: the trap of stores that are keyed by the SDK's stream id."""

    async def main() -> None:
        async with DurableEventStore("memory:") as store:
            hers, his = store.session("hers"), store.session("his")
            primed = {events: await events.store_event("1", None) for events in (hers, his)}
            await hers.store_event("1", answer(1, secret="hers"))
            await his.store_event("1", answer(1, secret="his"))

            assert await replayed(his, primed[hers]) == []
            assert [text for _, text in await replayed(his, primed[his])] == [said(answer(1, secret="his"))]

    run(library, main)


def test_control_one_scope_for_two_sessions_crosses(library: str) -> None:
    """What the SDK does with a store that is not scoped: the second session's request 1 has the first one's events."""

    async def main() -> None:
        async with DurableEventStore("memory:") as store:
            everybody = store.session("everybody")
            hers = await everybody.store_event("1", None)
            await everybody.store_event("1", progress(1))
            await everybody.store_event("1", answer(1, secret="his"))

            assert said(answer(1, secret="his")) in [text for _, text in await replayed(everybody, hers)]

    run(library, main)


def test_a_store_without_scope_refuses(library: str) -> None:
    async def main() -> None:
        async with DurableEventStore("memory:") as store:
            with pytest.raises(RuntimeError, match="scoped"):
                await store.store_event("1", None)

    run(library, main)


@pytest.mark.parametrize("cursor", ["", "7", "1-0-0-000000000000", "ä", "1-2"])
def test_made_up_event_id_is_refused(library: str, cursor: str) -> None:
    async def main() -> None:
        async with DurableEventStore("memory:") as store:
            events = store.session("a")
            await events.store_event("1", progress(1))
            assert await replayed(events, cursor) == []

    run(library, main)


def test_events_are_there_after_a_restart(library: str, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'events.db'}"

    async def main() -> None:
        async with DurableEventStore(url) as store:
            events = store.session("a")
            primed = await events.store_event("1", None)
            await events.store_event("1", progress(1))
            ended = await events.store_event("1", answer(1))
        async with DurableEventStore(url) as store:
            events = store.session("a")
            assert [text for _, text in await replayed(events, primed)] == [said(progress(1)), said(answer(1))]
            assert await events.store_event("2", None) not in (primed, ended)

    run(library, main)


def test_stream_that_a_restart_interrupted_ends_with_an_error(library: str, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'events.db'}"

    async def main() -> None:
        async with DurableEventStore(url) as store:
            primed = await store.session("a").store_event("7", None)
            await store.session("b").store_event("1", None)
        async with DurableEventStore(url) as store:
            events = store.session("a")
            first = await replayed(events, primed)
            [error] = [json.loads(text) for _, text in first]
            assert (error["id"], error["error"]["code"]) == (7, -32011)
            assert await replayed(events, primed) == first, "and it is the end: the same for whoever asks again"

    run(library, main)


def test_request_id_that_a_later_process_uses_again_is_another_stream(library: str, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'events.db'}"

    async def main() -> None:
        async with DurableEventStore(url) as store:
            before = await store.session("a").store_event("1", None)
        async with DurableEventStore(url) as store:
            events = store.session("a")
            after = await events.store_event("1", None)
            await events.store_event("1", answer(1, new=True))
            [(_, old)] = await replayed(events, before)
            assert "error" in json.loads(old)
            assert [text for _, text in await replayed(events, after)] == [said(answer(1, new=True))]

    run(library, main)


def test_what_fell_off_is_not_replayed(library: str) -> None:
    async def main() -> None:
        async with DurableEventStore("memory:", limits=EventLimits(events_per_session_max=3)) as store:
            events = store.session("a")
            ids = [await events.store_event("1", progress(number)) for number in range(5)]
            await events.store_event("1", answer(1))  # kept are 3, 4 and the answer
            assert await replayed(events, ids[1]) == []
            assert len(await replayed(events, ids[2])) == 3

    run(library, main)


def test_what_is_too_large_to_keep_is_told_if_someone_waits_for_it(library: str) -> None:
    async def main() -> None:
        async with DurableEventStore("memory:", limits=EventLimits(event_bytes_max=200)) as store:
            events = store.session("a")
            primed = await events.store_event("1", None)
            large = progress(1)
            large.params = {"text": "x" * 300}  # type: ignore[union-attr]
            await events.store_event("1", large)
            await events.store_event("1", progress(2))
            await events.store_event("1", answer(1, text="x" * 300))
            small, error = [json.loads(text) for _, text in await replayed(events, primed)]
            assert small["params"]["progress"] == 2
            assert (error["id"], error["error"]["code"]) == (1, -32011)

    run(library, main)


def test_forgotten_session_has_no_events_and_takes_none(library: str) -> None:
    async def main() -> None:
        async with DurableEventStore("memory:") as store:
            events = store.session("a")
            primed = await events.store_event("1", None)
            await events.store_event("1", answer(1))
            await store.forget("a")
            assert await replayed(events, primed) == []
            with pytest.raises(Exception, match="ended"):
                await events.store_event("2", None)

    run(library, main)


def test_store_that_is_away_refuses_in_time_and_serves_again(library: str) -> None:
    async def main() -> None:
        faulty = FaultyStore(MemoryStore())

        async def open_faulty() -> FaultyStore:
            return faulty

        async with DurableEventStore(open_faulty, store_seconds=0.5) as store:
            events = store.session("a")
            faulty.begin_outage(StoreUnavailable("gone"))
            with pytest.raises(TimeoutError):
                await events.store_event("1", None)
            faulty.end_outage()
            primed = await insist(events, None)
            ended = await insist(events, answer(1))
            assert await replayed(events, primed) == [(ended, said(answer(1)))]

    run(library, main)


async def insist(events: SessionEvents, message: types.JSONRPCMessage | None) -> str:
    """Store an event, however often that takes."""
    while True:
        with contextlib.suppress(TimeoutError):
            return await events.store_event("2", message)


def test_store_of_another_kind_is_refused(library: str) -> None:
    """A gateway's sessions are no event store's: they would be read wrongly, and reaped."""

    async def main() -> None:
        async def open_foreign() -> MemoryStore:
            store = MemoryStore()
            await store.commit(Batch(await store.claim("gateway"), snapshots=(snapshot("a", 1),)))
            return store

        with pytest.raises(StoreInvalid, match="name another, it was not touched"):
            await DurableEventStore(open_foreign).open()

    run(library, main)
