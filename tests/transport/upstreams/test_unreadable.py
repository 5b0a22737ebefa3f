"""What an upstream says that is no JSON-RPC message, over every transport: a call that it was to answer ends at once.

Goal: no call waits for an answer that has come and could not be read; nothing else is taken for one. Method: each
transport is told the same texts; what reaches the session's inbox is compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio_websocket import WebSocketConnection

from actors import jsonrpc
from actors.jsonrpc import InvalidMessage, misanswered_id
from actors.link import ConnectFailed, Failure, Link
from tests.transport.modern_messages import call as modern_call
from tests.transport.modern_messages import parsed
from tests.transport.serving import until
from tests.transport.upstreams import test_legacy_sse as sse
from tests.transport.upstreams import test_stateless_http as stateless
from tests.transport.upstreams import test_stateless_stdio as shared
from tests.transport.upstreams import test_stdio as stdio
from tests.transport.upstreams import test_websocket as sockets
from tests.transport.upstreams.bed import ANSWER, CALL, TICKET, bed, handshake, initialize_result, new_session
from tests.transport.upstreams.collecting import collected
from tests.transport.upstreams.recording_inbox import Entry, Received, RecordingInbox, Refused
from tests.transport.upstreams.scripted_upstream import Caller, Script, SeenRequest
from transport.upstreams import in_flight
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.stateless import Answer, NoAnswer
from transport.upstreams.unreadable import is_torn_answer

# Each was meant to answer request 1.
BROKEN = [
    b'{"jsonrpc":"2.0","id":1}',
    b'{"jsonrpc":"1.0","id":1,"result":{}}',
    b'{"id":1,"result":{"content":[]}}',
    b'{"id":1,"error":"boom"}',
    b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"x"}}',
    b'{"jsonrpc":"2.0","id":1,"method":5,"result":{}}',
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","result":{}}',
]
# None of these is to end it: other ids, requests of the server's own, what a logger prints, no JSON at all.
HARMLESS = [
    b'{"jsonrpc":"2.0","id":"1"}',
    b'{"jsonrpc":"2.0","id":1.5}',
    b'{"jsonrpc":"2.0","id":true}',
    b'{"jsonrpc":"2.0","id":2}',
    b'{"jsonrpc":"1.0","id":1,"method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":"ping","params":5}',
    b'{"id":1,"level":"info","message":"started"}',
    b'{"jsonrpc":"2.0","result":{}}',
    b"Server starting...",
    b'{"jsonrpc":"2.0","id":1,"result":{"content":[',
    b"1",
    b"null",
]


@pytest.mark.parametrize("raw", BROKEN)
def test_broken_answer_names_its_request(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        jsonrpc.parse(raw)
    assert misanswered_id(raw) == 1


@pytest.mark.parametrize("raw", HARMLESS)
def test_what_may_be_something_else_names_none_that_waits(raw: bytes) -> None:
    with pytest.raises(InvalidMessage):
        jsonrpc.parse(raw)
    named = misanswered_id(raw)
    assert not (named == 1 and isinstance(named, int))


def test_half_an_answer_looks_like_one() -> None:
    assert is_torn_answer(b' {"jsonrpc":"2.0","id":1,"res')
    assert not is_torn_answer(b'{"jsonrpc":"2.0","method":"notifications/progress","para')
    assert not is_torn_answer(b"started")


# ---- transports on which all messages share one way ----


@attrs.frozen
class Wire:
    """A link whose upstream says, to its first request, what the test chose, and answers every other."""

    link: Link
    inbox: RecordingInbox
    unread: Callable[[], int]

    async def ask(self, id: int) -> Entry:
        self.link.send(jsonrpc.request(id, "tools/call", {}), 100 + id)
        return await self.inbox.wait()


@asynccontextmanager
async def over_stdio(said: bytes) -> AsyncIterator[Wire]:
    script = f"""
