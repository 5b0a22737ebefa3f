"""What clients with secrets say over 2026-07-28, HTTP+SSE and WebSocket, and what operators ask about it.

What is heard by others than who said a secret is kept; and what the clients are answered by servers that repeat the
gateway's own credentials.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import trio
import trio_websocket

from tests.e2e.modern_bed import VERSION
from tests.e2e.raw_client import ConnectionBroken, RawClient
from tests.e2e.raw_sse_client import RawSseClient
from tests.e2e.secrets_bed import SecretsBed
from tests.e2e.secrets_roads import AWAY, EXCHANGING, OF_AN_ISSUER, REFUSING, REPEATING, SERVING, TOKEN_OF_ADA, sse_url
from tests.e2e.socket_client import SocketClient, connect
from tests.transport.modern_messages import PREFIX, call, headers_of, request

_SECONDS = 20.0  # for one who waits for a server that is not there


async def say_everything(bed: SecretsBed) -> None:
    """Let clients say secrets in all places of these transports, rightly and wrongly."""
    for server in SERVING:
        await _stateless(bed, server)
        await _over_sse(bed, server)
        await _over_socket(bed, server)
    await _wrongly_without_a_session(bed)
    await _wrongly_over_sse(bed)
    await _wrongly_over_sockets(bed)
    async with trio.open_nursery() as nursery:
        for server in (*REFUSING, *AWAY, *REPEATING, *OF_AN_ISSUER, *EXCHANGING):
            nursery.start_soon(_of_no_use, bed, server)


async def ask_about_sessions(bed: SecretsBed) -> None:
    """Ask the administration about each session, and have it note secrets, rightly and wrongly."""
    assert bed.gateway.ready_line is not None
    root = bed.gateway.ready_line.url + "/admin/sessions"
    headers = {"authorization": f"Bearer {bed.planted.plant('token of operators')}"}
    listed = await RawClient(root, extra_headers=headers, tls=bed.tls).whole("GET")
    for one in listed.json["sessions"]:
        path = f"{root}/{one['reference']}"
        client = RawClient(path, extra_headers=headers, tls=bed.tls)
        note = json.dumps({"set": {"wiki_api_key": bed.planted.plant("note of an operator")}}).encode()
        assert (await client.whole("PATCH", note)).status == 200
        wrong = json.dumps({"set": bed.planted.plant("wrong note of an operator")}).encode()
        bed.hear("refused change", (await client.whole("PATCH", wrong)).body.decode())
        for url in (path, f"{path}/history"):
            answer = await RawClient(url, extra_headers=headers, tls=bed.tls).whole("GET")
            assert answer.status == 200
            bed.hear("sessions as operators see them", answer.body.decode())


# ---- 2026-07-28 ----


def _modern(bed: SecretsBed, server: str, name: str = "ada") -> RawClient:
    """A client that sends headers of another revision, too: they mean nothing here, and are secrets all the same."""
    plant = bed.planted.plant
    session_id = plant(f"session id of {name} without a session")
    return bed.client(name, server, protocol_version=VERSION, session_id=session_id)


def _headers(bed: SecretsBed, message: Mapping[str, Any], **changes: str) -> dict[str, str | None]:
    plant = bed.planted.plant
    extra = {"last_event_id": plant("event id without a session"), "mcp_param_region": plant("parameter in a header")}
    return dict(headers_of(dict(message), **extra, **changes))


async def _stateless(bed: SecretsBed, server: str) -> None:
    plant = bed.planted.plant
    client = _modern(bed, server)
    secret_meta = {
        "vendor/secret": plant("_meta of a request"),
        f"{PREFIX}clientCapabilities": {"vendor/x": plant("capability of a client")},
    }
    answered = {"sure": {"action": "accept", "content": {"answer": plant("input response")}}}
    for message in (
        call("echo", text=plant("argument without a session")),
        call("fail", detail=plant("error without a session")),
        call("region", region=plant("parameter in a header")),
        request("tools/list", meta=secret_meta, cursor=plant("cursor")),
        request("tools/call", name="ask", arguments={}, requestState=plant("request state"), inputResponses=answered),
        request("resources/read", uri=f"memory://{plant('URI of a resource')}"),
    ):
        answer = await client.post_whole(message, headers=_headers(bed, message))
        assert answer.status in (200, 400, 404), answer
    listening = request("subscriptions/listen", meta=secret_meta, notifications={"toolsListChanged": True})
    with trio.move_on_after(1):
        async with client.post(listening, headers=_headers(bed, listening)) as stream:
            await stream.next_frame()


async def _wrongly_without_a_session(bed: SecretsBed) -> None:
    plant = bed.planted.plant
    message = call("echo", text="x")
    client = _modern(bed, "modern")
    wrong: tuple[tuple[dict[str, str], dict[str, Any]], ...] = (
        ({"mcp_name": plant("name in a header")}, message),
        ({"mcp_method": plant("method in a header")}, message),
        ({"mcp_protocol_version": plant("revision in a header")}, message),
        ({"mcp_name": f"=?base64?{plant('encoded name in a header')}?="}, message),
        ({}, request(plant("method without a session"))),
        ({}, request("tools/call", name="echo", arguments=plant("arguments that are none"))),
        ({}, request("tools/list", meta={f"{PREFIX}protocolVersion": plant("revision of a request")})),
        ({}, {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": plant("params that are none")}),
    )
    for changes, body in wrong:
        await client.post_whole(body, headers=_headers(bed, body, **changes))
    await client.whole("POST", plant("body that is no JSON").encode(), headers=_headers(bed, message))
    for verb in ("GET", "DELETE"):
        await client.whole(verb, headers=_headers(bed, message))
    stranger = _modern(bed, "modern", "stranger")
    refused = await stranger.post_whole(message, headers=_headers(bed, message))
    assert refused.status == 401
    bed.hear("answers to a stranger", f"{refused.headers} {refused.body.decode()}")


# ---- HTTP+SSE ----


def _sse(bed: SecretsBed, server: str, name: str = "ada") -> RawSseClient:
    url = f"{sse_url(bed.gateway.url(server))}?{bed.query(name)}"
    return RawSseClient(url, extra_headers=bed.headers(name), tls=bed.tls)


async def _over_sse(bed: SecretsBed, server: str) -> None:
    plant = bed.planted.plant
    client = _sse(bed, server)
    async with client.stream():
        await client.open_session()
        bed.planted.keep(f"session over HTTP+SSE at {server}", client.endpoint.rpartition("session_id=")[2])
        for called in (
            client.tool_call("echo", text=plant("argument over HTTP+SSE")),
            client.tool_call("fail", detail=plant("error over HTTP+SSE")),
            {
                "jsonrpc": "2.0",
                "id": 99,
                "method": plant("method over HTTP+SSE"),
                "params": {"x": plant("odd over it")},
            },
        ):
            await client.post(called)
            await client.answer_to(called)
        eve = RawClient(client.endpoint, extra_headers=bed.headers("eve"), tls=bed.tls)
        answer = await eve.post_whole({"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert answer.status == 404
        bed.hear("answers to eve", answer.body.decode())
    bed.planted.keep(f"event over HTTP+SSE at {server}", client.last_event_id)


async def _wrongly_over_sse(bed: SecretsBed) -> None:
    plant = bed.planted.plant
    client = _sse(bed, "events")
    async with client.stream():
        raw = RawClient(client.endpoint, extra_headers=bed.headers("ada"), tls=bed.tls)
        for body in (
            b'{"broken": "' + plant("broken body over HTTP+SSE").encode(),
            b'"' + plant("odd one").encode() + b'"',
        ):
            await raw.whole("POST", body)
    lost = sse_url(bed.gateway.url("events")).removesuffix("sse") + f"messages?session_id={plant('made-up session')}"
    for url, name in ((lost, "ada"), (f"{lost}&{bed.query('stranger')}", "stranger")):
        answer = await RawClient(url, extra_headers=bed.headers(name), tls=bed.tls).post_whole({"x": 1})
        bed.hear("answers about sessions that are not there", f"{answer.headers} {answer.body.decode()}")
    stranger = _sse(bed, "events", "stranger")
    stranger.last_event_id = plant("made-up event over HTTP+SSE")
    async with stranger.stream() as refused:
        assert refused.status == 401
        bed.hear("answers to a stranger", (await refused.body()).decode())
    client.last_event_id = plant("made-up event over HTTP+SSE")
    async with client.stream() as refused:
        assert refused.status in (400, 404)


# ---- WebSocket ----


async def _on_socket(
    bed: SecretsBed,
    server: str,
    talk: Callable[[SocketClient], Any],
    *,
    name: str = "ada",
    query: str = "",
    **kinds: Any,
) -> None:
    """Connect with all that a client could present, and talk; a refusal is heard."""
    offered = ("mcp", f"bearer.{bed.planted.plant(f'token of {name} in a subprotocol')}")
    try:
        async with connect(
            bed.gateway,
            path=f"/servers/{server}/ws",
            query=f"{bed.query(name)}{query}",
            subprotocols=kinds.get("subprotocols", offered),
            headers=[*bed.headers(name).items(), *kinds.get("headers", ())],
            tls=bed.tls,
        ) as client:
            await talk(client)
    except trio_websocket.ConnectionRejected as refused:
        body = (refused.body or b"").decode()
        bed.hear("refused sockets", f"{refused.status_code} {refused.headers} {body}")


async def _over_socket(bed: SecretsBed, server: str) -> None:
    plant = bed.planted.plant

    async def talk(client: SocketClient) -> None:
        await client.open_session()
        bed.planted.keep(f"session over WebSocket at {server}", client.session_id)
        await client.call("echo", text=plant("argument over WebSocket"))
        failing = client.tool_call("fail", detail=plant("error over WebSocket"))
        odd = client.request(plant("method over WebSocket"), {"x": plant("parameters over WebSocket")})
        for called in (failing, odd):
            await client.say(called)
            await client.answer_to(called)
        await client.connection.send_message(plant("frame that is no JSON"))
        await client.next()

    bed.hear("sockets were open", "")
    await _on_socket(bed, server, talk)


async def _wrongly_over_sockets(bed: SecretsBed) -> None:
    plant = bed.planted.plant

    async def hear_the_end(client: SocketClient) -> None:
        await client.end_code()
        assert client.connection.closed is not None
        bed.hear("ends of sockets", str(client.connection.closed.reason))

    made_up = f"&session_id={plant('made-up session over WebSocket')}&last_event_id={plant('made-up event of it')}"
    await _on_socket(bed, "socket", hear_the_end, query=made_up)
    header = [("Mcp-Session-Id", plant("made-up session in a header")), ("Last-Event-ID", plant("made-up event of it"))]
    await _on_socket(bed, "socket", hear_the_end, headers=header)
    await _on_socket(bed, "socket", hear_the_end, subprotocols=[plant("subprotocol that is none")])
    await _on_socket(bed, "socket", hear_the_end, name="stranger")


# ---- servers that are of no use ----


async def _of_no_use(bed: SecretsBed, server: str) -> None:
    """Try to open a session, and to ask without one; all that the client is told is heard."""
    client = bed.client("ada", server)
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client.initialize_params()}
    modern, message = _modern(bed, server), call("echo", text="x")
    if server in EXCHANGING:
        for one in (client, modern):
            token = bed.planted.by_place[TOKEN_OF_ADA]
            one.extra_headers = {**one.extra_headers, "authorization": f"Bearer {token}"}
    for asking, body, headers in (
        (client, opening, {"mcp-protocol-version": None}),
        (modern, message, _headers(bed, message)),
    ):
        with trio.move_on_after(_SECONDS) as scope:
            try:
                answer = await asking.post_whole(body, headers=headers)
            except ConnectionBroken as broken:  # after a long wait; what was logged is searched
                bed.hear("connections that broke", str(broken))
                continue
            bed.hear(f"answers from {server}", f"{answer.status} {answer.headers} {answer.body.decode()}")
        assert not scope.cancelled_caught, server
