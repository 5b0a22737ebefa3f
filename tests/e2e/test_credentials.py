"""What clients present stays with the gateway; what the operator set for one server reaches that one, and nobody else.

Method: a client puts a mark into everything that could be passed on by mistake. A tap on the wire to the upstream, the
upstream's process, the logs, the store and its export are searched for it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from persistence.key_ring import new_key
from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.modern_server import MODULE as MODERN
from tests.e2e.process import ChildProcess
from tests.e2e.raw_client import RawClient
from tests.e2e.tap import Tap
from tests.e2e.upstream import Upstream
from tests.transport.modern_messages import call, headers_of

MARK = "s3cret-of-a-client"
OURS = "s3cret-of-the-operator"
TOKEN = f"{MARK}-token"
OF_A_CLIENT = {
    **{name: f"{MARK}-{name}" for name in ("cookie", "proxy-authorization", "x-api-key", "x-real-ip", "via")},
    **{name: f"{MARK}-{name}" for name in ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto")},
    **{name: f"{MARK}-{name}" for name in ("referer", "x-client-cert", "traceparent", "user-agent")},
}
SETTINGS = {
    "OUTLAST_CLIENT_TOKENS": f"ann={TOKEN}",
    "OUTLAST_OPERATORS_TOKEN": f"{OURS}-operations",
    "OUTLAST_LOG_LEVEL": "debug",
    "SESSION_COMPRESSION": "none",
}


class Marked(RawClient):
    """A client that sends its mark in many headers."""

    def _headers(self, host: str, body: bytes, changes: object) -> list[tuple[bytes, bytes]]:
        return super()._headers(host, body, {**OF_A_CLIENT, **changes})  # type: ignore[dict-item]  # as the base's


@asynccontextmanager
async def tapped(url: str) -> AsyncIterator[Tap]:
    async with trio.open_nursery() as nursery:
        tap = Tap(url)
        await tap.open(nursery)
        yield tap
        nursery.cancel_scope.cancel()


async def use(gateway: Gateway, server: str) -> Marked:
    """Do all that makes the gateway ask the upstream something: calls, listening, an end."""
    client = Marked(gateway.url(server), token=TOKEN)
    await client.open_session()
    assert await client.call("counter") == "1"
    async with client.get() as stream:
        assert stream.status == 200
        assert await client.call("change_tools") == "changed"
        await stream.next_message()
    return client


def in_the_store(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.rglob("outlast.db*") if file.is_file())


async def exported(directory: Path) -> bytes:
    """Export a store that nobody has open, without secrets and with them."""
    documents = b""
    for flags in (), ("--with-secrets",):
        target = directory / f"export{len(flags)}.json"
        arguments = ["export", "--store", f"sqlite:{directory / 'outlast.db'}", *flags, "--output", str(target)]
        process = ChildProcess("outlast", arguments)
        code = await trio.to_thread.run_sync(process.wait_exit)
        assert code == 0, process.stderr
        documents += target.read_bytes()
    return documents


async def test_nothing_of_a_client_s_credentials_gets_past_the_gateway(bed: Bed, tmp_path: Path) -> None:
    headers = f"ours: Authorization: Bearer {OURS}\nours: X-Api-Key: {OURS}-key"
    async with tapped(bed.lasting.plain.url) as ours, tapped(bed.lasting.resumable.url) as other:
        gateway = await bed.gateway(
            environment={**SETTINGS, "OUTLAST_SERVER_HEADERS": headers}, ours=ours.url, other=other.url
        )
        clients = [await use(gateway, "ours"), await use(gateway, "other")]
        await gateway.stop()
        directory = tmp_path / "gateway-0"
        kept, document = in_the_store(directory), await exported(directory)
        await gateway.start()
        for client in clients:
            assert await client.call("counter") == "2"
            assert (await client.delete()).status == 200

    for tap in (ours, other):
        assert {head.split(b" ")[0] for head in tap.heads()} == {b"POST", b"GET", b"DELETE"}
        assert MARK.encode() not in tap.sent
        for client in clients:
            assert client.session_id.encode() not in tap.sent
    for head in ours.heads():
        lines = [line.lower() for line in head.split(b"\r\n")]
        assert lines.count(f"authorization: bearer {OURS}".encode()) == 1
        assert lines.count(f"x-api-key: {OURS}-key".encode()) == 1
    assert OURS.encode() not in other.sent

    for place, content in (("store", kept), ("export", document)):
        assert clients[0].session_id.encode() in content, "this is where it would be"
        assert TOKEN.encode() not in content, place
        assert OURS.encode() not in content, place
        assert f"{MARK}-cookie".encode() not in content, place
    assert TOKEN not in gateway.stderr
    assert OURS not in gateway.stderr


async def test_nor_without_a_session(bed: Bed, tmp_path: Path) -> None:
    upstream = Upstream(tmp_path / "modern", module=MODERN)
    await upstream.start()
    try:
        async with tapped(upstream.url) as tap:
            headers = f"modern: Authorization: Bearer {OURS}"
            gateway = await bed.gateway(environment={**SETTINGS, "OUTLAST_SERVER_HEADERS": headers}, modern=tap.url)
            client = Marked(gateway.url(), token=TOKEN, protocol_version="2026-07-28", session_id=f"{MARK}-session")
            message = call("echo", text="relayed")
            answer = await client.post_whole(message, headers=headers_of(message))
    finally:
        upstream.kill()
    assert (answer.status, "relayed" in answer.body.decode()) == (200, True), answer
    assert any(b"mcp-name: echo" in head.lower() for head in tap.heads())
    assert all(f"authorization: bearer {OURS}".encode() in head.lower() for head in tap.heads())
    assert MARK.encode() not in tap.sent


@pytest.mark.parametrize("kind", ["sse", "websocket"])
async def test_nor_over_the_other_transports_of_servers(bed: Bed, tmp_path: Path, kind: str) -> None:
    """For WebSocket the server is a second gateway, which wants to see a token itself."""
    upstream = Upstream(tmp_path / "sse", sse=True)
    if kind == "sse":
        await upstream.start()
        url, scheme = upstream.url, "sse+"
    else:
        second = await bed.gateway(environment={"OUTLAST_CLIENT_TOKENS": f"gateway={OURS}"}, it=bed.stdio)
        url, scheme = f"ws://{second.address}/ws", ""
    try:
        async with tapped(url) as ours:
            headers = f"ours: Authorization: Bearer {OURS}"
            gateway = await bed.gateway(
                environment={**SETTINGS, "OUTLAST_SERVER_HEADERS": headers}, ours=f"{scheme}{ours.url}"
            )
            client = Marked(gateway.url(), token=TOKEN)
            await client.open_session()
            assert await client.call("echo", text="relayed") == "relayed"
    finally:
        upstream.kill()
    assert ours.heads()
    assert all(f"authorization: bearer {OURS}".encode() in head.lower() for head in ours.heads())
    assert MARK.encode() not in ours.sent  # what follows a WebSocket's head is masked: there are no headers in it
    assert client.session_id.encode() not in ours.sent


async def test_a_refused_token_is_shown_nowhere(bed: Bed) -> None:
    gateway = await bed.gateway(environment=SETTINGS, plain=bed.lasting.plain.target)
    for presented in (f"{TOKEN}-not", f"{TOKEN} \xe4", "x" * 9000):
        answer = await RawClient(gateway.url(), token=presented).whole("GET")
        assert answer.status in (400, 401)
        assert presented.encode() not in answer.body
        assert presented not in str(answer.headers)
    assert MARK not in gateway.stderr


async def test_a_program_is_given_its_own_variables_and_none_of_the_gateway_s(bed: Bed) -> None:
    settings = {
        **SETTINGS,
        "SESSION_ENCRYPTION_KEY": new_key(),
        "REDIS_URL": f"redis://:{OURS}-redis@127.0.0.1:1/0",  # not used: the store is another
        "OUTLAST_SERVER_ENVIRONMENT": f"ours: API_KEY={OURS}",
        "OF_THE_MACHINE": "inherited",
    }
    gateway = await bed.gateway(environment=settings, ours=bed.stdio, other=bed.stdio)
    seen = {}
    for server in ("ours", "other"):
        client = Marked(gateway.url(server), token=TOKEN)
        await client.open_session()
        seen[server] = json.loads(await client.call("surroundings"))
        assert MARK not in json.dumps(seen[server])
        assert not [name for name in seen[server]["environment"] if name.startswith(("OUTLAST_", "SESSION_", "REDIS_"))]
        assert f"{OURS}-" not in json.dumps(seen[server])
        assert settings["SESSION_ENCRYPTION_KEY"] not in json.dumps(seen[server])
        assert seen[server]["environment"]["OF_THE_MACHINE"] == "inherited"
    assert seen["ours"]["environment"]["API_KEY"] == OURS
    assert "API_KEY" not in seen["other"]["environment"]
    assert OURS not in gateway.stderr
