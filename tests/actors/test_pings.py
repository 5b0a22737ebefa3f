"""Pings of the upstream: answered by the client if it is there, else by the session (2025-11-25, utilities/ping)."""

from __future__ import annotations

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors import messages as say
from actors.jsonrpc import Kind, Message, RequestId
from actors.link import About
from tests.actors.making import Session, of, opened
from tests.actors.worlds import World, open_session, open_world, send

PING = jsonrpc.request("p", "ping")
PONG = jsonrpc.result("p", {})


def ping(
    session: Session, about: RequestId | About = About.NOTHING, *, read: set[int] | None = None, awaited: bool = False
) -> tuple[say.Effect, ...]:
    tickets = frozenset(call.ticket for call in session.state.calls.values()) if awaited else frozenset[int]()
    receive = say.Receive(PING, about, "c9")
    return session.take(say.ReceivePing(receive, frozenset(read or set()), tickets))


def answered(effects: tuple[say.Effect, ...]) -> list[Message]:
    return [effect.message for effect in of(effects, say.SendUpstream)]


def test_ping_is_answered_while_no_client_reads() -> None:
    session = opened()

    assert answered(ping(session)) == [PONG]
    assert not session.logged()
    assert not session.state.asks
    assert session.state.standalone_cursor == "c9", "it is resumed behind it all the same"


def test_ping_is_the_clients_while_it_reads() -> None:
    session = opened()

    assert answered(ping(session, read={0})) == []
    assert session.logged() == [PING]


def test_ping_about_a_call_is_the_clients_while_it_waits_for_that_call() -> None:
    session = opened()
    session.request(1)
    assert answered(ping(session, 1, read={0})) == [PONG], "who reads another stream does not see this one"
    assert answered(ping(session, 1, awaited=True)) == []
    assert session.logged() == [PING]
    assert answered(ping(session, 1)) == [PONG], "its stream has no reader"
    assert session.state.calls[1].heard_unix_s


def test_ping_before_the_session_is_open_is_answered() -> None:
    session = Session()
    session.request(1, "initialize", opens=True)

    assert answered(ping(session, 1, awaited=True)) == [PONG]


def pongs(world: World) -> list[Message]:
    return [sent.message for sent in world.upstream.journal if sent.message.kind is Kind.RESPONSE]


async def test_upstream_is_answered_by_whoever_is_there(autojump_clock: MockClock) -> None:
    async with open_world() as world, trio.open_nursery() as nursery:
        session = await open_session(world)
        send(session, 1, "hold")
        await wait_all_tasks_blocked()
        world.link.ask("p", "ping")
        await wait_all_tasks_blocked()
        assert pongs(world) == [PONG]

        reading = await session.read(None)
        nursery.start_soon(reading.next_page)
        await wait_all_tasks_blocked()
        world.link.ask("q", "ping")
        await wait_all_tasks_blocked()
        assert pongs(world) == [PONG], "now it is the client's to answer"
        assert list(session.actor().state.asks) == ["q"]
        reading.close()
