"""The hot road, over memory streams: framing, limits, deadlines, streams, failures, stop."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.transport.serving import JSON, echo, get, memory_connection, post
from transport.chunked import FRAMING_FREE_BYTES, ChunkedDecoder
from transport.connections import Connections
from transport.exchange import BodyTooLarge, ClientGone, Exchange
from transport.handler import BadRequest, HttpLimits
from transport.http1 import Connection
from transport.wire import StreamWire

LIMITS = HttpLimits()


def chunked(*chunks: bytes, tail: bytes = b"0\r\n\r\n") -> bytes:
    head = b"POST /mcp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + tail


async def test_answer_has_length_date_and_body() -> None:
    async with memory_connection(echo) as memory:
        answer = await memory.client.ask(post(b'{"a":1}'))
    assert (answer.status, answer.body) == (200, b'{"a":1}')
    assert answer.headers["content-length"] == "7"
    assert answer.headers["date"].endswith("GMT")
    assert "connection" not in answer.headers


async def test_one_connection_serves_many_requests_whose_heads_repeat_or_differ() -> None:
    async with memory_connection(echo) as memory:
        for body in (b"aa", b"bb", b"ccc", b"dd", b""):
            assert (await memory.client.ask(post(body))).body == body


async def test_head_tells_method_path_query_and_joined_headers() -> None:
    heads = []

    async def handler(exchange: Exchange) -> None:
        heads.append(exchange.head)
        await exchange.respond(204, (), b"")

    async with memory_connection(handler) as memory:
        answer = await memory.client.ask(get("/a%20b/%C3%A9?x=%20&y", "ACCEPT: one ", "Accept:two", "X-Latin: \xe9"))
    (head,) = heads
    assert (head.method, head.path, head.query, head.peer) == ("GET", "/a b/é", "x=%20&y", "memory")
    assert head.headers == {"host": "localhost", "accept": "one, two", "x-latin": "é"}
    assert answer.status == 204
    assert "content-length" not in answer.headers


async def test_requests_sent_ahead_are_answered_in_order() -> None:
    async with memory_connection(echo) as memory:
        await memory.client.stream.send_all(post(b"first") + post(b"second") + b"\r\n" + post(b"third"))
        answers = [(await memory.client.answer()).body for _ in range(3)]
    assert answers == [b"first", b"second", b"third"]


async def test_request_may_come_byte_by_byte() -> None:
    request = chunked(b"hello", b" world") + post(b"again")
    async with memory_connection(echo) as memory:
        for position in range(len(request)):
            await memory.client.stream.send_all(request[position : position + 1])
            await trio.testing.wait_all_tasks_blocked()
        assert [(await memory.client.answer()).body for _ in range(2)] == [b"hello world", b"again"]


@given(chunks=st.lists(st.binary(min_size=1, max_size=50), max_size=8), cuts=st.lists(st.integers(0, 600), max_size=9))
def test_chunked_body_is_the_same_however_it_is_cut(chunks: list[bytes], cuts: list[int]) -> None:
    wire = chunked(*chunks, tail=b"0\r\nX-Trailer: 1\r\n\r\nnext").partition(b"\r\n\r\n")[2]
    decoder = ChunkedDecoder()
    body = b""
    edges = [0, *sorted(cut for cut in cuts if cut <= len(wire)), len(wire)]
    rest = b""
    for start, end in pairwise(edges):
        if decoder.done:
            rest += wire[start:end]
        else:
            body += decoder.feed(wire[start:end])
    assert (body, decoder.rest + rest, decoder.done) == (b"".join(chunks), b"next", True)


@pytest.mark.parametrize(
    "wire",
    [
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\nhello\r\n",
        b"5 \r\nhello\r\n",
        b"-5\r\n",
        b"0x5\r\nhello\r\n",
        b"\r\n",
        b"5;a\x01\r\nhello\r\n",
        b"5;" + b"x" * 2000,
        b"fffffffffffffffff\r\n",
        b"0\r\nno trailer\r\n\r\n",
        b"1\r\na\r\n" * FRAMING_FREE_BYTES,
        b"1;ext=" + b"e" * 900 + b"\r\na\r\n" + (b"1;ext=" + b"e" * 900 + b"\r\na\r\n") * 20,
    ],
)
def test_broken_or_wasteful_chunks_are_refused(wire: bytes) -> None:
    with pytest.raises(BadRequest):
        ChunkedDecoder().feed(wire)


async def test_too_large_body_is_refused_before_it_is_read() -> None:
    called = []

    async def handler(exchange: Exchange) -> None:
        called.append(exchange)

    async with memory_connection(handler, limits=HttpLimits(body_bytes_max=10)) as memory:
        await memory.client.stream.send_all(post(b"x" * 11)[:-11])
        answer = await memory.client.answer()
    assert (answer.status, answer.headers["connection"], called) == (413, "close", [])


async def test_chunked_body_is_counted() -> None:
    async with memory_connection(echo, limits=HttpLimits(body_bytes_max=10)) as memory:
        answer = await memory.client.ask(chunked(b"x" * 6, b"x" * 5))
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert memory.failures == []


async def test_handler_may_answer_a_too_large_body_itself() -> None:
    async def handler(exchange: Exchange) -> None:
        try:
            await exchange.body()
        except BodyTooLarge:
            await exchange.respond(413, JSON, b"mine")

    async with memory_connection(handler, limits=HttpLimits(body_bytes_max=10)) as memory:
        answer = await memory.client.ask(chunked(b"x" * 11))
    assert (answer.body, answer.headers["connection"]) == (b"mine", "close")


async def test_continue_is_said_when_the_body_is_wanted() -> None:
    async with memory_connection(echo) as memory:
        request = post(b"hello", "/mcp", "Expect: 100-continue")
        assert (await memory.client.ask(request[:-5])).status == 100
        assert (await memory.client.ask(b"hello")).body == b"hello"


async def test_continue_is_not_said_when_the_answer_needs_no_body() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(403, (), b"no")

    async with memory_connection(handler) as memory:
        answer = await memory.client.ask(post(b"hello", "/mcp", "Expect: 100-continue")[:-5])
    assert (answer.status, answer.headers["connection"]) == (403, "close")


@pytest.mark.parametrize(("size", "connection"), [(100, None), (LIMITS.drain_bytes_max + 1, "close")])
async def test_unread_body_is_read_away_or_closes(size: int, connection: str | None) -> None:
    async def handler(exchange: Exchange) -> None:
        if exchange.head.path == "/no":
            await exchange.respond(403, (), b"no")
        else:
            await echo(exchange)

    async with memory_connection(handler) as memory:
        request = post(b"x" * size, "/no")
        answer = await memory.client.ask(request[:-size])
        assert (answer.status, answer.headers.get("connection")) == (403, connection)
        if connection is None:
            assert (await memory.client.ask(b"x" * size + post(b"next"))).body == b"next"


async def test_head_answer_has_no_body() -> None:
    async with memory_connection(echo) as memory:
        request = post(b"hello").replace(b"POST", b"HEAD")
        await memory.client.stream.send_all(request + post(b"next"))
        await trio.testing.wait_all_tasks_blocked()
        first, _, second = (await memory.client.stream.receive_some()).partition(b"\r\n\r\n")
    assert b"content-length: 5" in first
    assert second.startswith(b"HTTP/1.1 200")
    assert second.endswith(b"next")


# Deadlines. The sweeper looks every second, so each comes at most a second late; only the order is asserted.


@pytest.mark.parametrize("sent", [b"POST /mcp HT", b"POST /mcp HTTP/1.1\r\nHost: x\r\n", post()[:40]])
async def test_slow_head_is_answered_408(sent: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with memory_connection(echo) as memory:
        assert (await memory.client.ask(sent)).status == 408
        assert trio.current_time() >= LIMITS.head_seconds


async def test_slow_head_stays_without_the_sweeper(autojump_clock: trio.testing.MockClock) -> None:
    """The negative control of all deadlines here: nothing else keeps them."""
    async with memory_connection(echo, sweeping=False) as memory:
        with trio.move_on_after(3600) as scope:
            await memory.client.ask(b"POST /mcp HT")
    assert scope.cancelled_caught


async def test_dripping_does_not_prolong_the_head(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_connection(echo) as memory:

        async def drip() -> None:
            with suppress(trio.BrokenResourceError):
                for byte in b"GET /" + b"x" * 1000:
                    await memory.client.stream.send_all(bytes([byte]))
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            assert (await memory.client.answer()).status == 408
            assert trio.current_time() < LIMITS.head_seconds + 2
            nursery.cancel_scope.cancel()


async def test_slow_body_is_answered_408(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_connection(echo) as memory:
        answer = await memory.client.ask(post(b"hello")[:-1])
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert memory.failures == []


async def test_silent_connection_is_closed_without_a_word(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_connection(echo) as memory:
        assert await memory.client.ended() == b""
        assert LIMITS.head_seconds <= trio.current_time() < LIMITS.idle_seconds


async def test_idle_connection_is_closed_later(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_connection(echo) as memory:
        await memory.client.ask(post())
        assert await memory.client.ended() == b""
        assert trio.current_time() >= LIMITS.idle_seconds


async def test_handler_may_take_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async def handler(exchange: Exchange) -> None:
        await trio.sleep(3600)
        await echo(exchange)

    async with memory_connection(handler) as memory:
        assert (await memory.client.ask(post(b"late"))).body == b"late"


async def test_client_that_does_not_read_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    outcome: list[Any] = []

    async def handler(exchange: Exchange) -> None:
        try:
            await exchange.respond(200, JSON, b"x" * 100_000)
        except ClientGone as error:
            outcome.append((str(error), trio.current_time()))
            raise

    # lockstep streams have no buffer: a send ends when it was received
    async with memory_connection(handler, pair=trio.testing.lockstep_stream_pair) as memory:
        await memory.client.stream.send_all(get())
        await trio.sleep(60)
    ((reason, when),) = outcome
    assert "did not read" in reason
    assert when >= LIMITS.write_seconds
    assert memory.failures == []


async def test_slow_reader_that_goes_on_is_served(autojump_clock: trio.testing.MockClock) -> None:
    """16 KiB every 5 s are slow, but never 10 s without progress: 400 KB take two minutes, and arrive."""

    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, JSON, b"x" * 400_000)

    async with memory_connection(handler, pair=trio.testing.lockstep_stream_pair) as memory:
        await memory.client.stream.send_all(get())
        received = 0
        while received < 400_000:
            await trio.sleep(5)
            received += len(await memory.client.stream.receive_some(16 * 1024))
    assert trio.current_time() > 100


# Streams


async def test_stream_sends_each_bit_at_once() -> None:
    step = trio.testing.Sequencer()

    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, ((b"content-type", b"text/event-stream"),))
        await exchange.send(b"one")
        await exchange.send(b"")  # would be the end, were it framed
        async with step(1):
            await exchange.send(b"two")
        await exchange.finish()

    async with memory_connection(handler) as memory:
        await memory.client.stream.send_all(get())
        await trio.testing.wait_all_tasks_blocked()
        async with step(0):
            assert (await memory.client.stream.receive_some()).endswith(b"\r\n\r\n3\r\none\r\n")
        assert await memory.client.fill(13)
        assert memory.client.buffer == b"3\r\ntwo\r\n0\r\n\r\n"


class EagerWire(StreamWire):
    """Takes everything at once, as a socket does whose reader is faster than we are."""

    def send_nowait(self, data: bytes | memoryview) -> int:
        return len(data)


async def test_stream_to_a_fast_reader_lets_others_have_their_turn() -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        for _ in range(10_000):
            await exchange.send(b"x")
        await exchange.finish()

    near, far = trio.testing.memory_stream_pair()
    await near.send_all(get())
    await near.send_eof()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        await Connection(EagerWire(far), Connections(handler, LIMITS), peer="memory").run()
        nursery.cancel_scope.cancel()
    assert turns >= 10_000 // 256


async def test_wait_gone_notices_the_end_and_send_says_so() -> None:
    seen: list[str] = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        await exchange.wait_gone()
        seen.append("gone")
        try:
            await exchange.send(b"x")
        except ClientGone:
            seen.append("raised")
            raise

    async with memory_connection(handler) as memory:
        await memory.client.stream.send_all(get())
        await trio.testing.wait_all_tasks_blocked()
        assert seen == []
        await memory.client.stream.send_eof()
        await memory.client.ended()
    assert seen == ["gone", "raised"]
    assert memory.failures == []


async def test_client_gone_out_of_a_nursery_is_not_reported() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await exchange.wait_gone()
            await exchange.send(b"x")

    async with memory_connection(handler) as memory:
        await memory.client.stream.send_all(get())
        await memory.client.stream.send_eof()
        await memory.client.ended()
    assert memory.failures == []


async def test_request_sent_ahead_of_a_streams_end_is_served_after_it() -> None:
    finish = trio.Event()

    async def handler(exchange: Exchange) -> None:
        if exchange.head.method == "POST":
            await echo(exchange)
            return
        await exchange.start_stream(200, JSON)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.wait_gone)
            await finish.wait()
            nursery.cancel_scope.cancel()
        await exchange.finish()

    async with memory_connection(handler) as memory:
        await memory.client.stream.send_all(get())
        await trio.testing.wait_all_tasks_blocked()
        await memory.client.stream.send_all(post(b"ahead"))
        await trio.testing.wait_all_tasks_blocked()
        finish.set()
        assert (await memory.client.answer()).body == b""
        assert (await memory.client.answer()).body == b"ahead"


async def test_client_that_sends_too_much_ahead_is_dropped() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        await exchange.wait_gone()

    async with memory_connection(handler) as memory:
        await memory.client.stream.send_all(get())
        await trio.testing.wait_all_tasks_blocked()
        await memory.client.stream.send_all(b"x" * (LIMITS.pipelined_bytes_max + 1))
        answer = await memory.client.answer()
    assert not answer.whole


async def test_cancelled_write_breaks_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    """What is out is half a chunk: nothing may follow it."""
    outcome: list[str] = []

    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        with trio.move_on_after(1):
            await exchange.send(b"x" * 100_000)
        try:
            await exchange.send(b"y")
        except ClientGone:
            outcome.append("refused")

    async with memory_connection(handler, pair=trio.testing.lockstep_stream_pair) as memory:
        await memory.client.stream.send_all(get())
        await memory.client.stream.receive_some()
        await trio.sleep(5)
    assert outcome == ["refused"]


# Failures


async def test_failing_handler_is_answered_500_and_reported() -> None:
    async def handler(exchange: Exchange) -> None:
        raise ZeroDivisionError("secret")

    async with memory_connection(handler) as memory:
        answer = await memory.client.ask(post())
        assert await memory.client.ended() == b""
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    assert answer.headers["content-type"] == "application/json"
    assert b"secret" not in answer.body
    assert [type(error) for error in memory.failures] == [ZeroDivisionError]


async def test_failure_within_a_stream_cuts_it_off() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        await exchange.send(b"half")
        raise ZeroDivisionError

    async with memory_connection(handler) as memory:
        answer = await memory.client.ask(post())
    assert (answer.body, answer.whole) == (b"half", False)
    assert len(memory.failures) == 1


async def test_missing_answer_is_a_failure() -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.body()

    async with memory_connection(handler) as memory:
        assert (await memory.client.ask(post())).status == 500
    assert len(memory.failures) == 1


async def test_second_answer_is_refused() -> None:
    async def handler(exchange: Exchange) -> None:
        await echo(exchange)
        with pytest.raises(RuntimeError):
            await exchange.respond(200, JSON, b"again")
        with pytest.raises(RuntimeError):
            await exchange.send(b"again")

    async with memory_connection(handler) as memory:
        assert (await memory.client.ask(post(b"one"))).body == b"one"
        assert (await memory.client.ask(post(b"two"))).body == b"two"


@pytest.mark.parametrize("value", [b"a\r\nx-injected: 1", b"a\nb", b"a\rb", b"a\0b"])
async def test_header_with_a_line_break_never_leaves(value: bytes) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.respond(200, ((b"mcp-session-id", value),), b"")

    async with memory_connection(handler) as memory:
        answer = await memory.client.ask(get())
    assert answer.status == 500
    assert "x-injected" not in answer.headers


async def test_client_that_leaves_within_its_body_is_nobodys_failure() -> None:
    async with memory_connection(echo) as memory:
        await memory.client.stream.send_all(post(b"hello")[:-1])
        await memory.client.stream.send_eof()
        assert await memory.client.ended() == b""
    assert memory.failures == []


# Stop, hand-over


async def test_stop_closes_idle_connections() -> None:
    async with memory_connection(echo) as memory:
        await memory.client.ask(post())
        await trio.testing.wait_all_tasks_blocked()
        memory.connections.stop()
        assert await memory.client.ended() == b""


async def test_stop_lets_the_current_answer_finish_and_says_close() -> None:
    go_on = trio.Event()

    async def handler(exchange: Exchange) -> None:
        await go_on.wait()
        await echo(exchange)

    async with memory_connection(handler) as memory:
        await memory.client.stream.send_all(post(b"last") + post(b"too late"))
        await trio.testing.wait_all_tasks_blocked()
        memory.connections.stop()
        go_on.set()
        answer = await memory.client.answer()
        assert (answer.body, answer.headers["connection"]) == (b"last", "close")
        assert await memory.client.ended() == b""


async def test_client_may_ask_to_close() -> None:
    async with memory_connection(echo) as memory:
        answer = await memory.client.ask(post(b"x", "/mcp", "Connection: keep-alive, Close"))
        assert answer.headers["connection"] == "close"
        assert await memory.client.ended() == b""


async def test_cold_request_is_handed_over_with_every_byte() -> None:
    cold = post(b"cold", "/admin") + b"and more"
    async with memory_connection(echo, is_hot=lambda head: head.path == "/mcp") as memory:
        assert (await memory.client.ask(post(b"hot"))).body == b"hot"
        await memory.client.stream.send_all(cold)
        assert await memory.client.ended() == b""
    assert memory.handed_over == [cold]


async def test_resting_connection_forgets_the_last_head(autojump_clock: trio.testing.MockClock) -> None:
    async with memory_connection(echo) as memory:
        await memory.client.ask(post())
        (connection,) = memory.connections.live
        assert connection._last_head is not None  # type: ignore[attr-defined]
        await trio.sleep(3)
        assert connection._last_head is None  # type: ignore[attr-defined]
        assert (await memory.client.ask(post(b"still here"))).body == b"still here"
