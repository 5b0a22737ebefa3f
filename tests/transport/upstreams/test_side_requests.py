"""Requests to authorization servers, over real sockets: what goes out, and what of the answers is taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from tests.transport.upstreams.scripted_upstream import Caller, Script, ScriptedUpstream, SeenRequest
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.side_requests import ANSWER_BYTES_MAX, PooledSideRequests


@asynccontextmanager
async def asking(script: Script) -> AsyncIterator[tuple[PooledSideRequests, ScriptedUpstream]]:
    async with trio.open_nursery() as nursery:
        server = ScriptedUpstream(script)
        await nursery.start(server.run)
        pool = HttpPool()
        await nursery.start(pool.run)
        yield PooledSideRequests(pool), server
        nursery.cancel_scope.cancel()


def answering(status: int, body: bytes = b"{}", **headers: str) -> Script:
    async def script(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(status, body, {name.replace("_", "-"): value for name, value in headers.items()})

    return script


async def test_a_form_goes_out_whole_with_who_asks() -> None:
    async with asking(answering(400, b'{"error":"x"}')) as (requests, server):
        reply = await requests.post(server.url, {"Authorization": "Basic abc"}, b"grant_type=client_credentials")
        [seen] = server.requests
    assert (reply.status, reply.body) == (400, b'{"error":"x"}')
    assert (seen.method, seen.body) == ("POST", b"grant_type=client_credentials")
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    assert seen.headers["authorization"] == "Basic abc"
    assert seen.headers["user-agent"].startswith("outlast/")
    assert "{" not in repr(reply)  # it may hold a token


async def test_a_document_is_fetched() -> None:
    async with asking(answering(200, b'{"issuer":"x"}')) as (requests, server):
        assert await requests.fetch(server.url) == b'{"issuer":"x"}'


@pytest.mark.parametrize("status", [204, 301, 404, 500])
async def test_what_is_not_there_is_no_document_and_no_redirect_is_followed(status: int) -> None:
    async with asking(answering(status, b"", Location="/elsewhere")) as (requests, server):
        with pytest.raises(OSError, match=f"status {status}"):
            await requests.fetch(server.url)
        assert len(server.requests) == 1


async def test_an_answer_is_bounded() -> None:
    async with asking(answering(200, b"x" * (ANSWER_BYTES_MAX + 1))) as (requests, server):
        with pytest.raises(OSError, match=f"larger than {ANSWER_BYTES_MAX} bytes"):
            await requests.fetch(server.url)


async def test_nobody_there_is_an_error_of_the_network() -> None:
    async with asking(answering(200)) as (requests, _):
        with pytest.raises(OSError, match="no connection"):
            await requests.fetch("http://127.0.0.1:1/token")


@pytest.mark.parametrize(("status", "challenge"), [(401, "Bearer x"), (200, ""), (403, "")])
async def test_a_challenge_is_what_comes_with_401(status: int, challenge: str) -> None:
    async with asking(answering(status, WWW_Authenticate="Bearer x")) as (requests, server):
        assert await requests.challenge(server.url) == challenge
        assert "authorization" not in server.requests[0].headers
