"""The accept loop and the two roads behind it, over real loopback sockets."""

from __future__ import annotations

import os
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel
import wsproto
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from wsproto.events import AcceptConnection, Request, TextMessage

from actors import jsonrpc
from tests.transport.serving import JSON, Client, connected, echo, get, post, serving, until
from tests.transport.upstreams.bed import CALL, TICKET, new_session
from tests.transport.upstreams.recording_inbox import Received, RecordingInbox
from transport.asgi import asgi_app
from transport.exchange import Exchange
from transport.handler import HttpLimits
from transport.server import HttpServer, default_connections_max, open_listeners
from transport.socket_exchange import SocketExchange
from transport.upstreams.websocket import WebSocketConnector

BOTH_ROADS = pytest.mark.parametrize("hot", [True, False], ids=["hot", "hypercorn"])


async def test_port_zero_becomes_a_real_port_that_is_told() -> None:
    async with serving() as server:
        ((host, port),) = server.addresses
        assert host == "127.0.0.1"
        assert port > 0
        async with connected(server) as client:
            assert (await client.ask(post(b"hello"))).body == b"hello"


async def test_every_address_of_a_name_gets_the_same_port() -> None:
    listeners = await open_listeners("localhost", 0)
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        listener.close()


async def test_address_in_use_is_an_oserror_and_leaves_nothing_open() -> None:
    (taken,) = await open_listeners("127.0.0.1", 0)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="in use"):
        await open_listeners("127.0.0.1", taken.getsockname()[1])
    assert set(os.listdir("/proc/self/fd")) == before
    taken.close()


async def test_accepted_sockets_inherit_a_bound_on_unacknowledged_bytes() -> None:
    (listener,) = await open_listeners("127.0.0.1", 0, write_seconds=7)
    with listener, socket.create_connection(listener.getsockname()):
        await trio.lowlevel.wait_readable(listener)
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


@BOTH_ROADS
async def test_both_roads_serve_many_requests_per_connection(hot: bool) -> None:
    async with serving(hot=hot) as server, connected(server) as client:
        for body in (b"one", b"two", b"x" * 300_000, b""):
            assert (await client.ask(post(body))).body == body
    assert server.statistics().connections_handed_over == (0 if hot else 1)


async def test_cold_request_goes_to_hypercorn_for_good_with_its_bytes() -> None:
    roads: list[str] = []

    async def hot_handler(exchange: Exchange) -> None:
        roads.append(f"hot {exchange.head.path}")
        await echo(exchange)

    async def wide_handler(exchange: Exchange) -> None:
        roads.append(f"wide {exchange.head.path}")
        await echo(exchange)

    options: dict[str, Any] = {"asgi_app": asgi_app(wide_handler), "is_hot": lambda head: head.path == "/mcp"}
    async with serving(hot_handler, **options) as server, connected(server) as client:
        assert (await client.ask(post(b"1"))).body == b"1"
        cold = post(b"22222", "/admin/sessions")
        await client.stream.send_all(cold[:-2])  # a part of the body is read on one road, the rest on the other
        await trio.lowlevel.checkpoint()
        await client.stream.send_all(cold[-2:])
        assert (await client.answer()).body == b"22222"
        assert (await client.ask(post(b"3"))).body == b"3"
    assert roads == ["hot /mcp", "wide /admin/sessions", "wide /mcp"]
    assert server.statistics().connections_handed_over == 1


async def test_websocket_is_handed_to_the_asgi_app() -> None:
    async def shout(socket: SocketExchange) -> None:
        await socket.accept("mcp")
        message = await socket.receive()
        await socket.send(f"{socket.head.path}{message!s}".upper())
        await socket.receive()

    options: dict[str, Any] = {
        "asgi_app": asgi_app(echo, websocket=shout),
        "is_hot": lambda head: "upgrade" not in head.headers,
    }
    async with serving(**options) as server, connected(server) as client:
        peer = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        await client.stream.send_all(peer.send(Request(host="localhost", target="/ws", subprotocols=["mcp"])))
        events: list[Any] = []
        while not any(isinstance(event, TextMessage) for event in events):
            peer.receive_data(bytes(await client.stream.receive_some()))
            events += peer.events()
            if [type(event) for event in events] == [AcceptConnection]:
                await client.stream.send_all(peer.send(TextMessage(data="hello")))
    assert events[-1].data == "/WSHELLO"


