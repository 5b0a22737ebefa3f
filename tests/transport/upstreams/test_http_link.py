"""What a Streamable HTTP link makes of each kind of answer, and of each kind of misbehaviour."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import attrs
import pytest
import structlog.testing
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.jsonrpc import Message
from actors.link import About, Failure, LinkLost
from tests.transport.upstreams.bed import (
    ANSWER,
    CALL,
    INITIALIZE,
    TICKET,
    VERSION,
    Bed,
    bed,
    initialize_result,
    new_session,
)
from tests.transport.upstreams.recording_inbox import CursorMoved, Delivered, Entry, Lost, Received, Refused
from tests.transport.upstreams.scripted_upstream import Caller, Script, SeenRequest
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_target import HttpTarget

PROGRESS = jsonrpc.notification("notifications/progress", {"progressToken": 1, "progress": 0.5})


def always(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Script:
    """Answer a handshake well, and everything else like this."""

    async def script(request: SeenRequest, caller: Caller) -> None:
        if b'"initialize"' in request.body:
            await caller.answer(200, initialize_result().raw, {"Mcp-Session-Id": "up-1"})
        else:
            await caller.answer(status, body, headers)

    return script


def after_handshake(then: Script) -> Script:
    async def script(request: SeenRequest, caller: Caller) -> None:
        if b'"initialize"' in request.body:
            await caller.answer(200, initialize_result().raw, {"Mcp-Session-Id": "up-1"})
        else:
            await then(request, caller)

    return script


async def fate_of(script: Script, message: Message = CALL, *, limits: HttpLimits | None = None) -> Entry:
    """Send one message in an open session; tell what becomes of it."""
    async with bed(script, limits=limits) as bench:
        link = await bench.open_session()
        link.send(message, TICKET)
        return await bench.inbox.wait()
    raise AssertionError


def refusal(entry: Entry) -> tuple[Failure, str]:
    assert isinstance(entry, Refused), entry
    assert entry.ticket == TICKET
    return entry.failure, entry.detail


# ---- the handshake ----


async def test_connecting_for_the_first_time_opens_nothing() -> None:
    async with bed(always(500)) as bench:
        await bench.open_link()
        await wait_all_tasks_blocked()
        assert bench.upstream.connections == 0


async def test_upstream_session_id_is_known_before_the_answer_is_received() -> None:
    async with bed(always(500)) as bench:
        link = await bench.open_link()
        known: list[str] = []
        bench.inbox.hook = lambda _: known.append(link.established.upstream_session_id)
        link.send(INITIALIZE, TICKET)
        entry = await bench.inbox.wait()
        assert entry == Received(initialize_result(), about=0)
        assert known == ["up-1"]


async def test_upstream_session_id_of_a_streamed_handshake_is_known_before_the_answer() -> None:
    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream({"Mcp-Session-Id": "up-2"})
        await caller.event(PROGRESS.raw)
        await caller.event(initialize_result().raw)
        await caller.end_stream()

    async with bed(script) as bench:
        link = await bench.open_link()
        link.send(INITIALIZE, TICKET)
        assert await bench.inbox.wait() == Received(PROGRESS, about=0)
        assert await bench.inbox.wait() == Received(initialize_result(), about=0)
        assert link.established.upstream_session_id == "up-2"


async def test_session_and_version_headers_go_out_after_the_handshake_and_not_before() -> None:
    async with bed(always(202)) as bench:
        link = await bench.open_session()
        link.send(jsonrpc.notification("notifications/initialized"), TICKET)
        await bench.inbox.wait()
        first, second = bench.upstream.requests
    assert first.session_id is None
    assert "mcp-protocol-version" not in first.headers
    assert second.session_id == "up-1"
    assert second.headers["mcp-protocol-version"] == VERSION
    assert second.headers["content-type"] == "application/json"
    assert second.headers["accept"] == "application/json, text/event-stream"
    assert second.headers["user-agent"].startswith("outlast/")


async def test_version_header_is_what_the_upstream_chose_not_what_the_client_asked() -> None:
    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(200, initialize_result(version="2025-06-18").raw)

    async with bed(script) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        await bench.inbox.wait()
        assert bench.upstream.requests[1].headers["mcp-protocol-version"] == "2025-06-18"


async def test_upstream_session_id_that_is_no_header_is_refused() -> None:
    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(200, initialize_result().raw, {"Mcp-Session-Id": "a b"})

    async with bed(script) as bench:
        link = await bench.open_link()
        link.send(INITIALIZE, TICKET)
        assert refusal(await bench.inbox.wait())[0] is Failure.REFUSED


async def test_refused_handshake_leaves_no_session_id() -> None:
    rejection = jsonrpc.error(0, -32602, "unsupported protocol version")

    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(400, rejection.raw, {"Mcp-Session-Id": "thrown-away"})

    async with bed(script) as bench:
        link = await bench.open_link()
        link.send(INITIALIZE, TICKET)
        assert await bench.inbox.wait() == Received(rejection, about=0)
        assert link.established.upstream_session_id == ""


# ---- relay ----


async def test_bytes_pass_unchanged_in_both_directions() -> None:
    strange = (
        b'{ "jsonrpc":"2.0","id":1234567890123456789,"method":"x/y","params":{"a":null,"b":1.50,"c":1e400},"new":[]}'
    )
    reply = b'{"jsonrpc": "2.0", "result": {"z":1, "a":{}, "big":123456789012345678901234567890},'
    reply += b' "id":1234567890123456789,"_x":1}\n'

    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(200, reply)

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(jsonrpc.parse(strange), TICKET)
        entry = await bench.inbox.wait()
        assert bench.upstream.requests[1].body == strange
    assert isinstance(entry, Received)
    assert entry.message.raw == reply


async def test_static_headers_are_sent_and_never_shown() -> None:
    async with bed(always(202), headers={"Authorization": "Bearer s3cret", "User-Agent": "mine"}) as bench:
        link = await bench.open_link()
        link.send(INITIALIZE, TICKET)
        await bench.inbox.wait()
        seen = bench.upstream.requests[0].headers
        assert (seen["authorization"], seen["user-agent"]) == ("Bearer s3cret", "mine")
        assert "s3cret" not in repr(bench.connector) + repr(link) + repr(bench.pool)


async def test_answer_must_come_with_what_precedes_it_in_one_document() -> None:
    async with bed(always(200, PROGRESS.raw)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        assert await bench.inbox.wait() == Received(PROGRESS, about=1)
        assert refusal(await bench.inbox.wait())[0] is Failure.UNREADABLE


async def test_string_id_is_not_answered_by_a_number() -> None:
    fate = await fate_of(always(200, ANSWER.raw), jsonrpc.request("1", "tools/list"))
    assert refusal(fate)[0] is Failure.UNREADABLE


async def test_notification_is_delivered_when_accepted() -> None:
    assert await fate_of(always(202), PROGRESS) == Delivered(TICKET)


async def test_event_stream_passes_on_messages_then_the_answer_with_cursors() -> None:
    sampling = jsonrpc.request(2, "sampling/createMessage", {})

    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.event(b"", id="e0", retry=10)
        await caller.event(PROGRESS.raw)
        await caller.event(sampling.raw, id="e1")
        await caller.event(ANSWER.raw, id="e2")
        await caller.end_stream()

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        assert [await bench.inbox.wait() for _ in range(4)] == [
            CursorMoved(1, "e0"),
            Received(PROGRESS, about=1),
            Received(sampling, about=1, cursor="e1"),
            Received(ANSWER, about=1, cursor="e2"),
        ]
        await wait_all_tasks_blocked()
        assert bench.pool.statistics().idle == 1  # the stream has ended: its connection serves the next call


async def test_data_on_several_lines_is_one_message() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.chunk(b'event: message\r\ndata: {"jsonrpc":"2.0",\r\ndata: "id":1,"result":{}}\r\n\r\n')
        await caller.end_stream()

    fate = await fate_of(after_handshake(then))
    assert isinstance(fate, Received)
    assert fate.message.raw == b'{"jsonrpc":"2.0",\n"id":1,"result":{}}'


async def test_batch_is_split_and_its_answer_found() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(200, b"[" + PROGRESS.raw + b", " + ANSWER.raw + b"]")

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        assert await bench.inbox.wait() == Received(PROGRESS, about=1)
        assert await bench.inbox.wait() == Received(ANSWER, about=1)


# ---- statuses ----


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (202, b"", Failure.REFUSED),
        (204, b"", Failure.REFUSED),
        (200, b"", Failure.REFUSED),
        (200, b"<html>", Failure.UNREADABLE),
        (302, b"", Failure.REFUSED),
        (401, b"", Failure.REFUSED),
        (403, ANSWER.raw, Failure.REFUSED),
        (404, jsonrpc.error(None, -32600, "Session not found").raw, Failure.SESSION_LOST),
        (404, b"", Failure.SESSION_LOST),
        (400, b'{"error":{"message":"Bad Request: No valid session ID provided"}}', Failure.SESSION_LOST),
        (410, b"session expired", Failure.SESSION_LOST),
        (503, b"Session has been terminated", Failure.SESSION_LOST),
        (400, b"Bad protocol version", Failure.REFUSED),
        (429, b"slow down", Failure.NOT_SENT),
        (503, b"overloaded", Failure.NOT_SENT),
        (500, b"oops", Failure.REFUSED),
        (502, b"bad gateway", Failure.OUTCOME_UNKNOWN),
        (504, b"gateway timeout", Failure.OUTCOME_UNKNOWN),
    ],
)
async def test_status_without_an_answer_names_what_may_be_done(status: int, body: bytes, failure: Failure) -> None:
    fate, detail = refusal(await fate_of(always(status, body)))
    assert fate is failure
    assert str(status) in detail or status == 200


async def test_refusal_names_retry_after_and_a_short_excerpt() -> None:
    _, detail = refusal(await fate_of(always(503, b"x" * 5000, {"Retry-After": "7"})))
    assert "retry after 7" in detail
    assert len(detail) < 300


async def test_unknown_method_with_404_is_an_answer_and_not_the_loss_of_the_session() -> None:
    error = jsonrpc.error(1, -32601, "Method not found")
    assert await fate_of(always(404, error.raw)) == Received(error, about=1)


async def test_error_answer_with_a_4xx_status_is_the_answer() -> None:
    error = jsonrpc.error(1, -32602, "bad arguments", {"x": 1})
    assert await fate_of(always(400, error.raw)) == Received(error, about=1)


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_error_answer_without_id_gets_the_id_of_its_request(status: int) -> None:
    error = b'{"jsonrpc":"2.0","error":{"code":-32603,"message":"boom","data":[1.0]},"id":null}'
    fate = await fate_of(always(status, error))
    assert isinstance(fate, Received)
    assert fate.message.id == 1
    assert fate.message.raw == b'{"jsonrpc":"2.0","error":{"code":-32603,"message":"boom","data":[1.0]},"id":1}'


async def test_lost_session_of_a_notification_is_told_too() -> None:
    assert refusal(await fate_of(always(404), PROGRESS))[0] is Failure.SESSION_LOST


async def test_404_of_a_stateless_upstream_loses_no_session() -> None:
    async def script(request: SeenRequest, caller: Caller) -> None:
        if b'"initialize"' in request.body:
            await caller.answer(200, initialize_result().raw)
        else:
            await caller.answer(404)

    assert refusal(await fate_of(script))[0] is Failure.REFUSED


# ---- broken answers ----


async def test_reset_after_the_request_was_sent_leaves_the_outcome_unknown() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.reset()

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        assert refusal(await bench.inbox.wait())[0] is Failure.OUTCOME_UNKNOWN
        await wait_all_tasks_blocked()
        assert len(bench.upstream.requests) == 2  # it was not sent a second time


async def test_answer_cut_in_the_middle_leaves_the_outcome_unknown() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await caller.close()

    assert refusal(await fate_of(after_handshake(then)))[0] is Failure.OUTCOME_UNKNOWN


async def test_answer_without_length_ends_with_the_connection() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + ANSWER.raw)
        await caller.close()

    assert await fate_of(after_handshake(then)) == Received(ANSWER, about=1)


async def test_early_hints_before_the_answer_are_skipped() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.send(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
        await caller.answer(200, ANSWER.raw)

    assert await fate_of(after_handshake(then)) == Received(ANSWER, about=1)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\n12345",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_http_answer_leaves_the_outcome_unknown(answer: bytes) -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.send(answer)
        await caller.wait_closed_by_peer()

    assert refusal(await fate_of(after_handshake(then)))[0] is Failure.OUTCOME_UNKNOWN


async def test_endless_head_is_cut_off() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            await caller.send(b"X-More: " + b"x" * 1000 + b"\r\n")

    _, detail = refusal(await fate_of(after_handshake(then)))
    assert "head is larger than" in detail


@pytest.mark.parametrize("length", [b"Content-Length: 3000\r\n", b""])
async def test_answer_larger_than_the_limit_is_refused_by_name(length: bytes) -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n")
        for _ in range(3):
            await caller.send(b" " * 1000)
        await caller.close()

    failure, detail = refusal(await fate_of(after_handshake(then), limits=HttpLimits(body_bytes_max=2000)))
    assert failure is Failure.REFUSED
    assert "larger than 2000 bytes" in detail


async def test_answer_just_within_the_limit_passes() -> None:
    body = ANSWER.raw.ljust(2000)
    fate = await fate_of(always(200, body), limits=HttpLimits(body_bytes_max=2000))
    assert isinstance(fate, Received)
    assert fate.message.raw == body


async def test_compressed_answer_is_refused() -> None:
    _, detail = refusal(await fate_of(always(200, b"\x1f\x8b", {"Content-Encoding": "gzip"})))
    assert "compressed" in detail


async def test_refused_connection_means_not_sent() -> None:
    async with bed(always(202)) as bench:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        await listeners[0].aclose()
        target = HttpTarget.parse(f"http://127.0.0.1:{port}/mcp")
        link = await attrs.evolve(bench.connector, target=target)(new_session(), bench.inbox)
        link.send(INITIALIZE, TICKET)
        failure, detail = refusal(await bench.inbox.wait())
    assert failure is Failure.NOT_SENT
    assert detail == "no connection to the upstream: Connection refused"


async def test_malformed_event_is_skipped_and_the_rest_goes_on() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.event(b"not json", id="e1")
        await caller.event(b"not json either")
        await caller.event(ANSWER.raw)
        await caller.end_stream()

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        assert await bench.inbox.wait() == Received(ANSWER, about=1)
        assert link.statistics().malformed == 2


async def test_answer_to_another_request_on_the_stream_is_not_passed_on() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.event(jsonrpc.result(99, {}).raw)
        await caller.event(ANSWER.raw)
        await caller.event(ANSWER.raw)
        await caller.end_stream()

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        assert await bench.inbox.wait() == Received(ANSWER, about=1)
        await wait_all_tasks_blocked()
        assert link.statistics().stray == 2
        assert bench.inbox.entries[-1] == Received(ANSWER, about=1)


async def test_events_of_other_kinds_are_ignored() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.chunk(b": keep-alive\n\nevent: endpoint\ndata: /messages\n\n")
        await caller.event(ANSWER.raw)
        await caller.end_stream()

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        assert await bench.inbox.wait() == Received(ANSWER, about=1)
        assert link.statistics().malformed == 0


# ---- cancelling and closing ----


async def test_cancel_goes_out_beside_the_call() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        if b"notifications/cancelled" in request.body:
            await caller.answer(202)
        else:
            await caller.wait_closed_by_peer()

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        link.cancel(1, "user")
        await wait_all_tasks_blocked()
        expected = jsonrpc.notification("notifications/cancelled", {"requestId": 1, "reason": "user"})
        assert bench.upstream.requests[-1].body == expected.raw


async def test_cancelled_call_without_an_answer_ends(autojump_clock: MockClock) -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        if b"notifications/cancelled" in request.body:
            await caller.answer(202)
        else:
            await caller.wait_closed_by_peer()

    async with bed(after_handshake(then), patience_seconds=2000.0) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        await trio.sleep(1000)  # a long call, silent from the start
        cancelled_at = trio.current_time()
        link.cancel(1, "user")
        assert refusal(await bench.inbox.wait())[0] is Failure.OUTCOME_UNKNOWN
        # 30 s to answer from the cancellation on, and at most one sweep more
        assert 30 <= trio.current_time() - cancelled_at <= 32


async def test_silent_call_fails_at_its_limit(autojump_clock: MockClock) -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.wait_closed_by_peer()

    async with bed(
        after_handshake(then), limits=HttpLimits(call_silence_seconds_max=50), patience_seconds=100
    ) as bench:
        link = await bench.open_session()
        began = trio.current_time()
        link.send(CALL, TICKET)
        failure, detail = refusal(await bench.inbox.wait())
        assert failure is Failure.OUTCOME_UNKNOWN
        assert "50 s" in detail
        assert 50 <= trio.current_time() - began <= 52


async def test_stream_left_open_after_the_answer_is_closed(autojump_clock: MockClock) -> None:
    closed = trio.Event()

    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.event(ANSWER.raw)
        await caller.wait_closed_by_peer()
        closed.set()

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        await bench.inbox.wait()
        with trio.fail_after(10):
            await closed.wait()


async def test_nothing_is_told_after_close_and_sending_raises() -> None:
    release = trio.Event()

    async def then(request: SeenRequest, caller: Caller) -> None:
        await release.wait()
        await caller.answer(200, ANSWER.raw)

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        link.close(end_session=False)
        release.set()
        await wait_all_tasks_blocked()
        assert len(bench.inbox.entries) == 1
        assert bench.pool.statistics().idle == 1  # the answer completed: the connection is good
        with pytest.raises(LinkLost):
            link.send(CALL, 8)
        assert [request.method for request in bench.upstream.requests] == ["POST", "POST"]


async def test_open_stream_is_closed_with_the_link() -> None:
    closed = trio.Event()

    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.event(PROGRESS.raw, id="e1")
        await caller.wait_closed_by_peer()
        closed.set()

    async with bed(after_handshake(then)) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        await bench.inbox.wait()
        link.close(end_session=False)
        with trio.fail_after(5):
            await closed.wait()
        await wait_all_tasks_blocked()
        assert len(bench.inbox.entries) == 2


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("end_session", [False, True])
async def test_session_that_is_opened_too_late_is_ended_where_it_was_to_be(
    end_session: bool, streams: bool, autojump_clock: MockClock
) -> None:
    """Its name comes with the answer for which nobody waits any more. The control: where it was not to be ended."""
    asked, answers = trio.Event(), trio.Event()

    async def script(request: SeenRequest, caller: Caller) -> None:
        if request.method == "DELETE":
            await caller.answer(200)
            return
        asked.set()
        await answers.wait()
        if streams:
            await caller.open_stream({"Mcp-Session-Id": "up-1"})
            await caller.event(initialize_result().raw)
        else:
            await caller.answer(200, initialize_result().raw, {"Mcp-Session-Id": "up-1"})

    async with bed(script) as bench:
        link = await bench.open_link()
        link.send(INITIALIZE, TICKET)
        await asked.wait()
        link.close(end_session=end_session)
        answers.set()
        await trio.sleep(10)
        ended = [seen.session_id for seen in bench.upstream.requests if seen.method == "DELETE"]
        assert ended == (["up-1"] if end_session else [])
        assert bench.inbox.entries == [], "and nobody is told"


async def test_ending_the_session_deletes_it_upstream() -> None:
    async with bed(always(200)) as bench:
        link = await bench.open_session()
        link.close(end_session=True)
        await wait_all_tasks_blocked()
        last = bench.upstream.requests[-1]
        assert (last.method, last.session_id, last.body) == ("DELETE", "up-1", b"")


async def test_stateless_upstream_is_sent_no_delete() -> None:

    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(200, initialize_result().raw)

    async with bed(script) as bench:
        link = await bench.open_session()
        link.close(end_session=True)
        await wait_all_tasks_blocked()
        assert len(bench.upstream.requests) == 1


# ---- listening ----


def listening(then: Script) -> Script:
    async def script(request: SeenRequest, caller: Caller) -> None:
        if request.method == "GET":
            await then(request, caller)
        else:
            await always(202)(request, caller)

    return script


async def listen(bench: Bed) -> None:
    link = await bench.open_session()
    link.listen()
    link.listen()  # a second time is the first


async def test_listening_resumes_after_the_last_event(autojump_clock: MockClock) -> None:
    changed = jsonrpc.notification("notifications/tools/list_changed")

    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        if "last-event-id" not in request.headers:
            await caller.event(changed.raw, id="g1", retry=20_000)
            await caller.end_stream()
        else:
            await caller.event(PROGRESS.raw)
            await caller.wait_closed_by_peer()

    async with bed(listening(then), patience_seconds=60) as bench:
        await listen(bench)
        assert await bench.inbox.wait() == Received(changed, about=About.NOTHING, cursor="g1")
        began = trio.current_time()
        assert await bench.inbox.wait() == Received(PROGRESS, about=About.NOTHING)
        assert 20 <= trio.current_time() - began < 21  # as the upstream asked
        gets = [request for request in bench.upstream.requests if request.method == "GET"]
        assert [request.headers.get("last-event-id") for request in gets] == [None, "g1"]
        assert gets[0].headers["accept"] == "text/event-stream"
        assert gets[0].session_id == "up-1"


@pytest.mark.parametrize(("status", "body"), [(405, b""), (404, b"Cannot GET /mcp"), (501, b"")])
async def test_upstream_without_a_stream_is_not_asked_again(
    status: int, body: bytes, autojump_clock: MockClock
) -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(status, body)

    async with bed(listening(then)) as bench:
        await listen(bench)
        await trio.sleep(3600)
        asked = len([request for request in bench.upstream.requests if request.method == "GET"])
        assert asked == 1
        assert len(bench.inbox.entries) == 1


async def test_failing_stream_is_asked_for_with_growing_pauses(autojump_clock: MockClock) -> None:
    times: list[float] = []

    async def then(request: SeenRequest, caller: Caller) -> None:
        times.append(trio.current_time())
        await caller.answer(500)

    async with bed(listening(then)) as bench:
        await listen(bench)
        await trio.sleep(600)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert all(1 <= pause <= 30 for pause in pauses)
    assert pauses[-1] >= 15  # ceilings: 2, 4, 8, 16, 30, 30, ... each between a half and the whole
    assert len(pauses) <= 600 / 15 + 5


@pytest.mark.parametrize("status", [401, 403])
async def test_stream_of_a_server_that_does_not_let_us_in_is_asked_for_until_it_does(
    status: int, autojump_clock: MockClock
) -> None:
    """More and more seldom: after 2, 4, 8, 16, 32, 60, 60, ... seconds at most, each between a half and the whole.

    The control is `test_upstream_without_a_stream_is_not_asked_again`.
    """
    changed = jsonrpc.notification("notifications/tools/list_changed")
    lets_in = False
    times: list[float] = []

    async def then(request: SeenRequest, caller: Caller) -> None:
        times.append(trio.current_time())
        if not lets_in:
            await caller.answer(status)
            return
        await caller.open_stream()
        await caller.event(changed.raw)
        await caller.wait_closed_by_peer()

    async with bed(listening(then), patience_seconds=120) as bench:
        with structlog.testing.capture_logs() as lines:
            await listen(bench)
            await trio.sleep(1200)
        assert [line["status"] for line in lines if line["event"] == "upstream_offers_no_stream"] == [status]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert all(pause <= 60.1 for pause in pauses)
        assert all(pause >= 30 for pause in pauses[6:])
        lets_in = True
        assert await bench.inbox.wait() == Received(changed, about=About.NOTHING)


async def test_lost_session_on_the_stream_loses_the_link() -> None:
    async def then(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(404, jsonrpc.error(None, -32001, "Session not found").raw)

    async with bed(listening(then)) as bench:
        await listen(bench)
        assert isinstance(await bench.inbox.wait(), Lost)
