"""Upstreams through a forward proxy: tunnels are made, pooled and verified as connections are; refusals are told.

Method: upstreams have names that only the proxy knows; where any other name is asked for, the resolver fails the test.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from actors.link import ConnectFailed
from tests.certificates import Authority
from tests.transport.upstreams.bed import CALL, TICKET, new_session
from tests.transport.upstreams.fake_proxy import ESTABLISHED
from tests.transport.upstreams.recording_inbox import Received, RecordingInbox
from tests.transport.upstreams.scripted_upstream import Caller, SeenRequest
from tests.transport.upstreams.test_websocket import Server, echo, serving
from tests.transport.upstreams.tls_before import shown_by, tls_before
from tests.transport.upstreams.tunnel_bed import LARGE, NAME, PASSWORD, Bench, Way, bench
from transport.upstreams.forward_proxy import ForwardProxy
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.http_wire import PlainWire, open_wire
from transport.upstreams.side_requests import PooledSideRequests
from transport.upstreams.tunnel import HEAD_BYTES_MAX, ProxyFailed, open_stream
from transport.upstreams.websocket import WebSocketConnector, WebSocketLimits

# ---- tunnels ----


async def test_a_tunnel_is_asked_for_once_and_kept_for_its_origin() -> None:
    async with bench() as world:
        first, second = world.target(), world.target(port=8080)
        for target in (first, first, second, second, first):
            assert await world.ask(target) == 200
        assert world.proxy.asked_for == [f"{NAME}:80", f"{NAME}:8080"]
        assert (world.proxy.opened, world.upstream.connections) == (2, 2)
        assert world.resolver.asked == []  # no name is looked up here
        assert PASSWORD.encode() not in world.upstream.requests[0].raw_head
        assert "proxy-authorization" not in world.upstream.requests[0].headers


async def test_without_the_proxy_the_name_is_looked_up_here_and_not_found() -> None:
    """The control."""
    async with bench(straight=True) as world:
        assert "not known" in await world.fail()
        assert world.resolver.asked == [NAME]
        assert world.proxy.heads == []


async def test_this_machine_is_reached_past_the_proxy() -> None:
    async with bench() as world:
        assert await world.ask(HttpTarget.parse(world.upstream.url)) == 200
        assert (world.proxy.heads, world.upstream.connections) == ([], 1)


async def test_a_tunnel_that_is_closed_while_idle_costs_no_request() -> None:
    async def close_after(_: SeenRequest, caller: Caller) -> None:
        await caller.answer(200, b"{}")
        await caller.close()

    async with bench() as world:
        world.upstream.script = close_after
        for _ in range(3):
            assert await world.ask() == 200
            await trio.testing.wait_all_tasks_blocked()
        assert world.proxy.opened == 3


async def test_side_requests_go_through_the_proxy_too() -> None:
    async with bench() as world:
        url = f"http://{NAME}:80/.well-known/oauth-authorization-server"
        world.target()
        assert await PooledSideRequests(world.pool).fetch(url) == b"{}"
        assert world.proxy.opened == 1


@pytest.mark.parametrize(
    "established",
    [
        ESTABLISHED,
        b"HTTP/1.0 200 Connection established\r\nProxy-agent: Apache\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",  # void in an answer to CONNECT (RFC 9110, 9.3.6)
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nVia: " + b"x" * (HEAD_BYTES_MAX - 100) + b"\r\n\r\n",
    ],
)
async def test_each_way_to_grant_a_tunnel_is_understood(established: bytes) -> None:
    async with bench() as world:
        world.proxy.established = established
        assert [await world.ask(), await world.ask()] == [200, 200]
        assert world.proxy.opened == 1


async def test_the_answer_may_come_byte_by_byte() -> None:
    async with bench() as world:

        async def slowly(client: trio.abc.Stream) -> None:
            for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 407 No\r\n\r\n":
                await client.send_all(bytes([byte]))
                await trio.testing.wait_all_tasks_blocked()

        world.proxy.script = slowly
        assert "407" in await world.fail()


# ---- refusals ----


@pytest.mark.parametrize(
    ("status", "port", "said"),
    [
        (403, 443, "with 403: its rules do not let the gateway reach this upstream"),
        (
            403,
            8080,
            "with 403: its rules do not let the gateway reach this upstream; many proxies open tunnels to port",
        ),
        (405, 443, "with 405: it makes no tunnels"),
        (407, 443, "with 407: it wants a user and password that it knows: look at upstream_proxy"),
        (502, 443, "with 502: it does not reach the upstream"),
        (504, 443, "with 504: it does not reach the upstream"),
        (302, 443, "with 302"),
        (418, 443, "with 418"),
    ],
)
async def test_a_refusal_is_told_with_its_status_and_not_in_its_words(status: int, port: int, said: str) -> None:
    async with bench() as world:
        target = world.target(port=port)
        body = b"<html>" + PASSWORD.encode() * 100_000
        reason = PASSWORD.encode()
        head = b"HTTP/1.1 %d %b\r\nContent-Length: %d\r\nX-Seen: %b\r\n\r\n" % (status, reason, len(body), reason)
        world.proxy.answers = [head + body]
        with capture_logs() as logs:
            detail = await world.fail(target)
        assert f"no connection to the upstream: the forward proxy answered CONNECT {said}" in detail
        assert world.proxy.address not in detail  # clients are told this
        (line,) = [line for line in logs if line["event"] == "upstream_not_connected"]
        assert line["proxy"] == f"http://{world.proxy.address}"
        assert PASSWORD not in str(logs)
        assert await world.ask(target) == 200  # the next attempt is as good as a first


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not a valid HTTP response"),
        (b"HTTP/1.1 200 OK\n\n", "do not end as they must|not a valid HTTP response"),
        (b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "not a valid HTTP response"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX, "larger than 16384 bytes"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, "larger than 16384 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "more than its answer"),
    ],
)
async def test_what_is_no_strict_answer_opens_no_tunnel(answer: bytes, said: str) -> None:
    async with bench() as world:
        world.proxy.answers = [answer]
        world.target()
        with pytest.raises(ProxyFailed, match=said):
            await open_stream(NAME, 80, world.forward_proxy)


async def test_a_proxy_that_is_away_is_named_as_that() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        proxy = ForwardProxy.parse(f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(ProxyFailed, match=r"the forward proxy is not reached: Connection refused\Z"):
            await open_stream(NAME, 443, proxy)


async def test_a_proxy_that_says_nothing_is_given_the_time_of_a_connect(autojump_clock: MockClock) -> None:
    async with bench() as world:
        world.proxy.script = _say_nothing
        began = trio.current_time()
        assert "nothing came for 10 s" in await world.fail()
        assert trio.current_time() - began == pytest.approx(10.0)


async def test_a_proxy_that_dribbles_is_given_no_longer(autojump_clock: MockClock) -> None:
    """Each byte would start a deadline for silence anew: there is one for the whole."""

    async def dribble(client: trio.abc.Stream) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
            await client.send_all(bytes([byte]))
            await trio.sleep(1)

    async with bench() as world:
        world.proxy.script = dribble
        began = trio.current_time()
        assert "nothing came for 10 s" in await world.fail()
        assert trio.current_time() - began == pytest.approx(10.0)


async def test_giving_up_closes_the_connection_to_the_proxy(autojump_clock: MockClock) -> None:
    ended = trio.Event()

    async def wait_for_the_end(client: trio.abc.Stream) -> None:
        assert await client.receive_some() == b""
        ended.set()

    async with bench() as world:
        world.proxy.script = wait_for_the_end
        with trio.move_on_after(1):
            await open_stream(NAME, 443, world.forward_proxy)
        with trio.fail_after(1):
            await ended.wait()


async def _say_nothing(client: trio.abc.Stream) -> None:
    await client.receive_some()


# ---- TLS ----


async def start_tls(world: Bench, directory: Path, authority: Authority, *names: str) -> HttpTarget:
    """Put TLS in front of the upstream, with a certificate for these names; the proxy knows it by `NAME`."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    context = shown_by(directory, authority, *names)
    serve = tls_before(urlsplit(world.upstream.url).port or 0, context)
    world.nursery.start_soon(trio.serve_listeners, serve, [listener])
    world.proxy.places[f"{NAME}:443"] = listener.socket.getsockname()[1]
    return HttpTarget.parse(f"https://{NAME}/mcp")


