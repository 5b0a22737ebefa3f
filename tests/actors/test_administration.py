"""Administration: sessions as operators see and change them. A runtime over a scripted upstream and store."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from actors import administration, listing
from actors import messages as say
from actors.administration import Administration, Page
from actors.handle import CommandRejected, SessionHandle
from actors.ids import ANONYMOUS, Principal, reference_of
from actors.listing import Filter, Order, Place
from actors.registry import SessionNotFound
from persistence.memory import MemoryStore
from persistence.records import SnapshotHeader
from tests.actors.worlds import World, open_session, open_world, send

ANN = Principal("https://issuer.example", "app", "ann")


def test_reference_tells_nothing_and_stays() -> None:
    assert reference_of("a" * 32) == reference_of("a" * 32) != reference_of("a" * 31 + "b")
    assert "aaa" not in reference_of("a" * 32)


async def created(world: World, count: int) -> list[SessionHandle]:
    return [await world.runtime.create(server_id="linear", metadata={"tags": ["beta"]}) for _ in range(count)]


async def all_pages(view: Administration, wanted: Filter, *, order: Order, limit: int) -> list[Page]:
    pages: list[Page] = []
    after: Place | None = None
    while True:
        pages.append(await view.page(wanted, order=order, after=after, limit=limit))
        assert len(pages) < 100
        after = pages[-1].next
        if after is None:
            return pages
        assert Place.read(after.write()) == after


@pytest.mark.parametrize("order", Order)
async def test_pages_give_each_session_once_in_order(order: Order, autojump_clock: MockClock) -> None:
    async with open_world() as world:
        sessions = await created(world, 7)
        pages = await all_pages(Administration(world.runtime), Filter(), order=order, limit=3)

        listed = [one for page in pages for one in page.sessions]
        assert [len(page.sessions) for page in pages] == [3, 3, 1]
        assert {one.header.session_id for one in listed} == {session.id for session in sessions}
        keys = [order.key_of(one.header) for one in listed]
        assert keys == sorted(keys, reverse=order.descending)


async def test_a_page_goes_on_behind_a_session_that_has_ended(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await created(world, 4)
        view = Administration(world.runtime)
        first = await view.page(Filter(), order=Order.EXPIRES, after=None, limit=2)
        await view.close(await view.find(first.sessions[-1].reference))
        second = await view.page(Filter(), order=Order.EXPIRES, after=first.next, limit=2)

        assert len(second.sessions) == 2
        assert not {one.reference for one in first.sessions} & {one.reference for one in second.sessions}


async def test_filters_choose(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        await created(world, 2)
        anns = await world.runtime.create(server_id="files", principal=ANN)
        view = Administration(world.runtime)
        now_unix_s = view.now_unix_s()

        async def chosen(**wanted: object) -> set[str]:
            page = await view.page(Filter(**wanted), order=Order.EXPIRES, after=None, limit=50)  # type: ignore[arg-type]
            return {one.header.server_id for one in page.sessions}

        assert await chosen(server_id="files") == {"files"}
        assert await chosen(principal=ANN) == {"files"}
        assert await chosen(principal=ANONYMOUS) == {"linear"}
        assert await chosen(subject="ann") == {"files"}
        assert await chosen(tag="beta") == {"linear"}
        assert await chosen(initialized=False) == set()
        assert await chosen(reason="upstream_rejected") == set()
        assert await chosen(last_active_until_unix_s=now_unix_s - 60) == set()
        assert await chosen(last_active_from_unix_s=now_unix_s - 60) == {"linear", "files"}
        assert await chosen(created_from_unix_s=now_unix_s + 60) == set()
        assert await chosen(text=anns.id[:6]) == {"files"}
        assert await chosen(text=reference_of(anns.id)[:10]) == {"files"}


async def test_an_id_cannot_be_found_out_character_by_character(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        (session,) = await created(world, 1)
        view = Administration(world.runtime)
        for known in (6, 7, 31, 32):
            page = await view.page(Filter(text=session.id[:known]), order=Order.EXPIRES, after=None, limit=1)
            assert len(page.sessions) == (known == 6)


async def test_without_the_bound_an_id_could_be_found_out(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SHORT_CHARACTERS", 32)
    async with open_world() as world:
        (session,) = await created(world, 1)
        page = await Administration(world.runtime).page(
            Filter(text=session.id[:31]), order=Order.EXPIRES, after=None, limit=1
        )
        assert len(page.sessions) == 1


async def test_records_read_for_a_page_are_bounded_and_it_says_so(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ten sessions the last has the tag; four records may be read for a page: 4 + 4 + 2."""
    monkeypatch.setattr(administration, "RECORDS_MAX", 4)
    async with open_world() as world:
        await created(world, 9)
        sought = await world.runtime.create(metadata={"tags": ["sought"]}, ttl_seconds=1e9)
        view = Administration(world.runtime)
        pages = await all_pages(view, Filter(tag="sought"), order=Order.EXPIRES, limit=2)

        assert [(page.examined, page.cut_short) for page in pages] == [(4, True), (4, True), (2, False)]
        assert [one.header.session_id for page in pages for one in page.sessions] == [sought.id]


