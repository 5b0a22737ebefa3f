"""The scripted upstream answers as an MCP server of the handshake era does."""

from __future__ import annotations

import json
from typing import Any

from bench.script import Script


def _open(script: Script) -> str:
    return script.answer("POST", "", b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}').session_id


def _ask(script: Script, session_id: str, message: Any) -> tuple[int, Any]:
    answer = script.answer("POST", session_id, json.dumps(message).encode())
    return answer.status, json.loads(answer.body) if answer.body else None


def test_initialize_mints_a_session_of_its_own_each_time() -> None:
    script = Script()
    assert _open(script) != _open(script)
    assert script.sessions == 2


def test_echo_gives_back_the_very_text_under_the_very_id() -> None:
    script = Script()
    text = 'quotes " and \\ and ü and \u2028'
    call = {
        "jsonrpc": "2.0",
        "id": "one",
        "method": "tools/call",
        "params": {"name": "echo", "arguments": {"text": text}},
    }
    assert _ask(script, _open(script), call) == (
        200,
        {"jsonrpc": "2.0", "id": "one", "result": {"content": [{"type": "text", "text": text}], "isError": False}},
    )


def test_tools_are_listed_and_pings_answered() -> None:
    script = Script()
    session_id = _open(script)
    _, tools = _ask(script, session_id, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    assert [tool["name"] for tool in tools["result"]["tools"]] == ["echo"]
    assert _ask(script, session_id, {"jsonrpc": "2.0", "id": 2, "method": "ping"}) == (
        200,
        {"jsonrpc": "2.0", "id": 2, "result": {}},
    )


def test_notifications_and_answers_are_accepted_without_a_body() -> None:
    script = Script()
    session_id = _open(script)
    assert _ask(script, session_id, {"jsonrpc": "2.0", "method": "notifications/initialized"}) == (202, None)
    assert _ask(script, session_id, {"jsonrpc": "2.0", "id": 5, "result": {}}) == (202, None)


def test_an_unknown_session_is_404_and_so_is_one_that_has_ended() -> None:
    script = Script()
    session_id = _open(script)
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    assert _ask(script, "made up", ping)[0] == 404
    assert script.answer("DELETE", session_id, b"").status == 200
    assert _ask(script, session_id, ping)[0] == 404
    assert script.answer("DELETE", session_id, b"").status == 404


def test_what_it_does_not_know_is_refused_by_name() -> None:
    script = Script()
    session_id = _open(script)
    assert script.answer("GET", session_id, b"").status == 405
    assert script.answer("POST", session_id, b"{").status == 400
    unknown = {"jsonrpc": "2.0", "id": 1, "method": "nothing/known"}
    assert _ask(script, session_id, unknown)[1]["error"]["code"] == -32601
    other_tool = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "other"}}
    assert _ask(script, session_id, other_tool)[1]["error"]["code"] == -32602
