"""The pool: what is shared, what is bounded, and what happens to requests when connections do not behave."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
from pathlib import Path

import attrs
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from trio.testing import MockClock, wait_all_tasks_blocked

from actors import jsonrpc
from actors.link import Failure
from tests.transport.upstreams.bed import Bed, bed, new_session
from tests.transport.upstreams.recording_inbox import Delivered, Entry, Received, RecordingInbox, Refused
from tests.transport.upstreams.scripted_upstream import Caller, SeenRequest
from transport.upstreams.http_link import StreamableHttpLink
from transport.upstreams.http_pool import HttpPool, PoolLimits, RequestFailed
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.streamable_http import StreamableHttpConnector

NOTICE = jsonrpc.notification("notifications/roots/list_changed")


def request(id: int) -> jsonrpc.Message:
    return jsonrpc.request(id, "x")


async def answer(seen: SeenRequest, caller: Caller, headers: dict[str, str] | None = None) -> None:
    message = jsonrpc.parse(seen.body)
    if message.id is None:
        await caller.answer(202, headers=headers)
    else:
        await caller.answer(200, jsonrpc.result(message.id, {}).raw, headers)


class Gate:
    """Holds answers to requests back until it is opened."""

    def __init__(self) -> None:
        self.opened = trio.Event()

    async def script(self, seen: SeenRequest, caller: Caller) -> None:
        if jsonrpc.parse(seen.body).id is not None:
            await self.opened.wait()
        await answer(seen, caller)


async def call(bench: Bed, link: StreamableHttpLink, id: int = 1) -> Entry:
    link.send(request(id), id)
    return await bench.inbox.wait()


# ---- sharing ----


async def test_calls_one_after_the_other_share_a_connection() -> None:
    async with bed(answer) as bench:
        link = await bench.open_link()
        for id in range(5):
            assert isinstance(await call(bench, link, id), Received)
        assert bench.upstream.connections == 1


async def test_links_to_the_same_origin_share_connections() -> None:
    async with bed(answer) as bench:
        for id in range(3):
            await call(bench, await bench.open_link(), id)
        assert bench.upstream.connections == 1


async def test_calls_at_once_get_a_connection_each() -> None:
    gate = Gate()
    async with bed(gate.script) as bench:
        link = await bench.open_link()
        for id in range(10):
            link.send(request(id), id)
        await wait_all_tasks_blocked()
        assert bench.upstream.connections == 10
        gate.opened.set()
        assert {
            entry.about for entry in [await bench.inbox.wait() for _ in range(10)] if isinstance(entry, Received)
        } == {*range(10)}


async def test_the_connection_used_last_is_used_first() -> None:
    gate = Gate()
    async with bed(gate.script) as bench:
        link = await bench.open_link()
        for id in range(3):
            link.send(request(id), id)
        gate.opened.set()
        for _ in range(3):
            await bench.inbox.wait()
        await wait_all_tasks_blocked()
        first = (await call(bench, link, 10), bench.upstream.requests[-1].connection)[1]
        again = (await call(bench, link, 11), bench.upstream.requests[-1].connection)[1]
        assert first == again


# ---- closed connections ----


async def test_connection_closed_while_idle_costs_no_call() -> None:
    """The server closes after each answer without saying so; the pool looks before it writes."""

    async def script(seen: SeenRequest, caller: Caller) -> None:
        await answer(seen, caller)
        await caller.close()

    async with bed(script) as bench:
        link = await bench.open_link()
        for id in range(20):
            assert isinstance(await call(bench, link, id), Received)
            await wait_all_tasks_blocked()
        assert bench.upstream.connections == 20


async def test_connection_closed_but_not_yet_noticed_costs_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, at the worst instant: the close has arrived, and the connection's task has not run since."""
    streams: list[trio.SocketStream] = []

    async def script(seen: SeenRequest, caller: Caller) -> None:
        streams.append(caller.stream)
        await answer(seen, caller)

    async with bed(script) as bench:
        link = await bench.open_link()
        await call(bench, link, 1)
        await wait_all_tasks_blocked()
        streams[0].socket.shutdown(socket.SHUT_WR)
        link.send(request(2), 2)
        assert isinstance(await bench.inbox.wait(), Received)

        # control: without the look, the call is lost, and nobody can tell whether it was run
        await wait_all_tasks_blocked()
        monkeypatch.setattr("transport.upstreams.http_wire.PlainWire.still_open", lambda _: True)
        streams[-1].socket.shutdown(socket.SHUT_WR)
        link.send(request(3), 3)
        entry = await bench.inbox.wait()
        assert isinstance(entry, Refused)
        assert entry.failure is Failure.OUTCOME_UNKNOWN


