"""What 2026-07-28 says about messages: the ladder of checks, in order, and what of a request goes on."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import jsonrpc
from tests.transport.modern_messages import META, PREFIX, VERSION, call, headers_of, request
from transport import mcp, modern
from transport.handler import BadRequest, HttpLimits
from transport.head import fold_headers

BAD_META = -32602
MISMATCH = -32020
UNSUPPORTED = -32022


def classified(message: dict[str, Any], **changes: str | None) -> Any:
    return modern.classify(headers_of(message, **changes), json.dumps(message).encode())


def refused(message: dict[str, Any], **changes: str | None) -> mcp.Rejection:
    route = classified(message, **changes)
    assert isinstance(route, mcp.Rejection), route
    body = json.loads(route.body)
    assert body["error"]["message"]
    assert body["id"] == route.id
    return route


def encoded(text: str) -> str:
    return f"=?base64?{base64.b64encode(text.encode()).decode()}?="


@pytest.mark.parametrize(
    ("changes", "message", "status", "code"),
    [
        ({"content_type": "text/plain", "accept": "x"}, request(), 415, -32600),
        ({"accept": "application/json", "mcp_method": None}, request(), 406, -32600),
        ({"mcp_method": None}, {"jsonrpc": "2.0", "id": 1, "result": {}}, 400, -32600),
        ({"mcp_param_x": "ü", "mcp_method": "x"}, request(), 400, MISMATCH),
        ({"mcp_method": "x"}, {**request(), "params": {}}, 400, BAD_META),
        ({"mcp_method": "x"}, {**request(), "params": {"_meta": 3}}, 400, BAD_META),
        ({"mcp_method": "x"}, {**request(), "params": []}, 400, BAD_META),
        ({"mcp_method": "x"}, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, 400, BAD_META),
        ({}, request(meta={f"{PREFIX}protocolVersion": "2027-01-01"}), 400, MISMATCH),
        ({}, request(meta={f"{PREFIX}protocolVersion": 3}), 400, MISMATCH),
        ({"mcp_protocol_version": "x", "mcp_method": "x"}, request(), 400, MISMATCH),
        ({"mcp_method": None}, request(), 400, MISMATCH),
        ({"mcp_method": "Tools/list"}, request(), 400, MISMATCH),
        ({"mcp_name": None}, call(), 400, MISMATCH),
        ({"mcp_name": "other"}, call(), 400, MISMATCH),
        ({"mcp_name": "=?base64?%%?="}, call(), 400, MISMATCH),
        ({"mcp_name": "other"}, request("resources/read", uri="file:///x"), 400, MISMATCH),
        ({"mcp_name": "t2"}, request("tasks/get", taskId="t1"), 400, MISMATCH),
    ],
)
def test_first_rung_that_fails_is_the_answer(
    changes: dict[str, str | None], message: dict[str, Any], status: int, code: int
) -> None:
    rejection = refused(message, **changes)
    assert (rejection.status, rejection.code) == (status, code)


@pytest.mark.parametrize("body", [b"{", b"", b"\xff", b'{"a":'])
def test_what_is_no_json_is_a_parse_error(body: bytes) -> None:
    route = modern.classify(headers_of(request()), body)
    assert isinstance(route, mcp.Rejection)
    assert (route.status, route.code) == (400, -32700)


def test_batch_is_refused() -> None:
    route = modern.classify(headers_of(request()), json.dumps([request()]).encode())
    assert isinstance(route, mcp.Rejection)
    assert (route.status, route.code) == (400, -32600)


def test_request_that_agrees_with_its_headers_goes_on() -> None:
    route = classified(call(), mcp_param_region="eu", traceparent="x", authorization="secret", mcp_session_id="stale")
    assert isinstance(route, modern.ModernRequest)
    assert dict(route.headers) == {"mcp-method": "tools/call", "mcp-name": "echo", "mcp-param-region": "eu"}
    assert not route.listens


def test_what_needs_no_name_may_have_none() -> None:
    for message in (request("vendor/x"), request("tasks/get", taskId="t1"), request("tools/call"), call()):
        message["params"].pop("arguments", None)
        assert isinstance(classified(message), modern.ModernRequest), message
    nameless = request("tools/call", name=None)
    assert isinstance(classified(nameless), modern.ModernRequest), "what null means is for the server to say"


@given(st.text(min_size=1))
def test_encoded_names_are_compared_decoded(name: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in name):
        return
    assert isinstance(classified(call(name), mcp_name=encoded(name)), modern.ModernRequest)
    assert isinstance(classified(call(name + "!"), mcp_name=encoded(name)), mcp.Rejection)


@pytest.mark.parametrize("value", ["=?base64?Zm9=?=", "=?base64?Zm9vZh==?=", "=?base64?/w==?=", "=?base64?Z m9v?="])
def test_encoding_that_readers_may_differ_about_is_malformed(value: str) -> None:
    assert modern.decode_value(value) is None


def test_plain_values_are_taken_as_they_are() -> None:
    assert modern.decode_value("=?BASE64?Zm9v?=") == "=?BASE64?Zm9v?="
    assert modern.decode_value("plain") == "plain"


@pytest.mark.parametrize("version", ["2027-01-01", "1999-01-01", "latest"])
def test_unknown_version_is_told_what_is_supported(version: str) -> None:
    claiming = refused(request(meta={f"{PREFIX}protocolVersion": version}), mcp_protocol_version=version)
    silent = refused({"jsonrpc": "2.0", "id": 1, "method": "ping"}, mcp_protocol_version=version)
    for rejection in (claiming, silent):
        assert (rejection.status, rejection.code) == (400, UNSUPPORTED)
        supported = [VERSION, "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"]
        assert rejection.data == {"supported": supported, "requested": version}


def test_missing_meta_is_named() -> None:
    message = request()
    del message["params"]["_meta"][f"{PREFIX}clientCapabilities"]
    assert f"{PREFIX}clientCapabilities is missing" in refused(message).reason
    assert f"{PREFIX}protocolVersion is missing" in refused({**message, "params": {"_meta": {}}}).reason


def test_notifications_are_dropped_unless_their_version_is_unknown() -> None:
    note = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    assert isinstance(classified(note, mcp_method=None), modern.Dropped)
    assert refused(note, mcp_protocol_version="2027-01-01").code == UNSUPPORTED


@pytest.mark.parametrize("name", ["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name", "Mcp-Param-X"])
def test_a_mirroring_header_that_is_there_twice_is_a_mismatch(name: str) -> None:
    pairs = [(name.encode(), b"tools/list"), (name.lower().encode(), b"tools/list")]
    with pytest.raises(BadRequest) as caught:
        fold_headers(pairs, HttpLimits())
    assert json.loads(caught.value.body)["error"]["code"] == MISMATCH
    assert caught.value.status == 400


def test_modern_request_without_its_header_is_told_so() -> None:
    """A client that forgot the header would else look for a session that it does not need."""
    route = mcp.classify_post(headers_of(call(), mcp_protocol_version=None), json.dumps(call()).encode())
    assert isinstance(route, mcp.Rejection)
    assert (route.status, route.code, route.id) == (400, MISMATCH, 1)


@pytest.mark.parametrize(
    ("code", "status"),
    [(-32700, 400), (-32600, 400), (-32602, 400), (-32020, 400), (-32021, 400), (-32022, 400), (-32601, 404)]
    + [(-32603, 200), (-31234, 200), (1, 200)],
)
def test_status_of_an_error_follows_from_its_code(code: int, status: int) -> None:
    assert modern.status_of(jsonrpc.error(1, code, "x")) == status
    assert modern.status_of(jsonrpc.result(1, {})) == 200


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["_meta", "name", *META, "params"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(params=JSON_VALUES, version=st.sampled_from([VERSION, "2027-01-01", ""]), name=st.none() | st.text())
def test_whatever_comes_is_told_what_it_is(params: object, version: str, name: str | None) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    headers = headers_of(call(), mcp_protocol_version=version, mcp_name=name)
    route = modern.classify(headers, body)
    assert isinstance(route, mcp.Rejection | modern.ModernRequest)
    if isinstance(route, mcp.Rejection):
        assert route.status == 400
        json.loads(route.body)


def test_refusal_that_sends_clients_to_initialize_is_not_one_of_a_modern_server() -> None:
    rejection = modern.not_spoken(7)
    assert rejection.status == 400
    assert rejection.code not in {*modern.ERA_CODES, -32601}
    assert rejection.id == 7


def test_our_own_question_passes_our_own_ladder() -> None:
    question = modern.discover("outlast-1", {"name": "outlast", "version": "0"})
    message = json.loads(question.message.raw)
    assert set(META) <= set(message["params"]["_meta"])
    assert isinstance(classified(message), modern.ModernRequest)