async def test_looking_brings_nothing_to_life_and_is_no_activity(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world, principal=ANN)
        before = (await session.state()).last_active_unix_s
    async with open_world(disk=disk) as world:
        view = Administration(world.runtime)
        found = await view.find(reference_of(session.id))
        record = await view.read(found)
        page = await view.page(Filter(subject="ann"), order=Order.EXPIRES, after=None, limit=5)
        calls = await view.history(found, before=None, limit=5)

        assert record.state is not None
        assert (record.state.last_active_unix_s, record.resident) == (before, False)
        assert (len(page.sessions), calls.calls) == (1, ())
        assert world.runtime.registry.statistics().resident == 0
        assert world.upstream.connects == []


async def test_changed_metadata_survives_a_kill(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world, principal=ANN)
        await Administration(world.runtime).update_metadata(
            session.id, lambda ticket: say.UpdateMetadata(ticket, ("beta",))
        )
        world.kill()
    async with open_world(disk=disk) as world:
        record = await Administration(world.runtime).read(session.id)

        assert record.state is not None
        assert record.state.metadata == {"tags": ["beta"]}


async def test_a_change_whose_event_is_soft_is_lost_by_a_kill(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(say.MetadataChanged, "hard", False)
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        await Administration(world.runtime).update_metadata(
            session.id, lambda ticket: say.UpdateMetadata(ticket, ("beta",))
        )
        world.kill()
    async with open_world(disk=disk) as world:
        record = await Administration(world.runtime).read(session.id)

        assert record.state is not None
        assert record.state.metadata == {}


async def test_history_of_a_session_at_rest_is_read_from_the_store(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world)
        for number in range(3):
            await send(session, number, label=f"tool-{number}").wait()
    async with open_world(disk=disk) as world:
        view = Administration(world.runtime)
        newest = await view.history(session.id, before=None, limit=2)
        oldest = await view.history(session.id, before=newest.before, limit=2)

        assert [call.tool for call in (*newest.calls, *oldest.calls)] == ["tool-2", "tool-1", "tool-0"]
        assert oldest.before is None


async def test_closing_ends_it_here_in_the_store_and_upstream(autojump_clock: MockClock) -> None:
    disk = MemoryStore()
    async with open_world(disk=disk) as world:
        session = await open_session(world, principal=ANN)
        view = Administration(world.runtime)
        await view.close(await view.find(reference_of(session.id)))

        assert world.link.closed is True
        with pytest.raises(SessionNotFound):
            await view.find(session.id)
        with pytest.raises(SessionNotFound):
            await view.close(session.id)
        assert await disk.load(session.id) is None


async def test_reinitializing_repeats_the_handshake_though_the_upstream_knows_the_session(
    autojump_clock: MockClock,
) -> None:
    async with open_world() as world:
        session = await open_session(world)
        before = (await session.state()).handshake
        await Administration(world.runtime).reinitialize(session.id)
        after = (await session.state()).handshake

        assert before is not None
        assert after is not None
        assert before.upstream_session_id != after.upstream_session_id
        assert [link.closed for link in world.upstream.links] == [True, None]
        assert await session.request("echo", {"x": 1}) == {"x": 1}


async def test_what_a_server_refuses_again_is_told(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        session = await open_session(world)
        world.upstream.rejects = ("upstream_rejected", "not any more")
        view = Administration(world.runtime)
        with pytest.raises(CommandRejected, match="not any more"):
            await view.reinitialize(session.id)
        page = await view.page(Filter(reason="upstream_rejected"), order=Order.EXPIRES, after=None, limit=5)

        assert [one.header.session_id for one in page.sessions] == [session.id]


async def test_a_session_that_cannot_be_read_is_listed_shown_and_can_be_closed(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        headers = SnapshotHeader("gone" * 8, 3, "linear", ANONYMOUS.digest, "", 1.0, 2e9)
        world.runtime.registry.learn([headers])  # of the index, and in no store
        view = Administration(world.runtime)
        record = await view.read(await view.find("gone" * 8))

        assert record.state is None
        assert record.unreadable
        listed = await view.page(Filter(), order=Order.EXPIRES, after=None, limit=5, with_records=True)
        assert [one.state for one in listed.sessions] == [None]


async def test_a_reference_is_found_beyond_what_is_remembered(autojump_clock: MockClock) -> None:
    async with open_world() as world:
        template = SnapshotHeader("", 3, "linear", ANONYMOUS.digest, "", 1.0, 2e9)
        world.runtime.registry.learn(replace(template, session_id=f"{number:032}") for number in range(2500))
        view = Administration(world.runtime)

        assert await view.find(reference_of(f"{2499:032}")) == f"{2499:032}"
        with pytest.raises(SessionNotFound):
            await view.find("0" * 24)