async def test_connection_that_says_close_is_not_used_again() -> None:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        await answer(seen, caller, {"Connection": "close"})

    async with bed(script) as bench:
        link = await bench.open_link()
        for id in range(3):
            await call(bench, link, id)
        assert bench.upstream.connections == 3


async def test_bytes_after_the_answer_end_the_connection_and_answer_nothing() -> None:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        evil = jsonrpc.result(2, {"evil": True}).raw
        good = jsonrpc.result(jsonrpc.parse(seen.body).id or 0, {}).raw
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b"
        await caller.send(head % (len(good), good) + head % (len(evil), evil))

    async with bed(script) as bench:
        link = await bench.open_link()
        for id in (1, 2):
            entry = await call(bench, link, id)
            assert isinstance(entry, Received)
            assert b"evil" not in entry.message.raw
        assert bench.upstream.connections == 2


@pytest.mark.parametrize(("promise", "seconds"), [(None, 30), ("timeout=5, max=100", 4)])
async def test_idle_connections_are_closed_in_time(
    promise: str | None, seconds: float, autojump_clock: MockClock
) -> None:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        await answer(seen, caller, {"Keep-Alive": promise} if promise else None)

    async with bed(script) as bench:
        await call(bench, await bench.open_link())
        await trio.sleep(seconds - 1)
        assert bench.pool.statistics().idle == 1
        await trio.sleep(3)  # at most one sweep later
        assert bench.pool.statistics().connections == 0


async def test_pool_learns_when_the_other_side_closes_idle_connections(autojump_clock: MockClock) -> None:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        await answer(seen, caller)
        with trio.move_on_after(5):  # as uvicorn does
            await trio.lowlevel.wait_readable(caller.stream.socket)
            return
        await caller.close()

    async with bed(script) as bench:
        link = await bench.open_link()
        await call(bench, link, 1)
        await trio.sleep(4.5)
        assert bench.pool.statistics().idle == 1
        await trio.sleep(3.8)
        await call(bench, link, 2)  # at 8.3 s; 0.8 of the 5 s seen end at 12.3 s, the next sweep is at 13 s
        await trio.sleep(4.8)  # at 13.1 s; the server would close at 13.3 s
        assert bench.pool.statistics().idle == 0


# ---- bounds ----


async def test_connections_are_bounded_and_calls_wait_for_one() -> None:
    gate = Gate()
    async with bed(gate.script, pool_limits=PoolLimits(connections_max=2)) as bench:
        link = await bench.open_link()
        for id in range(6):
            link.send(request(id), id)
        await wait_all_tasks_blocked()
        assert bench.upstream.connections == 2
        assert bench.pool.statistics().waiting == 4
        gate.opened.set()
        for _ in range(6):
            assert isinstance(await bench.inbox.wait(), Received)
        assert bench.upstream.connections == 2


async def test_full_queue_says_not_sent() -> None:
    gate = Gate()
    async with bed(gate.script, pool_limits=PoolLimits(connections_max=1, waiting_max=1)) as bench:
        link = await bench.open_link()
        link.send(request(0), 0)
        await wait_all_tasks_blocked()
        link.send(request(1), 1)
        link.send(request(2), 2)
        entry = await bench.inbox.wait()
        assert isinstance(entry, Refused)
        assert (entry.ticket, entry.failure) == (2, Failure.NOT_SENT)


async def test_call_that_waits_too_long_was_not_sent(autojump_clock: MockClock) -> None:
    gate = Gate()
    limits = PoolLimits(connections_max=1, waiting_seconds_max=10)
    async with bed(gate.script, pool_limits=limits) as bench:
        link = await bench.open_link()
        link.send(request(0), 0)
        await wait_all_tasks_blocked()
        link.send(request(1), 1)
        entry = await bench.inbox.wait()
        assert isinstance(entry, Refused)
        assert (entry.ticket, entry.failure) == (1, Failure.NOT_SENT)
        assert 10 <= trio.current_time() <= 12


