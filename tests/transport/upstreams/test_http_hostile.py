"""Goal: whatever bytes an upstream answers with, each call gets exactly one fate, and the next call is carried well.

Method: good answers, mutated from a seed: bytes flipped, removed, repeated, the answer cut short; each to a call of its
own, on a pool that all of them share. Every tenth call is answered well, and must be.
"""

from __future__ import annotations

import random

import pytest
from trio.testing import MockClock

from actors import jsonrpc
from tests.transport.upstreams.bed import bed
from tests.transport.upstreams.recording_inbox import Received, Refused
from tests.transport.upstreams.scripted_upstream import Caller, SeenRequest
from transport.upstreams.http_limits import HttpLimits

CALLS = 300


def good_answer(id: int, *, streamed: bool) -> bytes:
    document = jsonrpc.result(id, {"text": "x" * 20}).raw
    if not streamed:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        return head % len(document) + document
    event = b"id: e1\nevent: message\ndata: " + document + b"\n\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)


def mutate(data: bytes, chance: random.Random) -> bytes:
    mutated = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(mutated))
        match chance.randrange(4):
            case 0:
                mutated[at] = chance.randrange(256)
            case 1:
                del mutated[at : at + chance.randint(1, 8)]
            case 2:
                mutated[at:at] = mutated[at : at + chance.randint(1, 30)]
            case _:
                del mutated[at:]
        if not mutated:
            break
    return bytes(mutated)


@pytest.mark.parametrize("seed", range(4))
async def test_mutated_answers_settle_their_own_call_and_no_other(seed: int, autojump_clock: MockClock) -> None:
    chance = random.Random(seed)

    async def script(request: SeenRequest, caller: Caller) -> None:
        if request.method == "GET":
            await caller.answer(405)
            return
        id = jsonrpc.parse(request.body).id
        assert isinstance(id, int)
        answer = good_answer(id, streamed=chance.random() < 0.5)
        await caller.send(answer if id % 10 == 0 else mutate(answer, chance))
        if id % 10:
            await caller.close()

    limits = HttpLimits(call_silence_seconds_max=5.0)
    async with bed(script, limits=limits, patience_seconds=100.0) as bench:
        link = await bench.open_link()
        for id in range(CALLS):
            link.send(jsonrpc.request(id, "x"), id)
            fate = await bench.inbox.wait()
            while not isinstance(fate, Refused) and not (isinstance(fate, Received) and fate.message.id == id):
                fate = await bench.inbox.wait()  # a cursor, or a message that a mutation has made
            if id % 10 == 0:
                assert fate == Received(jsonrpc.result(id, {"text": "x" * 20}), about=id, cursor=fate.cursor)  # type: ignore[union-attr]
        settled = [entry.ticket for entry in bench.inbox.entries if isinstance(entry, Refused)]
        settled += [
            entry.about
            for entry in bench.inbox.entries
            if isinstance(entry, Received) and isinstance(entry.about, int) and entry.message.id == entry.about
        ]
        assert sorted(settled) == list(range(CALLS))