lines = messages()
next(lines)
sys.stdout.buffer.write({said!r} + b"\\n"); sys.stdout.flush()
for message in lines: answer(message, {{}})
"""
    async with stdio.running(script) as child:
        yield Wire(child.link, child.inbox, lambda: child.link.statistics().noise)


@asynccontextmanager
async def over_websocket(said: bytes) -> AsyncIterator[Wire]:
    async def script(server: sockets.Server, connection: WebSocketConnection) -> None:
        await server.hear(connection)
        await connection.send_message(said.decode())
        await sockets.echo(server, connection)

    async with sockets.running(script) as bench:
        yield Wire(bench.link, bench.inbox, lambda: bench.link.statistics().malformed)


@asynccontextmanager
async def over_http_sse(said: bytes) -> AsyncIterator[Wire]:
    writing = trio.Lock()

    class Server(sse.SseServer):
        async def say(self, message: jsonrpc.Message) -> None:
            async with writing:
                await self._say(message)

        async def _say(self, message: jsonrpc.Message) -> None:
            if message.id == 1:
                await (await self.stream()).chunk(b"event: message\ndata: " + said + b"\n\n")
            else:
                await super().say(message)

    async with sse.bed(Server()) as test:
        link = await test.sse(new_session(), test.inbox)
        yield Wire(link, test.inbox, lambda: link.statistics().malformed)
        link.close(end_session=True)


Over = Callable[[bytes], AbstractAsyncContextManager[Wire]]
OVER: list[Over] = [over_stdio, over_websocket, over_http_sse]


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("said", [BROKEN[0], BROKEN[1]])
async def test_call_whose_answer_is_broken_ends_at_once_and_the_next_is_answered(over: Over, said: bytes) -> None:
    async with over(said) as wire:
        refused = await wire.ask(1)
        assert isinstance(refused, Refused), refused
        assert (refused.ticket, refused.failure) == (101, Failure.UNREADABLE)
        assert "no JSON-RPC answer" in refused.detail
        assert isinstance(await wire.ask(2), Received)
        assert wire.unread() == 1


@pytest.mark.parametrize("over", OVER)
async def test_without_the_look_at_it_the_call_would_wait(over: Over, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: what comes next is the answer to the second call, and the first is in flight as before."""
    monkeypatch.setattr(in_flight, "misanswered_id", lambda raw: None)
    async with over(BROKEN[0]) as wire:
        wire.link.send(CALL, 101)
        await until(lambda: wire.unread() == 1)
        second = await wire.ask(2)
        assert isinstance(second, Received)
        assert second.about == 2
        assert "1 in flight" in repr(wire.link)


@pytest.mark.parametrize("over", OVER)
@pytest.mark.parametrize("said", [HARMLESS[4], HARMLESS[6], HARMLESS[9]])
async def test_what_names_nothing_is_counted_and_ends_no_call(over: Over, said: bytes) -> None:
    async with over(said) as wire:
        wire.link.send(CALL, 101)
        await until(lambda: wire.unread() == 1)
        second = await wire.ask(2)
        assert isinstance(second, Received)
        assert second.about == 2
        assert "1 in flight" in repr(wire.link)


async def test_broken_answer_to_a_re_initialization_is_tried_again_and_ends_no_session() -> None:
    async with trio.open_nursery() as nursery:
        script = (
            'answer = lambda request: say({"id": request["id"], "result": {}})\nfor each in messages(): answer(each)'
        )
        session = new_session(handshake=handshake(upstream_session_id=""))
        with pytest.raises(ConnectFailed, match="no JSON-RPC answer"):
            await stdio.connector(script)(session, RecordingInbox(nursery))


async def test_plain_text_is_shown_in_the_log_and_what_may_be_an_answer_is_not() -> None:
    script = """
lines = messages()
for text in ("Welcome to the server", '{"jsonrpc":"2.0","id":1,"result":{"content":["PRIVATE'): print(text)
sys.stdout.flush()
for message in lines: answer(message, {})
"""
    with capture_logs() as logs:
        async with stdio.running(script) as child:
            await child.ask()
    banner, torn = [line for line in logs if line["event"] == "upstream_noise"]
    assert banner["excerpt"] == "Welcome to the server"
    assert "excerpt" not in torn
    assert torn["why"].startswith("not valid JSON")
    assert "PRIVATE" not in json.dumps(logs, default=str)


async def test_flood_of_lines_that_are_no_messages_is_a_handful_in_the_log() -> None:
    script = (
        'for each in range(1000): print("debug", each)\nsys.stdout.flush()\nfor each in messages(): answer(each, {})'
    )
    with capture_logs() as logs:
        async with stdio.running(script) as child:
            await child.ask()
            assert child.link.statistics().noise == 1000
    counts = [line["count"] for line in logs if line["event"] == "upstream_noise"]
    assert counts == [2**power for power in range(10)]  # 1, 2, 4, ..., 512


# ---- Streamable HTTP ----


def once_initialized(then: Script) -> Script:
    async def script(request: SeenRequest, caller: Caller) -> None:
        if b'"initialize"' in request.body:
            await caller.answer(200, initialize_result().raw, {"Mcp-Session-Id": "up-1"})
        else:
            await then(request, caller)

    return script


def streaming(*events: bytes, ends: bool = False) -> Script:
    """Open a stream for the call with id 1 and say these; answer every other call."""

    async def script(request: SeenRequest, caller: Caller) -> None:
        message = jsonrpc.parse(request.body)
        if message.id != 1:
            assert message.id is not None
            await caller.answer(200, jsonrpc.result(message.id, {}).raw)
            return
        await caller.open_stream()
        for event in events:
            await caller.event(event)
        if ends:
            await caller.end_stream()
        else:
            await caller.wait_closed_by_peer()
            caller.closed = True

    return script