@pytest.mark.parametrize("reserve", [1, 0])
async def test_answers_get_through_while_calls_hold_all_connections(reserve: int) -> None:
    gate = Gate()
    limits = PoolLimits(connections_max=2, urgent_connections_max=reserve)
    async with bed(gate.script, pool_limits=limits) as bench:
        link = await bench.open_link()
        for id in range(3):
            link.send(request(id), id)
        await wait_all_tasks_blocked()
        link.send(NOTICE, 9)
        await wait_all_tasks_blocked()
        # control: without the reserve it waits for a call to end
        assert bench.inbox.entries == ([Delivered(9)] if reserve else [])
        assert bench.pool.statistics().waiting == (1 if reserve else 2)  # the reserve is not for calls


async def test_standing_streams_do_not_take_connections_from_calls() -> None:
    async def script(seen: SeenRequest, caller: Caller) -> None:
        if seen.method == "GET":
            await caller.open_stream()
            await caller.wait_closed_by_peer()
        else:
            await answer(seen, caller)

    async with bed(script, pool_limits=PoolLimits(connections_max=1, standing_max=3)) as bench:
        links = [await bench.open_link() for _ in range(4)]
        for link in links:
            link.listen()
        await wait_all_tasks_blocked()
        assert bench.pool.statistics().standing == 3  # the fourth tries again later
        assert isinstance(await call(bench, links[0]), Received)
        for link in links:
            link.close(end_session=False)
        await wait_all_tasks_blocked()
        assert bench.pool.statistics().standing == 0


# ---- servers that do not behave ----


async def test_server_that_accepts_and_closes_fails_calls_at_once() -> None:
    async with trio.open_nursery() as nursery:
        accepted = 0

        async def close(stream: trio.SocketStream) -> None:
            nonlocal accepted
            accepted += 1
            await stream.aclose()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, close, listeners)
        port = listeners[0].socket.getsockname()[1]
        pool = HttpPool()
        await nursery.start(pool.run)
        inbox = RecordingInbox(nursery)
        connector = StreamableHttpConnector(pool, HttpTarget.parse(f"http://127.0.0.1:{port}"))
        link = await connector(new_session(), inbox)
        for id in range(5):
            link.send(request(id), id)
        for _ in range(5):
            entry = await inbox.wait()
            assert isinstance(entry, Refused)
            assert entry.failure in (Failure.NOT_SENT, Failure.OUTCOME_UNKNOWN)
        assert accepted <= 10
        nursery.cancel_scope.cancel()


async def test_large_request_is_sent_as_the_server_reads_it() -> None:
    async with bed(answer) as bench:
        link = await bench.open_link()
        large = jsonrpc.request(1, "x", {"text": "y" * 15_000_000})
        link.send(large, 1)
        assert isinstance(await bench.inbox.wait(), Received)
        assert bench.upstream.requests[0].body == large.raw
        assert isinstance(await call(bench, link, 2), Received)
        assert bench.upstream.connections == 1


async def test_answer_to_a_request_that_is_not_read_to_its_end_is_heard() -> None:
    async with trio.open_nursery() as nursery:

        async def refuse(stream: trio.SocketStream) -> None:
            await stream.receive_some(1000)
            await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await trio.sleep_forever()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, refuse, listeners)
        pool = HttpPool()
        await nursery.start(pool.run)
        inbox = RecordingInbox(nursery)
        target = HttpTarget.parse(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}")
        link = await StreamableHttpConnector(pool, target)(new_session(), inbox)
        link.send(jsonrpc.request(1, "x", {"text": "y" * 15_000_000}), 1)
        entry = await inbox.wait()
        assert isinstance(entry, Refused)
        assert "413" in entry.detail
        await wait_all_tasks_blocked()
        assert pool.statistics().connections == 0  # half a request went over it: it is of no use any more
        nursery.cancel_scope.cancel()


async def test_listener_that_fails_takes_nobody_along() -> None:
    gate = Gate()
    async with bed(gate.script) as bench:
        link = await bench.open_link()
        link.send(request(1), 1)
        link.send(request(2), 2)
        await wait_all_tasks_blocked()

        def fail_once(_: Entry) -> None:
            bench.inbox.hook = None
            raise RuntimeError("a fault in the session")

        bench.inbox.hook = fail_once
        gate.opened.set()
        assert isinstance(await bench.inbox.wait(), Received)
        assert isinstance(await bench.inbox.wait(), Received)
        assert isinstance(await call(bench, link, 3), Received)