async def test_tls_through_a_tunnel_is_with_the_upstream_and_the_proxy_reads_nothing(tmp_path: Path) -> None:
    authority = Authority()
    async with bench(tls=authority.trusting()) as world:
        target = await start_tls(world, tmp_path, authority, NAME)
        for _ in range(3):
            assert await world.ask(target) == 200
        assert world.proxy.asked_for == [f"{NAME}:443"]
        assert world.resolver.asked == []


async def test_a_certificate_for_another_name_is_refused_through_a_tunnel_as_well(tmp_path: Path) -> None:
    """The proxy may lead anywhere: what it leads to has to show the upstream's name."""
    authority = Authority()
    async with bench(tls=authority.trusting()) as world:
        target = await start_tls(world, tmp_path, authority, "127.0.0.1", "proxy.invalid")
        assert "certificate" in await world.fail(target)


# ---- TLS to the proxy itself ----


@pytest.fixture
def way(tmp_path: Path) -> Way:
    authority = Authority()
    return Way(shown_by(tmp_path, authority, "127.0.0.1"), authority.trusting())


async def echo_whole(seen: SeenRequest, caller: Caller) -> None:
    await caller.answer(200, seen.body)


async def echo_large(world: Bench, target: HttpTarget) -> None:
    """Send and get more than sockets hold, so that either side has to wait in the middle of it."""
    world.upstream.script = echo_whole
    request = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(LARGE), LARGE)
    for _ in range(2):
        _, body = await world.pool.fetch(target.origin, request, seconds=60)
        assert body == LARGE
    assert (world.proxy.opened, world.upstream.connections) == (1, 1)


