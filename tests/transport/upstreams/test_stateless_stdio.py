"""Requests of many callers to one process: who hears what, what is cancelled, and what happens when it ends."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from actors.link import Failure
from tests.transport.modern_messages import call, headers_of, parsed, request
from tests.transport.upstreams.collecting import collected
from transport.modern import ModernRequest, classify
from transport.upstreams import tool_headers
from transport.upstreams.era import Era, EraUnknown
from transport.upstreams.stateless import Answer, NoAnswer, ServerUnavailable, StatelessCall
from transport.upstreams.stateless_stdio import SharedProcessLimits, StatelessStdio
from transport.upstreams.stdio import StdioConnector, StdioLimits

DEADLINE_SECONDS = 10.0
QUICK = StdioLimits(close_seconds=0.05, terminate_seconds=0.05)
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"

# Answers what it is asked by the name of the tool; "hold" is answered when "release" comes.
SERVER = """
import json, sys
def say(message): sys.stdout.write(json.dumps(message) + "\\n"); sys.stdout.flush()
def answer(message, result): say({"jsonrpc": "2.0", "id": message["id"], "result": result})
def note(method, **params): say({"jsonrpc": "2.0", "method": "notifications/" + method, "params": params})
held, listening, seen, mirrors = [], None, [], True
for line in sys.stdin:
    message = json.loads(line)
    seen.append(message)
    method, params = message.get("method"), message.get("params", {})
    name = params.get("name")
    if method == "server/discover":
        answer(message, {"supportedVersions": ["2026-07-28"], "capabilities": {}})
    elif method == "tools/list":
        annotated = {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}
        answer(message, {"tools": [{"name": "deploy", "inputSchema": annotated if mirrors else {}}]})
    elif method == "subscriptions/listen":
        listening = message
        note("subscriptions/acknowledged", _meta={"SUBSCRIPTION": message["id"]})
    elif name == "hold":
        held.append(message)
        if "progressToken" in params["_meta"]:
            note("progress", progressToken=params["_meta"]["progressToken"], progress=1)
        note("held")
    elif name == "release":
        for each in held: answer(each, {"arguments": each["params"]["arguments"]})
        held = []
        answer(message, {})
    elif name == "log":
        note("message", data="secret")
        answer(message, {})
    elif name == "forget":
        mirrors = False
        note("tools/list_changed")
        answer(message, {})
    elif name == "change":
        note("tools/list_changed", _meta={"SUBSCRIPTION": listening["id"]})
        note("tools/list_changed")
        answer(message, {})
    elif name == "end_listening":
        note("cancelled", requestId=listening["id"])
        answer(message, {})
    elif name == "ask":
        say({"jsonrpc": "2.0", "id": "s1", "method": "ping"})
        answer(message, {})
    elif name == "seen":
        answer(message, {"seen": seen})
    elif name == "fail":
        say({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32602, "message": "no", "data": 2**70}})
    elif name == "exit":
        sys.exit(3)
    elif "id" in message and method:
        answer(message, {"arguments": params.get("arguments")})
""".replace("SUBSCRIPTION", SUBSCRIPTION)


@asynccontextmanager
async def upstream_of(script: str = SERVER, **limits: float) -> AsyncIterator[StatelessStdio]:
    bounds = SharedProcessLimits(**{"probe_seconds_max": DEADLINE_SECONDS, **limits})
    upstream = StatelessStdio(StdioConnector((sys.executable, "-c", script), limits=QUICK), limits=bounds)
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run)
        yield upstream
        nursery.cancel_scope.cancel()


async def ended(way: StatelessCall) -> tuple[list[Any], Answer | NoAnswer]:
    messages, end = await collected(way)
    return [json.loads(raw) for raw in messages], end


async def asked(upstream: StatelessStdio, message: dict[str, Any]) -> Any:
    _, end = await ended(await upstream.send(parsed(message)))
    assert isinstance(end, Answer), end
    return json.loads(end.message.raw)


async def test_callers_with_the_same_id_get_their_own_answers() -> None:
    async with upstream_of() as upstream:
        ways = [await upstream.send(parsed(call("hold", id=1, n=number, big=2**70))) for number in range(3)]
        await asked(upstream, call("release", id=1))
        for number, way in enumerate(ways):
            _, end = await ended(way)
            assert isinstance(end, Answer)
            assert json.loads(end.message.raw)["id"] == 1
            assert json.loads(end.message.raw)["result"] == {"arguments": {"n": number, "big": 2**70}}
        assert upstream.starts == 1


async def test_ids_are_numbers_or_text_as_their_callers_like() -> None:
    async with upstream_of() as upstream:
        for id in (7, "7", 0, -(2**62), "ü"):
            assert (await asked(upstream, call(id=id)))["id"] == id


async def test_progress_comes_to_its_caller_under_its_own_token() -> None:
    async with upstream_of() as upstream:
        ways = []
        tokens: tuple[str | int, ...] = ("t", "t", 5)
        for token in tokens:
            message = call("hold")
            message["params"]["_meta"] = {**message["params"]["_meta"], "progressToken": token}
            ways.append(await upstream.send(parsed(message)))
        await asked(upstream, call("release", id=2))
        for way, token in zip(ways, tokens, strict=True):
            messages, _ = await ended(way)
            progress = [each["params"] for each in messages if each["method"] == "notifications/progress"]
            assert progress == [{"progressToken": token, "progress": 1}]


async def test_status_of_an_error_follows_from_its_code() -> None:
    async with upstream_of() as upstream:
        _, end = await ended(await upstream.send(parsed(call("fail", id="x"))))
        assert isinstance(end, Answer)
        assert end.status == 400
        assert json.loads(end.message.raw)["error"] == {"code": -32602, "message": "no", "data": 2**70}


async def test_what_names_no_request_goes_to_the_only_call_or_to_nobody() -> None:
    """What one caller's call logs must not reach another caller."""
    async with upstream_of() as upstream:
        messages, _ = await ended(await upstream.send(parsed(call("log"))))
        assert [each["method"] for each in messages] == ["notifications/message"]

        other = await upstream.send(parsed(call("hold", id=9)))
        messages, _ = await ended(await upstream.send(parsed(call("log"))))
        assert messages == []
        await asked(upstream, call("release"))
        assert [each for each in (await ended(other))[0] if each["method"] == "notifications/message"] == []