async def fate_of(then: Script, limits: HttpLimits | None = None) -> Entry:
    async with bed(once_initialized(then), limits=limits, patience_seconds=10) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        return await bench.inbox.wait()
    raise AssertionError


def assert_unreadable(entry: Entry) -> None:
    assert isinstance(entry, Refused), entry
    assert (entry.ticket, entry.failure) == (TICKET, Failure.UNREADABLE)


@pytest.mark.parametrize("body", [b"<html>log in first</html>", b'{"jsonrpc":"2.0","id":1,"result":', *BROKEN])
async def test_document_that_is_no_answer_ends_its_call_and_is_named(body: bytes) -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(200, body)

    entry = await fate_of(then)
    assert_unreadable(entry)
    if body not in BROKEN:
        assert body.decode()[:20] in str(entry), "a page in place of a server is known by its first words"


@pytest.mark.parametrize("event", BROKEN)
async def test_broken_answer_on_a_stream_that_stays_open_ends_its_call_at_once(event: bytes) -> None:
    assert_unreadable(await fate_of(streaming(event)))


@pytest.mark.parametrize("event", [b"hello", b'{"jsonrpc":"2.0","id":1,"result":'])
async def test_stream_that_ends_behind_something_unreadable_ends_its_call(event: bytes) -> None:
    assert_unreadable(await fate_of(streaming(event, ends=True)))


async def test_half_an_answer_on_a_stream_that_stays_open_ends_its_call_when_nothing_comes_behind_it() -> None:
    torn = streaming(b'{"jsonrpc":"2.0","id":1,"result":')
    assert_unreadable(await fate_of(torn, HttpLimits(torn_seconds_max=0.05)))


@pytest.mark.parametrize(
    ("event", "torn_seconds_max"),
    [
        (b'{"jsonrpc":"2.0","id":1,"result":', math.inf),  # the control: without the bound it would wait
        (b'{"jsonrpc":"2.0","method":"notifications/progress","params":', 0.0),
        (b"hello", 0.0),
    ],
)
async def test_other_noise_on_a_call_s_stream_ends_nothing(event: bytes, torn_seconds_max: float) -> None:
    limits = HttpLimits(torn_seconds_max=torn_seconds_max)
    async with bed(once_initialized(streaming(event)), limits=limits, patience_seconds=10) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        await until(lambda: link.statistics().malformed == 1)
        link.send(jsonrpc.request(2, "tools/call"), TICKET + 1)
        second = await bench.inbox.wait()
        assert isinstance(second, Received)
        assert second.about == 2
        assert len(bench.inbox.entries) == 2, "the handshake's answer, and this"


async def test_answer_behind_half_a_message_is_taken() -> None:
    torn = streaming(b'{"jsonrpc":"2.0","id":1,"result":', ANSWER.raw)
    assert await fate_of(torn, HttpLimits(torn_seconds_max=0.2)) == Received(ANSWER, about=1)


# ---- requests without a session (2026-07-28) ----


@pytest.mark.parametrize("body", [b"<html>", *BROKEN])
async def test_document_that_is_no_answer_ends_a_request_without_a_session(body: bytes) -> None:
    async with stateless.bed(stateless.answering(200, body)) as it:
        end = await stateless.asked(it.upstream)
    assert isinstance(end, NoAnswer)
    assert end.failure is Failure.UNREADABLE


@pytest.mark.parametrize(
    ("event", "ends"),
    [(BROKEN[0], False), (b'{"jsonrpc":"2.0","id":1,"result":', True), (b'{"jsonrpc":"2.0","id":1,"result":', False)],
)
async def test_unreadable_event_ends_a_request_without_a_session(event: bytes, ends: bool) -> None:
    async with stateless.bed(streaming(event, ends=ends), limits=HttpLimits(torn_seconds_max=0.05)) as it:
        _, end = await collected(await it.upstream.send(parsed(modern_call())))
    assert isinstance(end, NoAnswer)
    assert end.failure is Failure.UNREADABLE


async def test_broken_answer_of_a_shared_process_ends_the_one_request_that_it_names() -> None:
    script = """
import json, sys
def say(message): print(json.dumps(message), flush=True)
waiting = None
for line in sys.stdin:
    message = json.loads(line)
    if message["params"]["name"] == "break": say({"id": message["id"], "result": {}})
    elif message["params"]["name"] == "hold": waiting = message
    else:
        for each in (waiting, message): say({"jsonrpc": "2.0", "id": each["id"], "result": {}})
"""
    async with shared.upstream_of(script) as upstream:
        held = await upstream.send(parsed(modern_call("hold")))
        _, broken = await collected(await upstream.send(parsed(modern_call("break"))))
        assert isinstance(broken, NoAnswer)
        assert broken.failure is Failure.UNREADABLE
        await shared.asked(upstream, modern_call("release"))
        assert isinstance((await collected(held))[1], Answer)
