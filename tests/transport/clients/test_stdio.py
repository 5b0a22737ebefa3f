"""A client over stdio: what it asks is answered once, whatever becomes of the upstream, and in its own bytes.

Method: streams in memory for stdin and stdout, a scripted upstream behind a runtime in memory.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, memory_stream_one_way_pair, wait_all_tasks_blocked

from actors import jsonrpc
from actors.jsonrpc import Kind, Message
from actors.link import Failure
from actors.state import Limits
from tests.actors.fake_link import FakeUpstream
from tests.actors.worlds import World, open_world
from transport.clients.stdio import StdioClient, StdioEnd, StdioOptions

HANDSHAKE: dict[str, Any] = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "x"}}
READY = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@attrs.define(eq=False)
class Peer:
    """The client at the other end, and all that it was told."""

    world: World
    stdin: trio.testing.MemorySendStream
    stdout: trio.testing.MemoryReceiveStream
    client: StdioClient
    sink: trio.testing.MemorySendStream
    ends: list[StdioEnd] = attrs.field(factory=list)
    received: bytes = b""

    async def say(self, *messages: object) -> None:
        """Write messages: builtins, or bytes as they are; then let everybody go on as far as they can."""
        for message in messages:
            line = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
            await self.stdin.send_all(line)
        await wait_all_tasks_blocked()

    async def ask(self, id: int | str, method: str = "hold", params: object = None) -> None:
        await self.say({"jsonrpc": "2.0", "id": id, "method": method, "params": params or {}})

    def told(self) -> list[Any]:
        """Give the messages that came since this was last asked; each is a line."""
        lines = self.received.split(b"\n")
        self.received = lines.pop()
        return [json.loads(line) for line in lines]

    async def open(self) -> None:
        await self.say(HANDSHAKE, READY)
        [welcome] = self.told()
        assert welcome["id"] == 0

    async def listen(self) -> None:
        async for data in self.stdout:
            self.received += bytes(data)


@asynccontextmanager
async def peer_of(
    upstream: FakeUpstream | None = None, *, options: StdioOptions = StdioOptions(), reads: bool = True, **limits: Any
) -> AsyncIterator[Peer]:
    async with open_world(upstream, limits=Limits(**limits)) as world, trio.open_nursery() as nursery:
        stdin, source = memory_stream_one_way_pair()
        sink, stdout = memory_stream_one_way_pair()
        client = StdioClient(world.runtime, "far", source, sink, upstream_transport="fake", options=options)
        peer = Peer(world, stdin, stdout, client, sink)

        async def run() -> None:
            peer.ends.append(await client.run())

        nursery.start_soon(run)
        if reads:
            nursery.start_soon(peer.listen)
        yield peer
        nursery.cancel_scope.cancel()


def codes(messages: list[Any]) -> dict[Any, int]:
    return {message["id"]: message["error"]["code"] for message in messages}


async def test_bytes_pass_unchanged_in_both_directions(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    answer = b'{ "jsonrpc":"2.0","result":{"n":1.10,"u":"\\u00e9","dup":1,"dup":2}, "id" : "a" }'

    def answered(_: Message) -> Message:
        return Message(Kind.RESPONSE, "a", "", answer)

    upstream.answers["odd"] = answered
    async with peer_of(upstream) as peer:
        await peer.open()
        request = b'{"params": {"x":1e400,"y":1.0}, "method":"odd",  "unknown":[], "id":"a","jsonrpc":"2.0"}'
        await peer.say(request + b"\r\n")
        assert upstream.sent("odd")[0].raw == request
        assert peer.received == answer + b"\n"


async def test_message_with_line_breaks_between_its_tokens_is_written_as_one_line(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    pretty = b'{\n  "jsonrpc": "2.0",\r\n  "id": 1,\n  "result": {"text": "a\\nb"}\n}'
    upstream.answers["pretty"] = lambda _: Message(Kind.RESPONSE, 1, "", pretty)
    async with peer_of(upstream) as peer:
        await peer.open()
        await peer.ask(1, "pretty")
        [answer] = peer.told()
        assert answer["result"] == {"text": "a\nb"}


async def test_a_long_call_is_answered_behind_what_was_said_about_it(autojump_clock: MockClock) -> None:
    async with peer_of() as peer:
        await peer.open()
        await peer.ask(1)
        peer.world.link.say("progress", {"n": 1}, about=1)
        await trio.sleep(1)
        peer.world.link.say("progress", {"n": 2}, about=1)
        peer.world.link.answer(1)
        await wait_all_tasks_blocked()
        assert [message.get("params", message.get("result")) for message in peer.told()] == [{"n": 1}, {"n": 2}, "done"]


async def test_what_the_upstream_says_unasked_is_passed_on_once_the_client_is_ready(autojump_clock: MockClock) -> None:
    async with peer_of() as peer:
        await peer.say(HANDSHAKE)
        assert peer.world.link.listens == 0
        await peer.say(READY, READY)
        peer.told()
        peer.world.link.say("changed")
        peer.world.link.ask("q", "roots/list")
        await wait_all_tasks_blocked()
        assert [message["method"] for message in peer.told()] == ["changed", "roots/list"]
        await peer.say({"jsonrpc": "2.0", "id": "q", "result": {"roots": []}})
        assert peer.world.upstream.journal[-1].message.id == "q"


async def test_what_is_written_all_at_once_is_done_in_order(autojump_clock: MockClock) -> None:
    """As from a pipe: nothing may overtake the handshake or its confirmation."""
    upstream = FakeUpstream()
    upstream.connect_seconds = 1.0
    async with peer_of(upstream) as peer:
        await peer.say(HANDSHAKE, READY, {"jsonrpc": "2.0", "id": 1, "method": "echo", "params": {"x": 1}})
        await trio.sleep(2)
        assert upstream.methods == ["initialize", "notifications/initialized", "echo"]
        assert [message["id"] for message in peer.told()] == [0, 1]


async def test_before_the_handshake_only_pings_are_answered(autojump_clock: MockClock) -> None:
    async with peer_of() as peer:
        await peer.ask(1, "ping")
        await peer.ask(2, "tools/list")
        await peer.say(READY)
        pong, refusal = peer.told()
        assert pong == {"jsonrpc": "2.0", "id": 1, "result": {}}
        assert refusal["error"] == {"code": jsonrpc.INVALID_REQUEST, "message": "send initialize first"}
        await peer.open()


async def test_refused_handshake_may_be_tried_again(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    welcome = upstream.answers.pop("initialize")
    upstream.answers["initialize"] = lambda message: jsonrpc.error(message.id, -32602, "unknown version")
    async with peer_of(upstream) as peer:
        await peer.say(HANDSHAKE)
        assert codes(peer.told()) == {0: -32602}
        upstream.answers["initialize"] = welcome
        await peer.open()
        await peer.say(HANDSHAKE)
        assert codes(peer.told()) == {0: jsonrpc.INVALID_REQUEST}, "one session for each process"


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"nonsense\n", jsonrpc.PARSE_ERROR),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]\n', jsonrpc.INVALID_REQUEST),
        (b'{"id":1,"method":"ping"}\n', jsonrpc.INVALID_REQUEST),
        (b'"' + b"x" * 200 + b'"\n', jsonrpc.INVALID_REQUEST),
    ],
)
async def test_what_is_no_message_is_answered_with_an_error(line: bytes, code: int, autojump_clock: MockClock) -> None:
    async with peer_of(options=StdioOptions(line_bytes_max=150)) as peer:
        await peer.say(line, b"\n", b"  \r\n")
        [error] = peer.told()
        assert error["error"]["code"] == code
        await peer.open()


async def test_what_was_surely_not_taken_is_sent_again(autojump_clock: MockClock) -> None:
    """The upstream is away for 20 seconds; the client does not notice but for the wait."""
    upstream = FakeUpstream()
    async with peer_of(upstream, link_wait_seconds=60.0) as peer:
        await peer.open()
        upstream.failures["echo"] = [Failure.NOT_SENT] * 80  # looked at every 0.25 s
        await peer.ask(1, "echo", {"x": 1})
        assert peer.told() == []
        await trio.sleep(25)
        [answer] = peer.told()
        assert answer["result"] == {"x": 1}
        assert len(upstream.sent("echo")) == 1


async def test_what_is_in_doubt_is_an_error_and_is_not_sent_again(autojump_clock: MockClock) -> None:
    async with peer_of() as peer:
        await peer.open()
        await peer.ask(1)
        await peer.ask(2)
        await trio.sleep(1)  # both are streams by now
        await peer.ask(3)  # this is none yet
        peer.world.link.lose()
        await trio.sleep(5)
        assert codes(peer.told()) == dict.fromkeys([1, 2, 3], jsonrpc.OUTCOME_UNKNOWN)
        await peer.ask(4, "echo")
        assert [message["id"] for message in peer.told()] == [4]
        assert len(peer.world.upstream.sent("hold")) == 3


async def test_forgotten_session_is_opened_again_with_the_kept_handshake_and_the_client_is_told(
    autojump_clock: MockClock,
) -> None:
    upstream = FakeUpstream()
    async with peer_of(upstream) as peer:
        await peer.open()
        await peer.ask(1)
        upstream.forget()
        upstream.announcements = (jsonrpc.notification("notifications/tools/list_changed"),)
        upstream.failures["echo"] = [Failure.SESSION_LOST]
        await peer.ask(2, "echo", {"x": 1})
        await trio.sleep(5)
        told = peer.told()
        assert [message["id"] for message in told if "result" in message] == [2], "it was sent once more"
        assert codes([message for message in told if "error" in message]) == {1: jsonrpc.OUTCOME_UNKNOWN}
        assert [message["method"] for message in told if "method" in message] == ["notifications/tools/list_changed"]


async def test_session_that_cannot_go_on_ends_when_everybody_was_told(autojump_clock: MockClock) -> None:
    upstream = FakeUpstream()
    async with peer_of(upstream) as peer:
        await peer.open()
        await peer.ask(1)
        upstream.rejects = ("upstream_rejected", "it offers less than before")
        peer.world.link.lose()
        await peer.ask(2, "echo")
        await trio.sleep(5)
        assert codes(peer.told()) == {1: jsonrpc.OUTCOME_UNKNOWN, 2: jsonrpc.SESSION_NOT_FOUND}
        assert peer.ends == [StdioEnd.SESSION_LOST]


async def test_confirmation_that_was_lost_is_said_again(autojump_clock: MockClock) -> None:
    """To hear it twice changes nothing for the upstream; not to hear it makes it refuse everything."""
    upstream = FakeUpstream()
    upstream.failures["notifications/initialized"] = [Failure.OUTCOME_UNKNOWN]
    async with peer_of(upstream) as peer:
        await peer.open()
        assert len(upstream.sent("notifications/initialized")) == 2


async def test_withdrawn_request_gets_no_answer(autojump_clock: MockClock) -> None:
    async with peer_of(cancel_grace_seconds=5.0) as peer:
        await peer.open()
        await peer.ask(1)
        await trio.sleep(1)
        params = {"requestId": 1}
        await peer.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        await trio.sleep(10)
        assert peer.world.upstream.methods[-1] == "notifications/cancelled"
        assert peer.told() == []
        await peer.ask(1, "echo")
        assert [message["id"] for message in peer.told()] == [1], "the id is free again"


async def test_second_request_with_an_id_in_flight_is_refused_and_the_first_is_answered(
    autojump_clock: MockClock,
) -> None:
    async with peer_of() as peer:
        await peer.open()
        await peer.ask(1)
        await peer.ask(1, "echo")
        assert codes(peer.told()) == {1: jsonrpc.INVALID_REQUEST}
        peer.world.link.answer(1)
        await wait_all_tasks_blocked()
        assert peer.told() == [{"jsonrpc": "2.0", "id": 1, "result": "done"}]


async def test_more_calls_than_a_session_takes_are_refused_one_by_one(autojump_clock: MockClock) -> None:
    async with peer_of(calls_in_flight_max=2) as peer:
        await peer.open()
        for id in (1, 2, 3):
            await peer.ask(id)
        assert codes(peer.told()) == {3: jsonrpc.OVERLOADED}


async def test_client_that_does_not_read_is_not_read_from(autojump_clock: MockClock) -> None:
    async with peer_of(options=StdioOptions(in_progress_max=4)) as peer:
        await peer.open()
        pass_on, unblocked = peer.sink.send_all_hook, trio.Event()
        peer.sink.send_all_hook = unblocked.wait
        for id in range(1, 20):
            await peer.ask(id, "echo")
        assert len(peer.world.upstream.sent("echo")) == 4
        peer.sink.send_all_hook = pass_on
        unblocked.set()
        await wait_all_tasks_blocked()
        assert {message["id"] for message in peer.told()} == set(range(1, 20)), "nothing was dropped"


async def test_control_without_a_bound_all_of_it_is_taken(autojump_clock: MockClock) -> None:
    async with peer_of(options=StdioOptions(in_progress_max=1000)) as peer:
        await peer.open()
        peer.sink.send_all_hook = trio.sleep_forever
        for id in range(1, 20):
            await peer.ask(id, "echo")
        assert len(peer.world.upstream.sent("echo")) == 19


async def test_end_of_input_leaves_calls_their_grace_and_ends_the_session(autojump_clock: MockClock) -> None:
    async with peer_of(options=StdioOptions(grace_seconds=10.0)) as peer:
        await peer.open()
        await peer.ask(1)
        await peer.ask(2)
        link = peer.world.link
        await peer.stdin.aclose()
        await trio.sleep(5)
        link.answer(1)
        await wait_all_tasks_blocked()
        assert [message["id"] for message in peer.told()] == [1]
        assert (peer.ends, link.closed) == ([], None)
        await trio.sleep(6)
        assert codes(peer.told()) == {2: jsonrpc.OUTCOME_UNKNOWN}
        assert (peer.ends, link.closed) == ([StdioEnd.INPUT_ENDED], True), "ended upstream, too"


async def test_last_line_without_an_end_is_heard(autojump_clock: MockClock) -> None:
    async with peer_of() as peer:
        await peer.open()
        await peer.say(b'{"jsonrpc":"2.0","id":1,"method":"echo","params":{}}')
        await peer.stdin.aclose()
        await wait_all_tasks_blocked()
        assert [message["id"] for message in peer.told()] == [1]
        assert peer.ends == [StdioEnd.INPUT_ENDED]


async def test_session_that_was_never_opened_is_not_ended(autojump_clock: MockClock) -> None:
    async with peer_of() as peer:
        await peer.stdin.aclose()
        await wait_all_tasks_blocked()
        assert peer.ends == [StdioEnd.INPUT_ENDED]
        assert peer.world.upstream.links == []


async def test_stop_answers_what_is_in_flight_at_once(autojump_clock: MockClock) -> None:
    async with peer_of() as peer:
        await peer.open()
        await peer.ask(1)
        peer.client.stop()
        await wait_all_tasks_blocked()
        assert codes(peer.told()) == {1: jsonrpc.OUTCOME_UNKNOWN}
        assert (peer.ends, peer.world.link.closed) == ([StdioEnd.STOPPED], True)


async def test_client_that_is_gone_ends_it(autojump_clock: MockClock) -> None:
    async with peer_of(reads=False) as peer:
        await peer.stdout.aclose()
        await peer.say(HANDSHAKE)
        await trio.sleep(1)
        assert peer.ends == [StdioEnd.CLIENT_GONE]
        assert peer.world.link.closed is True


async def test_message_that_was_cut_off_is_the_last(autojump_clock: MockClock) -> None:
    """What came behind half a line would be read as part of it."""
    async with peer_of() as peer:
        await peer.open()
        pass_on = peer.sink.send_all_hook
        peer.sink.send_all_hook = trio.sleep_forever  # as if the pipe had taken half of it
        await peer.ask(1, "echo")
        await peer.ask(2)
        peer.client.stop()
        peer.sink.send_all_hook = pass_on
        await wait_all_tasks_blocked()
        assert peer.ends == [StdioEnd.STOPPED]
        assert peer.told() == [], "and no error for 2 behind it"
