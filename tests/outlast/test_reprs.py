"""What objects say of themselves holds no secret: they are printed, logged, and shown in tracebacks.

Method: sessions whose every part has the word "sekret" in it; each public object that one can get hold of is shown.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import outlast
from actors.state import Handshake
from outlast.server_oauth import ServerOAuth
from outlast.targets import HttpTarget, StdioTarget
from transport.exchange import RequestHead

SEKRET = {"password": "sekret"}


async def answer(method: str, params: Any) -> object:
    return SEKRET


async def public_objects() -> tuple[str, list[object]]:
    """Give a session's id, and what its users and its operator get hold of."""
    async with outlast.open_runtime("memory:", connect=outlast.connect_to(answer)) as runtime:
        session = await runtime.create(server_id="wiki", metadata=SEKRET, context=SEKRET)
        async with session.update() as values:
            values.update(SEKRET)
        await session.request("price", SEKRET)
        await session.emit("step", SEKRET)
        objects: list[object] = [runtime, runtime.registry, runtime.store, runtime.writer, runtime.writer.statistics()]
        objects += [session, await session.state(), outlast.jsonrpc.request(1, "price", SEKRET)]
        async with aclosing(session.events()) as events:
            objects.append(await anext(events))
        return session.id, objects


def settings() -> outlast.Settings:
    return outlast.Settings(
        store="redis://:sekret@localhost:6379/0",
        servers={
            "web": HttpTarget("https://mcp.example/mcp?key=sekret"),
            "local": StdioTarget(("server", "--token", "sekret")),
        },
        server_headers={"web": {"Authorization": "Bearer sekretsekretsekret"}},
        server_oauth={"web": ServerOAuth("client_credentials", "outlast", "sekretsekretsekret-3")},
        client_tokens={"ada": "sekretsekretsekret-1"},
        operators_token="sekretsekretsekret-2",
    )


async def test_no_public_object_shows_a_secret() -> None:
    session_id, objects = await public_objects()
    keys = outlast.KeyRing.read("sekret" + "A" * 37)
    head = RequestHead("POST", "/mcp", "key=sekret", {"authorization": "Bearer sekret"}, "peer")
    objects += [settings(), *settings().servers.values(), keys, *keys.keys, outlast.record_codec(keys), head]
    objects += [Handshake(b"sekret", b"sekret", "sekret")]
    shown = [*map(repr, objects), *map(str, objects)]

    assert len(objects) > 15
    assert [text for text in shown if "sekret" in text or session_id in text] == []
    assert any(session_id[:6] in text for text in shown)  # enough of it to find its log lines


async def test_what_they_hold_has_it() -> None:
    """The control: the secrets are there, for whoever asks for them."""
    _, objects = await public_objects()
    state = next(one for one in objects if isinstance(one, outlast.SessionState))
    message = next(one for one in objects if isinstance(one, outlast.Message))

    assert "sekret" in str(state.values)
    assert b"sekret" in message.raw
    assert settings().operators_token == "sekretsekretsekret-2"