async def test_last_words_of_a_cancelled_call_reach_nobody_else() -> None:
    async with upstream_of(last_words_seconds=60.0) as upstream:
        way = await upstream.send(parsed(call("hold")))
        await asked(upstream, call("x", id=2))
        way.cancel()
        messages, _ = await ended(await upstream.send(parsed(call("log", id=3))))
        assert messages == []


async def test_without_the_pause_they_would() -> None:
    async with upstream_of(last_words_seconds=0.0) as upstream:
        way = await upstream.send(parsed(call("hold")))
        await asked(upstream, call("x", id=2))
        way.cancel()
        messages, _ = await ended(await upstream.send(parsed(call("log", id=3))))
        assert len(messages) == 1


async def test_giving_up_cancels_by_the_name_that_the_process_knows() -> None:
    async with upstream_of() as upstream:
        way = await upstream.send(parsed(call("hold", id="mine")))
        way.cancel()
        way.cancel()
        seen = (await asked(upstream, call("seen")))["result"]["seen"]
        [sent] = [each for each in seen if each.get("params", {}).get("name") == "hold"]
        [cancelled] = [each for each in seen if each["method"] == "notifications/cancelled"]
        assert cancelled["params"]["requestId"] == sent["id"] != "mine"
        await asked(upstream, call("release"))  # it answers what was cancelled, which disturbs nobody
        assert (await asked(upstream, call(id=5, x=1)))["result"] == {"arguments": {"x": 1}}


async def test_a_call_that_was_answered_is_not_cancelled() -> None:
    async with upstream_of() as upstream:
        await asked(upstream, call())
        seen = (await asked(upstream, call("seen")))["result"]["seen"]
        assert [each for each in seen if each["method"] == "notifications/cancelled"] == []


async def test_subscription_has_its_callers_id_and_ends_gracefully_when_the_server_cancels_it() -> None:
    async with upstream_of() as upstream:
        way = await upstream.send(parsed(request("subscriptions/listen", "listen-1", notifications={})))
        await asked(upstream, call("change"))
        await asked(upstream, call("end_listening"))
        messages, end = await ended(way)
        assert [(each["method"], each["params"]["_meta"][SUBSCRIPTION]) for each in messages] == [
            ("notifications/subscriptions/acknowledged", "listen-1"),
            ("notifications/tools/list_changed", "listen-1"),
        ]
        assert isinstance(end, Answer)
        result = json.loads(end.message.raw)
        assert result["id"] == "listen-1"
        assert result["result"] == {"resultType": "complete", "_meta": {SUBSCRIPTION: "listen-1"}}


def deploy(header: str | None, region: str = "here") -> ModernRequest:
    message = call("deploy", region=region)
    headers = headers_of(message) | ({} if header is None else {"mcp-param-region": header})
    route = classify(headers, json.dumps(message).encode())
    assert isinstance(route, ModernRequest)
    return route


