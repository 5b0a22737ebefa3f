"""What clients with secrets say over Streamable HTTP, rightly and wrongly; what is heard of it by others is kept."""

from __future__ import annotations

import json

import trio

from tests.e2e.secrets_bed import SecretsBed


async def say_everything(bed: SecretsBed) -> None:
    """Let clients say secrets in all places of the protocol, rightly and wrongly; keep what others are told."""
    for server in ("web", "local"):
        await _talk(bed, server)
    eve, ada = bed.client("eve", "web"), bed.client("ada", "web")
    await ada.open_session()
    bed.planted.keep("session of ada", ada.session_id)
    eve.session_id = ada.session_id  # the answers to her are heard: nothing of ada's may be in them
    for answer in (await eve.post_whole(eve.request("ping")), await eve.delete()):
        assert answer.status == 404
        bed.hear("answers to eve", answer.body.decode())
    for server in ("gone", "broken"):
        client = bed.client("ada", server)
        with trio.move_on_after(20):
            request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client.initialize_params()}
            answer = await client.post_whole(request, headers={"mcp-protocol-version": None})
            bed.hear("answers to ada", answer.body.decode())
    stranger = bed.client("stranger", "web")
    bed.hear("answers to a stranger", (await stranger.post_whole(stranger.request("ping"))).body.decode())


async def _talk(bed: SecretsBed, server: str) -> None:
    plant = bed.planted.plant
    client = bed.client("ada", server)
    await client.open_session()
    bed.planted.keep(f"session of ada at {server}", client.session_id)
    await client.call("echo", text=plant("argument and result of a tool"))
    await client.ask(client.tool_call("fail", detail=plant("error of a tool")))
    question = client.tool_call("elicit", question=plant("question of a server"))
    async with client.post(question) as stream:
        asked = await stream.next_message()
        answer = {"action": "accept", "content": {"answer": plant("answer to a question")}}
        await client.post_whole({"jsonrpc": "2.0", "id": asked["id"], "result": answer})
        await stream.rest()
    for body in (b'{"broken": "' + plant("broken body").encode(), json.dumps([plant("odd body")]).encode()):
        await client.whole("POST", body)
    odd = {"jsonrpc": "2.0", "id": 1, "method": plant("name of a method"), "params": {"x": plant("odd parameters")}}
    await client.post_whole(odd)
    wrong = {"mcp-session-id": plant("made-up session id"), "last-event-id": plant("made-up event id")}
    assert (await client.whole("GET", headers=wrong)).status == 404
    await client.whole("GET", headers={"last-event-id": plant("made-up event id")})
    if server != "local":  # the other one is everybody's
        return
    lost = client.tool_call("crash", key=plant("argument of a lost call"))
    async with client.post(lost) as stream:
        bed.hear("outcome of a lost call", (await stream.body()).decode() if not stream.is_event_stream else "")
