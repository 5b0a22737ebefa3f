"""Servers that want a token of each user: got for the one that the client presents, and for nobody else.

Method: an authorization server over real HTTP, and for a server that checks tokens a second gateway, whose sessions are
each principal's own. A tap between the two tells whose token each request carried.
"""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import jwt
import pytest
import trio

from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.issuer import AUDIENCE, GATEWAY_CLIENT, UPSTREAM, Issuer
from tests.e2e.modern_server import MODULE as MODERN
from tests.e2e.raw_client import RawClient
from tests.e2e.raw_sse_client import RawSseClient
from tests.e2e.tap import Tap
from tests.e2e.test_credentials import exported, in_the_store, tapped
from tests.e2e.upstream import Upstream
from tests.e2e.waiting import wait_until, wait_until_asked
from tests.transport.modern_messages import call, headers_of

SECRET = "s3cret-of-the-gateway"
STATIC = "s3cret-token-of-nobody"
EXCHANGE = {"grant": "token_exchange", "client_id": GATEWAY_CLIENT, "client_secret": SECRET}
OWNERS, SESSIONS_EACH = 20, 5


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with contextlib.closing(Issuer()) as issuer:
        yield issuer


async def asking_server(bed: Bed, issuer: Issuer, target: str = "") -> Gateway:
    trusted = {"OUTLAST_OAUTH_ISSUER": issuer.url, "OUTLAST_OAUTH_AUDIENCES": UPSTREAM}
    return await bed.gateway(environment=trusted, it=target or bed.lasting.plain.target)


async def gateway_for(bed: Bed, issuer: Issuer, target: str) -> Gateway:
    given = {**EXCHANGE, "issuer": issuer.url}
    environment = {
        "OUTLAST_SERVER_OAUTH": "\n".join(f"wiki: {key}={value}" for key, value in given.items()),
        "OUTLAST_OAUTH_ISSUER": issuer.url,
        "OUTLAST_OAUTH_AUDIENCES": AUDIENCE,
        "OUTLAST_CLIENT_TOKENS": f"static={STATIC}",
        "OUTLAST_LOG_LEVEL": "debug",
        "SESSION_COMPRESSION": "none",
        "OUTLAST_RESTORE_WAIT_SECONDS": "5",
    }
    return await bed.gateway(environment=environment, wiki=target)


async def client_of(gateway: Gateway, token: str) -> RawClient:
    client = RawClient(gateway.url(), token=token)
    await client.open_session()
    return client


def whose(head: bytes) -> str:
    """Give the subject of the token in a request's head."""
    [line] = [line for line in head.split(b"\r\n") if line.lower().startswith(b"authorization: bearer ")]
    subject: str = jwt.decode(line.split(b" ")[2], options={"verify_signature": False})["sub"]
    return subject


def owners_by_session(tap: Tap) -> dict[bytes, set[str]]:
    """Give the subjects of the tokens with which each session of the server was spoken in."""
    owners: dict[bytes, set[str]] = defaultdict(set)
    for head in tap.heads():
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"mcp-session-id: "):
                owners[line.split(b" ")[1]].add(whose(head))
    return owners


async def test_each_owner_s_sessions_carry_its_own_token_before_and_after_a_kill(
    bed: Bed, issuer: Issuer, tmp_path: Path
) -> None:
    server = await asking_server(bed, issuer)
    presented: list[str] = []
    clients: dict[str, list[RawClient]] = defaultdict(list)

    def token(owner: str) -> str:
        presented.append(issuer.token(owner))
        return presented[-1]

    async def open_one(owner: str, its_token: str) -> None:
        clients[owner].append(await client_of(gateway, its_token))

    async def use(client: RawClient, expected: str) -> None:
        assert await client.call("counter") == expected

    async with tapped(server.url()) as tap:
        gateway = await gateway_for(bed, issuer, tap.url)
        async with trio.open_nursery() as nursery:
            for number in range(OWNERS):
                owner, its_token = f"owner-{number}", token(f"owner-{number}")
                for _ in range(SESSIONS_EACH):
                    nursery.start_soon(open_one, owner, its_token)
        async with trio.open_nursery() as nursery:
            for client in chain.from_iterable(clients.values()):
                nursery.start_soon(use, client, "1")
        assert len(issuer.issued) == OWNERS

        gateway.kill()
        await gateway.start()
        await wait_until("it has said what it leaves", lambda: "on_first_use" in gateway.stderr)
        assert f'"on_first_use": {OWNERS * SESSIONS_EACH}' in gateway.stderr.replace(":1", ": 1")
        assert len(issuer.issued) == OWNERS, "nobody is asked in the name of an owner who is not there"
        for owner, its_clients in clients.items():
            fresh = token(owner)
            for client in its_clients:
                client.token = fresh
        async with trio.open_nursery() as nursery:
            for client in chain.from_iterable(clients.values()):
                nursery.start_soon(use, client, "2")
        assert len(issuer.issued) == 2 * OWNERS
        await gateway.stop()
        kept, document = in_the_store(tmp_path / "gateway-1"), await exported(tmp_path / "gateway-1")

    owners = owners_by_session(tap)
    assert len(owners) == OWNERS * SESSIONS_EACH
    assert [found for found in owners.values() if len(found) != 1] == []
    assert sorted(next(iter(found)) for found in owners.values()) == sorted(list(clients) * SESSIONS_EACH)
    for secret in (*presented, SECRET):
        assert secret.encode() not in tap.sent
    for place, content in (("store", kept), ("export", document), ("logs", gateway.stderr.encode())):
        for secret in (*presented, *issuer.issued, SECRET):
            assert secret.encode() not in content, place
    assert clients["owner-0"][0].session_id.encode() in kept, "this is where it would be"