async def test_header_that_contradicts_an_argument_is_refused_and_the_process_never_sees_the_call() -> None:
    async with upstream_of() as upstream:
        for header in ("there", None):
            _, end = await ended(await upstream.send(deploy(header)))
            assert isinstance(end, Answer)
            assert (end.status, json.loads(end.message.raw)["error"]["code"]) == (400, -32020)
        _, end = await ended(await upstream.send(deploy("here")))
        assert isinstance(end, Answer)
        assert json.loads(end.message.raw)["result"] == {"arguments": {"region": "here"}}
        seen = (await asked(upstream, call("seen")))["result"]["seen"]
        assert [each["params"].get("name") for each in seen if each["method"] == "tools/call"] == ["deploy", "seen"]
        assert [each["method"] for each in seen].count("tools/list") == 1


async def test_control_without_the_check_the_process_runs_what_the_header_contradicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tool_headers, "difference", lambda declared, request: "")
    async with upstream_of() as upstream:
        _, end = await ended(await upstream.send(deploy("there")))
        assert isinstance(end, Answer)
        assert json.loads(end.message.raw)["result"] == {"arguments": {"region": "here"}}


async def test_tools_that_have_changed_are_asked_for_again() -> None:
    async with upstream_of() as upstream:
        _, end = await ended(await upstream.send(deploy("there")))
        assert isinstance(end, Answer)
        assert end.status == 400
        await asked(upstream, call("forget"))
        _, end = await ended(await upstream.send(deploy("there")))
        assert isinstance(end, Answer)
        assert end.status == 200


async def test_requests_of_the_server_are_refused_so_that_it_does_not_wait() -> None:
    async with upstream_of() as upstream:
        await asked(upstream, call("ask"))
        seen = (await asked(upstream, call("seen")))["result"]["seen"]
        [refusal] = [each for each in seen if "error" in each]
        assert (refusal["id"], refusal["error"]["code"]) == ("s1", -32601)


async def test_process_that_ends_leaves_its_calls_in_doubt_and_the_next_gets_another() -> None:
    async with upstream_of(lived_seconds_min=0.0) as upstream:
        waiting = await upstream.send(parsed(call("hold")))
        _, end = await ended(await upstream.send(parsed(call("exit", id=2))))
        _, other = await ended(waiting)
        for each in (end, other):
            assert isinstance(each, NoAnswer)
            assert each.failure is Failure.OUTCOME_UNKNOWN
        await asked(upstream, call())
        assert upstream.starts == 2


async def test_process_that_keeps_ending_is_not_started_at_once_again() -> None:
    async with upstream_of() as upstream:
        await ended(await upstream.send(parsed(call("exit"))))
        with pytest.raises(ServerUnavailable, match="exited with code 3"):
            await upstream.send(parsed(call()))
        assert upstream.starts == 1


async def test_process_that_nobody_uses_is_ended() -> None:
    async with upstream_of(idle_seconds_max=0.02) as upstream:
        await asked(upstream, call())
        with trio.fail_after(DEADLINE_SECONDS):
            while "None" not in repr(upstream):  # noqa: ASYNC110
                await trio.sleep(0.01)  # the time that passes is what ends it
        await asked(upstream, call())
        assert upstream.starts == 2


async def test_command_that_is_not_there_is_unavailable() -> None:
    upstream = StatelessStdio(StdioConnector(("/no/such/command",)))
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run)
        with pytest.raises(ServerUnavailable, match="cannot start"):
            await upstream.send(parsed(call()))
        with pytest.raises(EraUnknown, match="cannot start"):
            await upstream.era.find()
        nursery.cancel_scope.cancel()


# ---- which era ----


async def test_server_is_asked_first_and_the_same_process_goes_on() -> None:
    async with upstream_of() as upstream:
        assert await upstream.era.find() is Era.MODERN
        seen = (await asked(upstream, call("seen")))["result"]["seen"]
        assert [each["method"] for each in seen] == ["server/discover", "tools/call"], "no arguments: no need to list"
        assert upstream.starts == 1


ANSWERING = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **%s}), flush=True)
"""


@pytest.mark.parametrize(
    "script",
    [
        ANSWERING % '{"error": {"code": -32601, "message": "Method not found"}}',
        ANSWERING % '{"error": {"code": -32602, "message": "Invalid request parameters"}}',
        ANSWERING % '{"error": {"code": 0, "message": "Received request before initialization was complete"}}',
        ANSWERING % '{"result": {}}',
        "import sys; sys.stdin.readline(); sys.exit(1)",
    ],
)
async def test_whatever_else_comes_is_no_modern_server_and_its_process_is_ended(script: str) -> None:
    async with upstream_of(script) as upstream:
        assert await upstream.era.find() is Era.HANDSHAKE
        assert "None" in repr(upstream)


async def test_silence_is_no_modern_server() -> None:
    async with upstream_of("import sys; sys.stdin.read()", probe_seconds_max=0.1) as upstream:
        assert await upstream.era.find() is Era.HANDSHAKE