async def test_a_proxy_may_be_spoken_to_over_tls(way: Way) -> None:
    async with bench(way=way) as world:
        await echo_large(world, world.target())


async def test_tls_with_the_upstream_goes_inside_tls_with_the_proxy(way: Way, tmp_path: Path) -> None:
    authority = Authority()
    async with bench(tls=authority.trusting(), way=way) as world:
        await echo_large(world, await start_tls(world, tmp_path, authority, NAME))


async def test_a_proxy_that_is_not_trusted_is_told_no_password(way: Way) -> None:
    async with bench(way=attrs.evolve(way, trusted=Authority().trusting())) as world:
        assert "the forward proxy is not reached: " in await world.fail()
        assert world.proxy.heads == []


async def test_a_websocket_goes_through_a_proxy_over_tls(way: Way) -> None:
    async with bench(way=way) as world, socket_upstream(world) as (_, url):
        await _ask_over_websocket(world, url)
        assert world.proxy.opened == 1


async def test_a_handshake_with_the_proxy_has_the_time_of_a_connect(way: Way, autojump_clock: MockClock) -> None:
    """A plain proxy says nothing to the beginning of a handshake."""
    async with bench() as world:
        by = attrs.evolve(world.forward_proxy, is_tls=True, trusted=way.trusted)
        with trio.move_on_after(10) as waiting:
            await open_stream(NAME, 443, by)
        assert waiting.cancelled_caught


# ---- WebSocket ----


@asynccontextmanager
async def socket_upstream(world: Bench) -> AsyncIterator[tuple[Server, str]]:
    async with serving(echo) as server:
        world.proxy.places[f"{NAME}:80"] = urlsplit(server.url).port or 0
        yield server, f"ws://{NAME}/ws"


async def _ask_over_websocket(world: Bench, url: str) -> None:
    inbox = RecordingInbox(world.nursery, patience_seconds=10)
    limits = WebSocketLimits(close_seconds=0.05)
    link = await WebSocketConnector(url, limits=limits, proxy=world.forward_proxy)(new_session(), inbox)
    link.send(CALL, TICKET)
    assert isinstance(await inbox.wait(), Received)
    link.close(end_session=True)


async def test_a_websocket_goes_through_a_tunnel() -> None:
    async with bench() as world, socket_upstream(world) as (server, url):
        await _ask_over_websocket(world, url)
        assert world.proxy.asked_for == [f"{NAME}:80"]
        assert "proxy-authorization" not in server.heads[0]


async def test_a_websocket_that_gets_no_tunnel_fails_as_one_that_gets_no_connection() -> None:
    async with bench() as world, socket_upstream(world) as (_, url):
        inbox = RecordingInbox(world.nursery)
        world.proxy.answers = [b"HTTP/1.1 407 %b\r\n\r\n" % PASSWORD.encode()]
        with pytest.raises(ConnectFailed, match="the forward proxy answered CONNECT with 407") as failed:
            await WebSocketConnector(url, proxy=world.forward_proxy)(new_session(), inbox)
        assert PASSWORD not in str(failed.value)
        with pytest.raises(ConnectFailed, match="the connection failed"):  # the control: there is no other way
            await WebSocketConnector(url)(new_session(), inbox)


async def test_a_websocket_waits_for_a_proxy_no_longer_than_for_a_server(autojump_clock: MockClock) -> None:
    async with bench() as world, socket_upstream(world) as (_, url):
        world.proxy.script = _say_nothing
        limits = WebSocketLimits(connect_seconds_max=3.0)
        began = trio.current_time()
        with pytest.raises(ConnectFailed, match="no connection within 3 s"):
            await WebSocketConnector(url, limits=limits, proxy=world.forward_proxy)(
                new_session(), RecordingInbox(world.nursery)
            )
        assert trio.current_time() - began == pytest.approx(3.0)


async def test_without_a_proxy_a_wire_is_opened_as_ever() -> None:
    async with bench() as world:
        parts = urlsplit(world.upstream.url)
        wire = await open_wire("127.0.0.1", parts.port or 0, None)
        assert type(wire) is PlainWire
        wire.close()
        assert world.proxy.heads == []
