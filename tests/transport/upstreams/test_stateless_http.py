"""Requests without a session over HTTP: bytes as they are, one connection each, closed when nobody waits any more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing

from actors import jsonrpc
from actors.link import Failure
from tests.transport.modern_messages import call, parsed, request
from tests.transport.upstreams.collecting import collected
from tests.transport.upstreams.scripted_upstream import Caller, Script, ScriptedUpstream, SeenRequest
from transport.upstreams.era import Era, EraUnknown
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.stateless import Answer, NoAnswer
from transport.upstreams.stateless_http import StatelessHttp

DEADLINE_SECONDS = 10.0
NOTE = jsonrpc.notification("notifications/progress", {"progressToken": 1, "progress": 1}).raw
DISCOVERED = {"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete"}


@attrs.frozen
class Bed:
    script: ScriptedUpstream
    upstream: StatelessHttp
    pool: HttpPool


@asynccontextmanager
async def bed(script: Script, *, url: str = "", limits: HttpLimits = HttpLimits()) -> AsyncIterator[Bed]:
    async with trio.open_nursery() as nursery:
        server = ScriptedUpstream(script)
        await nursery.start(server.run)
        pool = HttpPool()
        await nursery.start(pool.run)
        target = HttpTarget.parse(url or server.url)
        upstream = StatelessHttp(pool, target, {"X-Key": "k"}, limits=limits)
        yield Bed(server, upstream, pool)
        nursery.cancel_scope.cancel()


async def asked(upstream: StatelessHttp, message: dict[str, object] | None = None) -> Answer | NoAnswer:
    return (await collected(await upstream.send(parsed(message or call()))))[1]


def answering(status: int, body: bytes, **headers: str) -> Script:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        await caller.answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})

    return script


async def test_body_goes_out_byte_for_byte_with_the_headers_that_mirror_it() -> None:
    answer = b'{"jsonrpc":"2.0", "id":"1" ,"result":{"big":12345678901234567890,"zero":1.0e2,"x":null}}'
    async with bed(answering(200, answer)) as it:
        message = call(id="1", n=12345678901234567890)
        end = await asked(it.upstream, message)
        [seen] = it.script.requests

    assert isinstance(end, Answer)
    assert (end.status, end.message.raw) == (200, answer)
    assert seen.body == json.dumps(message).encode()
    mirrored = {name: value for name, value in seen.headers.items() if name.startswith("mcp-")}
    assert mirrored == {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "echo"}
    assert seen.headers["x-key"] == "k"


@pytest.mark.parametrize(
    ("status", "code"), [(404, -32601), (400, -32602), (400, -32021), (200, -31234), (500, -32603)]
)
async def test_errors_keep_their_code_status_and_data(status: int, code: int) -> None:
    error = jsonrpc.error(1, code, "no", {"big": 2**60})
    async with bed(answering(status, error.raw)) as it:
        assert await asked(it.upstream) == Answer(error, status)


async def test_error_without_an_id_gets_the_requests() -> None:
    async with bed(answering(400, jsonrpc.error(None, -32602, "no").raw)) as it:
        end = await asked(it.upstream, call(id="mine"))
    assert isinstance(end, Answer)
    assert json.loads(end.message.raw)["id"] == "mine"


@pytest.mark.parametrize(
    ("status", "body", "failure"),
    [
        (401, jsonrpc.error(1, -32600, "who are you").raw, Failure.REFUSED),
        (403, b"", Failure.REFUSED),
        (404, b"<html>", Failure.REFUSED),
        (503, b"", Failure.NOT_SENT),
        (502, b"", Failure.OUTCOME_UNKNOWN),
        (202, b"", Failure.REFUSED),
        (200, b"<html>", Failure.UNREADABLE),
        (200, jsonrpc.result(2, {}).raw, Failure.UNREADABLE),
        (200, jsonrpc.notification("x").raw, Failure.UNREADABLE),
    ],
)
async def test_what_is_no_answer_is_told_by_what_may_be_done(status: int, body: bytes, failure: Failure) -> None:
    async with bed(answering(status, body)) as it:
        end = await asked(it.upstream)
    assert isinstance(end, NoAnswer)
    assert end.failure is failure


async def test_stream_gives_messages_then_the_answer_and_its_connection_is_used_again() -> None:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.chunk(b": ping\r\n\r\nevent: message\r\ndata: " + NOTE + b"\r\n\r\n")
        await caller.event(NOTE, id="7")
        await caller.event(jsonrpc.request(5, "sampling/createMessage").raw)
        await caller.event(b"garbage")
        await caller.event(jsonrpc.result(99, {}).raw)
        await caller.event(jsonrpc.result(1, {"x": 1}).raw)
        await caller.end_stream()

    async with bed(script) as it:
        for _ in range(2):
            messages, end = await collected(await it.upstream.send(parsed(call())))
            assert messages == [NOTE, NOTE]
            assert end == Answer(jsonrpc.result(1, {"x": 1}), 200)
            await trio.testing.wait_all_tasks_blocked(0.02)  # the end of the stream is read behind the answer
        assert it.upstream.strange == 6
        assert it.script.connections == 1


async def test_stream_that_ends_without_the_answer_is_in_doubt_and_not_sent_again() -> None:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.event(NOTE, id="7")
        await caller.end_stream()

    async with bed(script) as it:
        end = await asked(it.upstream)
        assert len(it.script.requests) == 1
    assert isinstance(end, NoAnswer)
    assert end.failure is Failure.OUTCOME_UNKNOWN


@pytest.mark.parametrize("streaming", [False, True])
async def test_giving_up_closes_the_connection(streaming: bool) -> None:
    closed = trio.Event()
    begun = trio.Event()

    async def script(seen: SeenRequest, caller: Caller) -> None:
        if streaming:
            await caller.open_stream()
        begun.set()
        await caller.wait_closed_by_peer()
        closed.set()

    async with bed(script) as it:
        way = await it.upstream.send(parsed(call()))
        with trio.fail_after(DEADLINE_SECONDS):
            await begun.wait()
            way.cancel()
            await closed.wait()


async def test_not_giving_up_leaves_the_connection_open() -> None:
    """The control to the test above."""
    closed = trio.Event()
    begun = trio.Event()

    async def script(seen: SeenRequest, caller: Caller) -> None:
        begun.set()
        await caller.wait_closed_by_peer()
        closed.set()

    async with bed(script) as it:
        await it.upstream.send(parsed(call()))
        await begun.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not closed.is_set()


async def test_listening_takes_no_connection_from_calls() -> None:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.event(NOTE)
        await caller.wait_closed_by_peer()

    async with bed(script) as it:
        way = await it.upstream.send(parsed(request("subscriptions/listen", notifications={})))
        with trio.fail_after(DEADLINE_SECONDS):
            await way.wait()
        assert it.pool.statistics().standing == 1
        assert it.pool.statistics().connections == 0
        way.cancel()


@attrs.define
class Flood:
    """A server that says far more than the sockets hold: kernels buffer some 6 MB of a loopback connection at most."""

    count: int = 150
    note: bytes = jsonrpc.notification("x", {"text": "y" * 100_000}).raw
    said: int = 0

    async def __call__(self, seen: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        for _ in range(self.count):
            await caller.event(self.note)
            self.said += 1
        await caller.event(jsonrpc.result(1, {}).raw)
        await caller.end_stream()


async def test_a_client_that_does_not_read_slows_its_server_and_loses_nothing() -> None:
    flood = Flood()
    async with bed(flood) as it:
        way = await it.upstream.send(parsed(call()))
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert flood.said < flood.count
        assert way.waiting_bytes < 1_000_000
        messages, end = await collected(way)
    assert messages == [flood.note] * flood.count
    assert isinstance(end, Answer)


async def test_without_being_held_the_server_fills_our_memory() -> None:
    flood = Flood()
    async with bed(flood, limits=HttpLimits(held_bytes=2**40)) as it:
        way = await it.upstream.send(parsed(call()))
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert flood.said == flood.count
        assert way.waiting_bytes > 10_000_000
        way.cancel()


async def test_giving_up_a_call_that_is_held_back_ends_it() -> None:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        while True:
            await caller.event(jsonrpc.notification("x", {"text": "y" * 100_000}).raw)

    async with bed(script) as it:
        way = await it.upstream.send(parsed(call()))
        await trio.testing.wait_all_tasks_blocked(0.1)
        way.cancel()
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert it.pool.statistics().connections == 0


# ---- which era ----


async def era_of(script: Script, limits: HttpLimits = HttpLimits()) -> tuple[Era, SeenRequest]:
    async with bed(script, limits=limits) as it:
        return await it.upstream.era.find(), it.script.requests[0]


async def test_server_that_answers_discover_is_modern_however_it_answers() -> None:
    async def as_json(seen: SeenRequest, caller: Caller) -> None:
        await caller.answer(200, jsonrpc.result(json.loads(seen.body)["id"], DISCOVERED).raw)

    async def as_stream(seen: SeenRequest, caller: Caller) -> None:
        await caller.open_stream()
        await caller.event(jsonrpc.result(json.loads(seen.body)["id"], DISCOVERED).raw)
        await caller.end_stream()

    for script in (as_json, as_stream):
        era, seen = await era_of(script)
        assert era is Era.MODERN
        assert (seen.headers["mcp-method"], seen.session_id) == ("server/discover", None)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, jsonrpc.error(None, -32600, "Bad Request: Unsupported protocol version: 2026-07-28").raw),
        (400, jsonrpc.error(None, -32000, "Bad Request: Server not initialized").raw),
        (404, b"Not Found"),
        (405, b""),
        (200, jsonrpc.error("server-error", -32601, "Method not found").raw),
        (200, b"<html>welcome</html>"),
        (500, b"oops"),
        (500, jsonrpc.error(None, -32603, "oops").raw),
    ],
)
async def test_whatever_else_comes_is_no_modern_server(status: int, body: bytes) -> None:
    era, _ = await era_of(answering(status, body))
    assert era is Era.HANDSHAKE


async def test_silence_is_no_modern_server() -> None:
    async def silent(seen: SeenRequest, caller: Caller) -> None:
        await caller.wait_closed_by_peer()

    era, _ = await era_of(silent, HttpLimits(probe_seconds_max=0.05))
    assert era is Era.HANDSHAKE


@pytest.mark.parametrize("status", [401, 403, 429, 503])
async def test_server_that_does_not_let_us_ask_is_of_no_era(status: int) -> None:
    async with bed(answering(status, b"")) as it:
        with pytest.raises(EraUnknown, match=str(status)):
            await it.upstream.era.find()


async def test_server_that_is_down_is_of_no_era() -> None:
    async with bed(answering(200, b""), url="http://127.0.0.1:9/mcp") as it:
        with pytest.raises(EraUnknown):
            await it.upstream.era.find()
        assert it.upstream.era.known is None


async def test_answer_that_a_modern_server_would_not_give_is_asked_about() -> None:
    """A server that was replaced by an older one is noticed by its first refusal, not when the knowledge is old."""
    replaced = False

    async def script(seen: SeenRequest, caller: Caller) -> None:
        if replaced:
            await caller.answer(400, jsonrpc.error(None, -32000, "Server not initialized").raw)
        elif b"server/discover" in seen.body:
            await caller.answer(200, jsonrpc.result(json.loads(seen.body)["id"], DISCOVERED).raw)
        else:
            await caller.answer(400, jsonrpc.error(1, -32602, "no such tool").raw)

    async with bed(script) as it:
        era = it.upstream.era
        known = [await era.find()]
        await asked(it.upstream)
        known.append(era.known or Era.HANDSHAKE)
        replaced = True
        assert isinstance(await asked(it.upstream), Answer)
        known += [era.known or Era.HANDSHAKE, await era.find()]
        assert known == [Era.MODERN, Era.MODERN, Era.HANDSHAKE, Era.HANDSHAKE]
