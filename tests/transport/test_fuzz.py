"""Mutated connections: whatever bytes come, the server serves the next client.

Method: take good conversations of all kinds, mutate their bytes (flip, insert, delete, repeat, splice, cut), send each
over a connection of its own in up to three pieces, and close it one way or another. From a seed; a failure tells it.
Afterwards an untouched connection must still be served, nothing may be left open, and nothing unexpected may have
been raised on the hot road. (What hypercorn raises about such bytes is isolated, and not asserted.)
"""

from __future__ import annotations

import random
import socket

import pytest
import trio

from tests.transport.serving import connected, echo, get, post, serving, until
from transport.exchange import Exchange, RequestHead
from transport.handler import HttpLimits
from transport.server import HttpServer

CONNECTIONS = 1500
AT_ONCE = 20
# Mutated lengths make the server wait for bodies that never come: it should not wait long here.
LIMITS = HttpLimits(head_seconds=0.5, body_seconds=0.5, idle_seconds=0.5, write_seconds=0.5, linger_seconds=0.1)

GOOD = [
    post(b'{"jsonrpc":"2.0","id":1,"method":"ping"}'),
    post(b"one") + post(b"two") + get(),
    get("/mcp", "Accept: text/event-stream", "Last-Event-ID: 0-1-2-abc"),
    b"POST /mcp HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
    post(b"hello", "/mcp", "Expect: 100-continue"),
    post(b"{}", "/admin/sessions"),
    get("/admin", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: a"),
    get("/stream"),
]
_SPICE = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"\r\n\r\n",
    b"chunked",
    b"Content-Length: 3\r\n",
    b"0\r\n\r\n",
    b"\xff",
]


def mutate(chance: random.Random, data: bytes) -> bytes:
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(data) + 1)
        end = min(len(data), start + chance.randint(0, 12))
        match chance.randrange(6):
            case 0:
                data = data[:start] + chance.randbytes(1) + data[start + 1 :]
            case 1:
                data = data[:start] + chance.choice(_SPICE) + data[start:]
            case 2:
                data = data[:start] + data[end:]
            case 3:
                data = data[:end] + data[start:end] * chance.randint(1, 30) + data[end:]
            case 4:
                data = data[:start] + chance.choice(GOOD)[start:]
            case _:
                data = data[: max(1, start)]
    return data


async def _handler(exchange: Exchange) -> None:
    if exchange.head.path != "/stream":
        await echo(exchange)
        return
    await exchange.start_stream(200, ())
    await exchange.send(b"x" * 1000)
    await exchange.finish()


def _is_hot(head: RequestHead) -> bool:
    return not head.path.startswith("/admin")


async def _converse(chance: random.Random, address: tuple[str, int]) -> None:
    data = mutate(chance, chance.choice(GOOD))
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randint(0, 2)))
    ending = chance.randrange(3)
    try:
        async with await trio.open_tcp_stream(*address) as stream:
            for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                if start < end:
                    await stream.send_all(data[start:end])
                    await trio.lowlevel.checkpoint()
            if ending == 0:
                return  # closed at once, perhaps with an answer unread: a reset
            if ending == 1:
                await stream.send_eof()
            with trio.move_on_after(0.2 if ending == 2 else 5):
                while await stream.receive_some(65536):
                    pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def _attack(server: HttpServer, seed: int, count: int) -> None:
    chances = [random.Random(f"{seed}/{index}") for index in range(count)]

    async def work() -> None:
        while chances:
            await _converse(chances.pop(), server.addresses[0])

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(work)


@pytest.mark.parametrize(("hot", "seed", "count"), [(True, 1, CONNECTIONS), (False, 2, CONNECTIONS // 5)])
async def test_server_serves_on_after_mutated_connections(hot: bool, seed: int, count: int) -> None:
    unexpected: list[BaseException] = []

    def report(head: RequestHead | None, error: BaseException) -> None:
        unexpected.append(error)

    async with serving(_handler, hot=hot, limits=LIMITS, is_hot=_is_hot, report=report) as server:
        await _attack(server, seed, count)
        await until(lambda: server.statistics().connections_open == 0)
        async with connected(server) as client:
            assert (await client.ask(post(b"still here"))).body == b"still here"
            assert (await client.ask(post(b"and here", "/admin"))).body == b"and here"
        statistics = server.statistics()
        assert statistics.connections_accepted == count + 1
    from_our_road = [error for error in unexpected if not _is_from_hypercorn(error)]
    assert from_our_road == [], f"seed {seed}"


def _is_from_hypercorn(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if "hypercorn" in trace.tb_frame.f_code.co_filename:
            return True
        trace = trace.tb_next
    return False


def test_mutations_follow_the_seed() -> None:
    first, second = ([mutate(random.Random(index), GOOD[0]) for index in range(50)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 40


async def test_reset_connection_is_nobodys_failure() -> None:
    failures: list[BaseException] = []
    async with serving(report=lambda head, error: failures.append(error)) as server:
        for _ in range(20):
            with socket.create_connection(server.addresses[0]) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by a reset
                client.sendall(post()[:30])
        await until(lambda: server.statistics().connections_open == 0)
    assert failures == []
