"""The configured servers, asked without sessions: each in its way, with what its operator has it be sent."""

from __future__ import annotations

import sys

import trio

from actors import jsonrpc
from outlast import targets
from outlast.upstreams import open_stateless
from tests.transport.modern_messages import call, parsed
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.stateless_http import StatelessHttp
from transport.upstreams.stateless_stdio import StatelessStdio

DEADLINE_SECONDS = 10.0


async def test_each_server_is_asked_in_its_way_with_its_own_headers() -> None:
    async def answer(seen: SeenRequest, caller: Caller) -> None:
        await caller.answer(200, jsonrpc.result(1, {}).raw)

    async with trio.open_nursery() as nursery:
        server = ScriptedUpstream(answer)
        await nursery.start(server.run)
        pool = HttpPool()
        await nursery.start(pool.run)
        servers: dict[str, targets.Target] = {
            "web": targets.HttpTarget(server.url),
            "local": targets.StdioTarget((sys.executable, "-c", "")),
        }
        headers = {"web": {"X-Api-Key": "ours"}, "other": {"X-Api-Key": "not this one's"}}
        upstreams = await open_stateless(servers, pool, nursery, headers=headers, idle_seconds=60.0)
        assert isinstance(upstreams["local"], StatelessStdio)
        assert isinstance(upstreams["web"], StatelessHttp)
        way = await upstreams["web"].send(parsed(call()))
        with trio.fail_after(DEADLINE_SECONDS):
            while way.end is None:
                await way.wait()
        way.cancel()
        assert server.requests[0].headers["x-api-key"] == "ours"
        nursery.cancel_scope.cancel()
