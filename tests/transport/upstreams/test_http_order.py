"""A link that comes back has the upstream's own stream before it sends: what is said at once finds its way."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from actors import jsonrpc
from tests.transport.upstreams.bed import ANSWER, CALL, TICKET, bed, handshake, initialize_result
from tests.transport.upstreams.recording_inbox import Received, Refused
from tests.transport.upstreams.scripted_upstream import Caller, Script, SeenRequest

CHANGED = jsonrpc.notification("notifications/tools/list_changed")


def eager(*, head_seconds: float = 0.5, status: int = 200, known: bool = True) -> Script:
    """An upstream without an event store: at the first call it says something, to whoever has its stream then."""
    streams: list[Caller] = []

    async def script(request: SeenRequest, caller: Caller) -> None:
        if request.method == "GET":
            await trio.sleep(head_seconds)
            if status != 200:
                await caller.answer(status)
                return
            await caller.open_stream()
            streams.append(caller)
            await caller.wait_closed_by_peer()
        elif b'"tools/call"' in request.body:
            for stream in streams:
                await stream.event(CHANGED.raw)
            await caller.answer(200, ANSWER.raw)
        elif b'"initialize"' in request.body:
            await caller.answer(200, initialize_result().raw, {"Mcp-Session-Id": "up-2"})
        elif not known and request.session_id != "up-2":
            await caller.answer(404, jsonrpc.error(None, -32001, "Session not found").raw)
        else:
            await caller.answer(202)

    return script


async def heard_after_coming_back(script: Script) -> tuple[list[jsonrpc.Message], float]:
    """Come back, send a call that waited; give what was heard in five seconds, and when the answer came."""
    async with bed(script) as bench:
        link = await bench.open_link(handshake=handshake(), listening=True)
        began = trio.current_time()
        link.listen()
        link.send(CALL, TICKET)
        answered_at: list[float] = []

        def note(entry: object) -> None:
            if entry == Received(ANSWER, about=1):
                answered_at.append(trio.current_time())

        bench.inbox.hook = note
        await trio.sleep(5)
        return [entry.message for entry in bench.inbox.entries if isinstance(entry, Received)], answered_at[0] - began
    raise AssertionError


@pytest.mark.parametrize("known", [True, False])
async def test_what_the_upstream_says_at_once_is_heard(known: bool, autojump_clock: MockClock) -> None:
    messages, seconds = await heard_after_coming_back(eager(known=known))

    assert sorted(message.raw for message in messages) == sorted([CHANGED.raw, ANSWER.raw])
    assert 0.5 <= seconds < 0.6


async def test_without_the_order_it_is_lost(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transport.upstreams.http_link.StreamableHttpLink.hold_until_listening", lambda self: None, raising=True
    )
    messages, _ = await heard_after_coming_back(eager())

    assert messages == [ANSWER]


async def test_stream_that_is_refused_holds_nothing_up(autojump_clock: MockClock) -> None:
    messages, seconds = await heard_after_coming_back(eager(status=405, head_seconds=0))

    assert messages == [ANSWER]
    assert seconds < 0.1


async def test_head_that_does_not_come_holds_up_for_a_second(autojump_clock: MockClock) -> None:
    messages, seconds = await heard_after_coming_back(eager(head_seconds=600))

    assert messages == [ANSWER]
    assert 1.0 <= seconds < 1.1


async def test_first_listening_of_a_session_holds_nothing_up(autojump_clock: MockClock) -> None:
    async with bed(eager(head_seconds=600)) as bench:
        link = await bench.open_link(handshake=handshake(), listening=False)
        link.listen()
        link.send(CALL, TICKET)
        began = trio.current_time()
        assert await bench.inbox.wait() == Received(ANSWER, about=1)
        assert trio.current_time() - began < 0.1


async def test_closed_link_sends_nothing_of_what_it_held(autojump_clock: MockClock) -> None:
    async with bed(eager()) as bench:
        link = await bench.open_link(handshake=handshake(), listening=True)
        link.listen()
        link.send(CALL, TICKET)
        link.close(end_session=False)
        await trio.sleep(5)
        assert not [request for request in bench.upstream.requests if b"tools/call" in request.body]
        assert not [entry for entry in bench.inbox.entries if isinstance(entry, Refused)]
