"""Ids of many callers on one wire: what is renamed comes back under its own name, and nothing else changes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from transport.upstreams import renaming

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
IDS = st.one_of(st.integers(-(2**63) + 1, 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"])))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(st.characters(exclude_categories=["Cs"]))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


def dump(message: Any) -> bytes:
    return json.dumps(message).encode()


@given(id=IDS, token=IDS, arguments=VALUES, state=VALUES)
def test_a_request_loses_only_its_names(id: int | str, token: int | str, arguments: Any, state: Any) -> None:
    params = {"name": "x", "arguments": arguments, "requestState": state, "_meta": {"a": 1, "progressToken": token}}
    message = {"vendor": 10**30, "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}
    raw, kept = renaming.rename_request(dump(message), 7)

    renamed = json.loads(raw)
    assert renamed["id"] == 7
    assert renamed["params"]["_meta"]["progressToken"] == 7
    assert kept == dump(token)
    renamed["id"], renamed["params"]["_meta"]["progressToken"] = id, token
    assert json.dumps(renamed) == json.dumps(message), "the order of fields is kept, too"


@given(id=IDS, result=VALUES)
def test_an_answer_gets_its_callers_id_back(id: int | str, result: Any) -> None:
    message = {"jsonrpc": "2.0", "id": 7, "result": result, "vendor": 2**70}
    assert json.loads(renaming.restore_answer(dump(message), id)) == {**message, "id": id}


def test_values_keep_their_bytes() -> None:
    params = b'{"n":1.0e+5,"s":"\\u00fc\\/","z":  [1 ,2],"o":{"b":1,"a":2}}'
    odd = b'{ "jsonrpc":"2.0","id" : 1,"method":"x","params":' + params + b"}"
    raw, token = renaming.rename_request(odd, 9)
    assert token is None
    assert params in raw
    assert b'"id":9' in raw


def test_subscriptions_are_renamed_in_notes_and_at_their_end() -> None:
    note = {"method": "notifications/tools/list_changed", "params": {"_meta": {SUBSCRIPTION: 7}}}
    assert renaming.subscription_of(dump(note)) == 7
    restored = json.loads(renaming.restore_subscription(dump(note), "listen-1"))
    assert restored["params"]["_meta"] == {SUBSCRIPTION: "listen-1"}
    end = {"id": 7, "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: 7}}}
    assert json.loads(renaming.restore_answer(dump(end), "listen-1")) == {
        "id": "listen-1",
        "result": {"resultType": "complete", "_meta": {SUBSCRIPTION: "listen-1"}},
    }


def test_what_is_not_there_is_not_made_up() -> None:
    assert renaming.subscription_of(b'{"params":{"_meta":3}}') is None
    assert renaming.subscription_of(dump({"params": {"_meta": {SUBSCRIPTION: "seven"}}})) is None
    assert renaming.cancelled_by(b'{"params":{}}') is None
    assert renaming.cancelled_by(b'{"params":{"requestId":4}}') == 4
    for raw in (b'{"params":{}}', b'{"params":3}', b"{}"):
        assert renaming.restore_progress(raw, b'"t"') == raw