@pytest.mark.parametrize("kind", ["sse", "websocket"])
async def test_over_the_other_transports_a_session_comes_back_with_its_owner_s_next_request(
    bed: Bed, issuer: Issuer, kind: str
) -> None:
    server = await asking_server(bed, issuer)
    place = {"sse": "sse+http://{}/sse", "websocket": "ws://{}/ws"}[kind]
    gateway = await gateway_for(bed, issuer, place.format(server.address))
    client = await client_of(gateway, issuer.token("ann"))
    assert await client.call("echo", text="relayed") == "relayed"
    gateway.kill()
    await gateway.start()
    assert len(issuer.issued) == 1
    client.token = issuer.token("ann")
    assert await client.call("echo", text="relayed again") == "relayed again"
    assert len(issuer.issued) == 2


async def test_so_do_clients_over_http_and_sse(bed: Bed, issuer: Issuer) -> None:
    server = await asking_server(bed, issuer)
    async with tapped(server.url()) as tap:
        gateway = await gateway_for(bed, issuer, tap.url)
        headers = {"authorization": f"Bearer {issuer.token('ann')}"}
        client = RawSseClient(gateway.url().removesuffix("mcp") + "sse", extra_headers=headers)
        async with client.stream():
            await client.open_session()
            asked = client.tool_call("echo", text="relayed")
            await client.post(asked)
            await client.answer_to(asked)
    assert {whose(head) for head in tap.heads()} == {"ann"}


async def test_a_request_without_a_session_carries_its_own(bed: Bed, issuer: Issuer, tmp_path: Path) -> None:
    modern = Upstream(tmp_path / "modern", module=MODERN)
    await modern.start()
    try:
        server = await asking_server(bed, issuer, modern.url)
        async with tapped(server.url()) as tap:
            gateway = await gateway_for(bed, issuer, tap.url)
            for name in ("ann", "bob", "ann"):
                client = RawClient(gateway.url(), token=issuer.token(name), protocol_version="2026-07-28")
                message = call("echo", text=f"of {name}")
                answer = await client.post_whole(message, headers=headers_of(message))
                assert (answer.status, f"of {name}" in answer.body.decode()) == (200, True), answer
    finally:
        modern.kill()
    called = [whose(head) for head in tap.heads() if b"mcp-name: echo" in head.lower()]
    assert called == ["ann", "bob", "ann"]


async def test_a_session_goes_on_with_a_fresh_token_when_the_old_result_has_run_out(bed: Bed, issuer: Issuer) -> None:
    issuer.says_seconds = 1.0
    server = await asking_server(bed, issuer)
    client = await client_of(await gateway_for(bed, issuer, server.url()), issuer.token("ann"))
    client.token = issuer.token("ann")

    async def was_renewed() -> bool:
        await client.call("counter")
        forms = [form for path, form in issuer.requests if path == "/token"]
        return forms[-1]["subject_token"] == client.token

    await wait_until_asked("the fresh token was exchanged", was_renewed)


async def test_who_is_refused_is_told_why_and_others_are_not(bed: Bed, issuer: Issuer) -> None:
    server = await asking_server(bed, issuer)
    gateway = await gateway_for(bed, issuer, server.url())
    issuer.strangers.add("eve")
    eve, ann = issuer.token("eve"), await client_of(gateway, issuer.token("ann"))
    said = []
    for token in (eve, STATIC):
        client = RawClient(gateway.url(), token=token)
        answer = await client.post_whole(client.request("initialize", client.initialize_params()))
        assert answer.status == 503
        said.append(json.loads(answer.body)["error"]["message"])
    assert "gives no token (invalid_grant): look at whether the authorization server takes the client's own" in said[0]
    assert f"'wiki' wants a token of each user: present one of {issuer.url}" in said[1]
    assert await ann.call("counter") == "1"

    # A session that was open when its owner fell out of favour is kept, and told the same.
    issuer.strangers.add("ann")
    gateway.kill()
    await gateway.start()
    answer = await ann.post_whole(ann.tool_call("counter"))
    assert answer.status == 503
    assert "(invalid_grant)" in answer.body.decode()
    issuer.strangers.clear()

    async def is_back() -> bool:
        answer = await ann.post_whole(ann.tool_call("counter"))
        return answer.status == 200 and '"2"' in answer.body.decode()

    await wait_until_asked("the session goes on", is_back)
    for secret in (eve, ann.token, SECRET, STATIC):
        assert secret is not None
        assert secret not in "".join(said) + gateway.stderr


async def test_what_waits_for_its_owner_is_no_failure(bed: Bed, issuer: Issuer) -> None:
    server = await asking_server(bed, issuer)
    gateway = await gateway_for(bed, issuer, server.url())
    await client_of(gateway, issuer.token("ann"))
    gateway.kill()
    assert (await gateway.start()).restored == 1
    await wait_until("it has said what it leaves", lambda: "on_first_use" in gateway.stderr)
    health = (await RawClient(gateway.url().removesuffix("mcp") + "health").whole("GET")).body.decode()
    assert "1 sessions were left to their first use" in health
    assert '"uninitialized": 1' not in health