async def test_websocket_is_spoken_over_tls_by_both_our_sides(tmp_path: Path) -> None:
    async def answer(socket: SocketExchange) -> None:
        await socket.accept("mcp")
        asked = jsonrpc.parse(str(await socket.receive()).encode())
        assert asked.id is not None
        await socket.send(jsonrpc.result(asked.id, {"scheme": socket.head.scheme}).raw.decode())
        await socket.receive()

    server_side, client_side = _certificates(tmp_path)
    options: dict[str, Any] = {
        "asgi_app": asgi_app(echo, websocket=answer),
        "is_hot": lambda head: False,
        "tls": server_side,
        "limits": HttpLimits(linger_seconds=0.1, ping_seconds=0.05),
    }
    async with serving(**options) as server, trio.open_nursery() as nursery:
        inbox = RecordingInbox(nursery)
        connector = WebSocketConnector(f"wss://localhost:{server.addresses[0][1]}/ws", tls=client_side)
        link = await connector(new_session(), inbox)
        await trio.sleep(0.2)  # some pings
        link.send(CALL, TICKET)
        entry = await inbox.wait()
        assert isinstance(entry, Received)
        assert jsonrpc.result_of(entry.message) == {"scheme": "https"}
        link.close(end_session=True)


async def test_websocket_without_a_handler_is_refused() -> None:
    handshake = get(
        "/ws",
        *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    async with serving(is_hot=lambda head: False) as server, connected(server) as client:
        assert (await client.ask(handshake)).status == 403


@BOTH_ROADS
async def test_http2_on_request_is_not_spoken(hot: bool) -> None:
    ask = post(
        b"hello", "/mcp", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__"
    )
    async with serving(hot=hot) as server:
        async with connected(server) as client:
            answer = await client.ask(ask)
            assert (answer.status, answer.body) == (200, b"hello")
        async with connected(server) as client:
            assert (await client.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")).status == 505


@BOTH_ROADS
async def test_closed_clients_free_their_descriptors_at_once(hot: bool) -> None:
    async with serving(hot=hot) as server:
        async with connected(server) as client:
            await client.ask(post())
        await until(lambda: server.statistics().connections_open == 0)
        before = len(os.listdir("/proc/self/fd"))
        clients = [socket.create_connection(server.addresses[0]) for _ in range(30)]
        for index, client_socket in enumerate(clients):
            client_socket.sendall(post() if index % 2 else b"")
        await until(lambda: server.statistics().connections_open == 30)
        for client_socket in clients:
            client_socket.close()
        await until(lambda: server.statistics().connections_open == 0)
        assert len(os.listdir("/proc/self/fd")) == before


async def test_at_the_cap_clients_are_told_and_later_ones_served() -> None:
    async with serving(connections_max=2) as server:
        async with connected(server) as first, connected(server) as second:
            await first.ask(post())
            await second.ask(post())
            async with connected(server) as third:
                answer = await third.answer()
                assert (answer.status, answer.headers["retry-after"]) == (503, "5")
                assert answer.headers["connection"] == "close"
                assert str(jsonrpc.OVERLOADED).encode() in answer.body
            assert (await first.ask(post(b"still"))).body == b"still"
        await until(lambda: server.statistics().connections_open == 0)
        async with connected(server) as client:
            assert (await client.ask(post(b"again"))).body == b"again"
    assert server.statistics().connections_refused == 1


def test_cap_leaves_descriptors_for_the_rest() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 1 <= default_connections_max() <= 20_000
    assert default_connections_max() <= max(1, soft - 200)


@pytest.fixture
def descriptors_taken() -> Iterator[list[int]]:
    """Takes every descriptor that the process may open, but those that are given back to it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 50, hard))
    taken: list[int] = []
    with suppress(OSError):
        while True:
            taken.append(os.dup(0))
    for _ in range(20):  # for trio, the server and an old client
        os.close(taken.pop())
    yield taken
    for descriptor in taken:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_running_out_of_descriptors_pauses_accepting_and_nothing_else(descriptors_taken: list[int]) -> None:
    def give_back(count: int) -> None:
        for _ in range(count):
            os.close(descriptors_taken.pop())

    # The cap is given, for its default follows the limit on descriptors that this test takes down.
    async with serving(connections_max=100) as server, connected(server) as old:
        await old.ask(post())
        waiting = socket.socket()
        with suppress(OSError):
            while True:
                descriptors_taken.append(os.dup(0))
        waiting.connect(server.addresses[0])
        await until(lambda: server.statistics().accept_pauses > 0)
        assert (await old.ask(post(b"old"))).body == b"old"
        give_back(5)
        waiting.setblocking(False)
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(waiting))
        assert (await Client(stream).ask(post(b"new"))).body == b"new"
        await stream.aclose()


# Ending


@BOTH_ROADS
async def test_stop_finishes_answers_and_refuses_new_connections(hot: bool) -> None:
    arrived, go_on = trio.Event(), trio.Event()

    async def handler(exchange: Exchange) -> None:
        if exchange.head.path == "/slow":
            arrived.set()
            await go_on.wait()
        await echo(exchange)

    async with serving(handler, hot=hot) as server, connected(server) as busy, connected(server) as idle:
        await idle.ask(post())
        await busy.stream.send_all(post(b"last", "/slow"))
        await arrived.wait()
        server.stop()
        assert await idle.ended() == b""
        await until(lambda: not _accepts(server.addresses[0]))
        go_on.set()
        answer = await busy.answer()
        assert (answer.body, answer.headers["connection"]) == (b"last", "close")
        assert await busy.ended() == b""
        await until(lambda: server.statistics().connections_open == 0)


def _accepts(address: tuple[str, int]) -> bool:
    with socket.socket() as client:
        return client.connect_ex(address) == 0


@BOTH_ROADS
async def test_abort_ends_whatever_goes_on(hot: bool) -> None:
    async def handler(exchange: Exchange) -> None:
        await exchange.start_stream(200, JSON)
        await trio.sleep_forever()

    async with serving(handler, hot=hot) as server, connected(server) as client:
        await client.stream.send_all(get())
        await client.stream.receive_some()
        server.abort()
        await client.ended()
        await until(lambda: server.statistics().connections_open == 0)


async def test_without_the_hot_road_an_app_is_needed() -> None:
    with pytest.raises(ValueError, match="ASGI app"):
        HttpServer([], echo, hot=False)


# TLS


def _certificates(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "both.pem").write_bytes(private + public)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(folder / "both.pem")
    return server_side, ssl.create_default_context(cadata=public.decode())


@BOTH_ROADS
async def test_tls_is_spoken_on_both_roads(hot: bool, tmp_path: Path) -> None:
    schemes: list[str] = []

    async def handler(exchange: Exchange) -> None:
        schemes.append(exchange.head.scheme)
        await echo(exchange)

    server_side, client_side = _certificates(tmp_path)
    async with serving(handler, hot=hot, tls=server_side, limits=HttpLimits(linger_seconds=0.1)) as server:
        async with await trio.open_tcp_stream(*server.addresses[0]) as plain:
            await plain.send_all(get())  # no handshake: dropped, nothing else disturbed
            await Client(plain).ended()
        below = await trio.open_tcp_stream(*server.addresses[0])
        async with trio.SSLStream(below, client_side, server_hostname="localhost", https_compatible=True) as stream:
            client = Client(stream)
            assert (await client.ask(post(b"x" * 100_000))).body == b"x" * 100_000
            assert (await client.ask(post(b"again"))).body == b"again"
    assert schemes == ["https", "https"]
