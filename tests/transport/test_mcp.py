"""What MCP says about messages: the ladder of checks, in order, and what a message means to its session."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import jsonrpc
from actors.state import SetupChange
from transport import mcp

GOOD = {
    "content-type": "application/json",
    "accept": "application/json, text/event-stream",
    "mcp-session-id": "session",
}
REQUEST: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


def classified(message: object, **changes: str | None) -> Any:
    headers: dict[str, str] = dict(GOOD)
    for name, value in changes.items():
        headers.pop(name.replace("_", "-"), None)
        if value is not None:
            headers[name.replace("_", "-")] = value
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return mcp.classify_post(headers, body)


@pytest.mark.parametrize(
    ("changes", "body", "status"),
    [
        ({"content_type": "text/plain"}, REQUEST, 415),
        ({"content_type": None}, REQUEST, 415),
        ({"accept": "application/json"}, REQUEST, 406),
        ({"accept": "text/event-stream"}, REQUEST, 406),
        ({}, b"{", 400),
        ({"mcp_protocol_version": "2025-06-18"}, [REQUEST], 400),
        ({"mcp_protocol_version": "1999-01-01"}, REQUEST, 400),
        ({"mcp_session_id": None}, REQUEST, 400),
        ({}, {**REQUEST, "method": "initialize"}, 400),
        # The first rung that fails is the answer.
        ({"content_type": "text/plain", "accept": "x"}, b"{", 415),
        ({"accept": "x", "mcp_session_id": None}, b"{", 406),
    ],
)
def test_ladder_says_what_is_wrong_first(changes: dict[str, str | None], body: object, status: int) -> None:
    rejection = classified(body, **changes)

    assert isinstance(rejection, mcp.Rejection)
    assert rejection.status == status
    assert json.loads(rejection.body)["error"]["message"]


@pytest.mark.parametrize(
    "changes",
    [
        {"content_type": "application/json; charset=utf-8"},
        {"content_type": "Application/JSON"},
        {"accept": "*/*"},
        {"accept": "application/*, text/*"},
        {"accept": "text/event-stream;q=0.9,application/json"},
        {"mcp_protocol_version": "2025-06-18"},
    ],
)
def test_what_means_the_same_is_taken(changes: dict[str, str]) -> None:
    assert isinstance(classified(REQUEST, **changes), mcp.Request)


def test_refusal_of_a_request_names_it() -> None:
    assert classified({**REQUEST, "id": "mine"}, mcp_session_id=None).id == "mine"
    assert classified({**REQUEST, "id": "mine"}, mcp_protocol_version="x").id == "mine"


def test_initialize_opens_a_session() -> None:
    route = classified({**REQUEST, "method": "initialize"}, mcp_session_id=None)

    assert isinstance(route, mcp.Initialize)


def test_tool_calls_carry_the_tools_name() -> None:
    call = {**REQUEST, "method": "tools/call", "params": {"name": "search", "arguments": {}}}

    assert classified(call).label == "search"
    assert classified({**call, "params": {}}).label == "?"
    assert classified({**call, "params": {"name": 7}}).label == "?"
    assert classified(REQUEST).label == ""


@pytest.mark.parametrize(
    ("method", "params", "setup"),
    [
        ("logging/setLevel", {"level": "debug"}, SetupChange("logging/setLevel", True)),
        ("resources/subscribe", {"uri": "file:///a"}, SetupChange("resources/subscribe file:///a", True)),
        ("resources/unsubscribe", {"uri": "file:///a"}, SetupChange("resources/subscribe file:///a", False)),
        ("tools/call", {"name": "x"}, None),
    ],
)
def test_setup_is_told_from_other_requests(method: str, params: object, setup: SetupChange | None) -> None:
    assert classified({**REQUEST, "method": method, "params": params}).setup == setup


@pytest.mark.parametrize(
    ("params", "cancels"),
    [({"requestId": 5}, 5), ({"requestId": "5"}, "5"), ({}, None), ({"requestId": None}, None), ([], None)],
)
def test_cancellation_names_its_request(params: object, cancels: jsonrpc.RequestId | None) -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
    route = classified(note)

    assert isinstance(route, mcp.Notification)
    assert route.cancels == cancels
    assert type(route.cancels) is type(cancels)


def test_only_initialized_confirms() -> None:
    assert classified({"jsonrpc": "2.0", "method": "notifications/initialized"}).confirms
    assert not classified({"jsonrpc": "2.0", "method": "notifications/other"}).confirms


def test_answers_are_told_from_requests() -> None:
    assert isinstance(classified({"jsonrpc": "2.0", "id": 1, "result": {}}), mcp.Answer)


def test_get_and_delete_have_their_ladders() -> None:
    events = {"accept": "text/event-stream"}
    for headers, status in (({}, 406), ({**events, "mcp-protocol-version": "x"}, 400), (events, 400)):
        rejection = mcp.classify_get(headers)
        assert isinstance(rejection, mcp.Rejection)
        assert rejection.status == status
    session = {"mcp-session-id": "s"}
    assert mcp.classify_get({**events, **session, "last-event-id": "e"}) == mcp.Tail("s", "e")
    assert mcp.classify_get({**events, **session}) == mcp.Tail("s", None)
    assert mcp.classify_delete(session) == mcp.End("s")
    assert isinstance(mcp.classify_delete({}), mcp.Rejection)


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), st.text(max_size=20)), st.binary(max_size=60))
def test_any_post_is_classified(headers: dict[str, str], body: bytes) -> None:
    mcp.classify_post({**GOOD, **headers}, body)