# ---- stopping ----


async def test_stopped_pool_tells_what_was_sent_from_what_was_not() -> None:
    gate = Gate()
    async with bed(gate.script) as bench, trio.open_nursery() as nursery:
        pool = HttpPool(limits=PoolLimits(connections_max=1))
        scope = await nursery.start(_run_in_scope, pool)
        link = await attrs.evolve(bench.connector, pool=pool)(new_session(), bench.inbox)
        link.send(request(1), 1)
        await wait_all_tasks_blocked()
        link.send(request(2), 2)
        scope.cancel()
        entries = [await bench.inbox.wait(), await bench.inbox.wait()]
        assert [(entry.ticket, entry.failure) for entry in entries if isinstance(entry, Refused)] == [
            (1, Failure.OUTCOME_UNKNOWN),
            (2, Failure.NOT_SENT),
        ]
        link.send(request(3), 3)
        late = await bench.inbox.wait()
        assert isinstance(late, Refused)
        assert late.failure is Failure.NOT_SENT
        nursery.cancel_scope.cancel()


async def _run_in_scope(pool: HttpPool, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(pool.run)
            task_status.started(scope)


async def test_fetch_that_is_cancelled_gives_its_connection_up() -> None:
    gate = Gate()
    async with bed(gate.script) as bench:
        target = bench.connector.target
        link = await bench.open_link()
        with trio.CancelScope() as scope:
            bench.nursery.start_soon(_cancel_when_blocked, scope)
            await bench.pool.fetch(target.origin, link.request_with_session(request(1)), seconds=10)
        assert scope.cancelled_caught
        await wait_all_tasks_blocked()
        assert bench.pool.statistics().connections == 0


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


# ---- TLS ----


def make_certificate(directory: Path) -> Path:
    """Write a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "upstream")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    unencrypted = serialization.NoEncryption()
    encoded_key = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    path.write_bytes(encoded_key + certificate.public_bytes(serialization.Encoding.PEM))
    return path


async def _echo_over_tls(stream: trio.SocketStream, context: ssl.SSLContext) -> None:
    """Answer two requests per connection, then close it without a word, as busy servers do."""
    tls = trio.SSLStream(stream, context, server_side=True)
    try:
        for _ in range(2):
            data = b""
            while b"\r\n\r\n" not in data:
                data += await tls.receive_some()
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += await tls.receive_some()
            result = jsonrpc.result(jsonrpc.parse(body).id or 0, {"size": length}).raw
            await tls.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(result), result))
        await stream.aclose()
    except trio.BrokenResourceError:
        await stream.aclose()


async def test_https_upstream_is_verified_and_its_connections_are_reused(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    connections = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        await _echo_over_tls(stream, server)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        target = HttpTarget.parse(f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/mcp")
        trusting, doubting = HttpPool(tls_context=ssl.create_default_context(cafile=str(certificate))), HttpPool()
        inbox = RecordingInbox(nursery)
        for pool in (trusting, doubting):
            await nursery.start(pool.run)
        link = await StreamableHttpConnector(trusting, target)(new_session(), inbox)
        for id in range(6):
            link.send(jsonrpc.request(id, "x", {"text": "y" * 300_000 * (id % 2)}), id)
            assert isinstance(await inbox.wait(), Received)
            await wait_all_tasks_blocked()
        assert connections == 3

        link = await StreamableHttpConnector(doubting, target)(new_session(), inbox)
        link.send(request(1), 1)
        entry = await inbox.wait()
        assert isinstance(entry, Refused)
        assert entry.failure is Failure.NOT_SENT
        assert "certificate" in entry.detail
        nursery.cancel_scope.cancel()


async def test_plain_upstreams_make_no_tls_context(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> ssl.SSLContext:
        raise AssertionError("a TLS context costs 24 ms and 830 KiB")

    monkeypatch.setattr(ssl, "create_default_context", fail)
    async with bed(answer) as bench:
        await call(bench, await bench.open_link())


async def test_request_before_the_pool_runs_fails() -> None:
    pool = HttpPool()
    with pytest.raises(RequestFailed):
        await pool.fetch(HttpTarget.parse("http://127.0.0.1:9").origin, b"", seconds=1)
