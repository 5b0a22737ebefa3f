"""The envelope: kinds and ids are read, bytes stay as they came, and what is wrong is said with the right code."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import jsonrpc
from actors.jsonrpc import INVALID_REQUEST, PARSE_ERROR, InvalidMessage, Kind, RequestFailed

ids = st.one_of(st.text(), st.integers(-(2**53), 2**53))
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=10,
)


@given(ids, st.dictionaries(st.text(), json_values, max_size=3), st.booleans())
@settings(max_examples=50)
def test_bytes_stay_as_they_came(id: int | str, params: dict[str, object], indented: bool) -> None:
    document = {"params": params, "method": "tools/call", "unknown": [1], "id": id, "jsonrpc": "2.0"}
    raw = json.dumps(document, indent=2 if indented else None).encode()
    message = jsonrpc.parse(raw)

    assert message.raw is raw
    assert (message.kind, message.id, message.method) == (Kind.REQUEST, id, "tools/call")


@given(ids, ids, st.dictionaries(st.text(), json_values, max_size=3))
@settings(max_examples=50)
def test_message_under_another_id_is_otherwise_the_same(
    old: int | str, new: int | str, params: dict[str, object]
) -> None:
    raw = json.dumps({"x": params, "id": old, "jsonrpc": "2.0", "method": "m", "y": 1.50}).encode()
    message = jsonrpc.with_id(jsonrpc.parse(raw), new)

    assert message.id == new
    assert type(message.id) is type(new)
    assert json.loads(message.raw) == {**json.loads(raw), "id": new}
    assert list(json.loads(message.raw)) == list(json.loads(raw)), "in the same order"
    assert jsonrpc.parse(message.raw) == message


def test_numbers_too_large_for_floats_stay_as_they_are() -> None:
    raw = b'{"jsonrpc":"2.0","id":1,"result":{"big":123456789012345678901234567890,"small":1e-400}}'

    assert b'{"big":123456789012345678901234567890,"small":1e-400}' in jsonrpc.with_id(jsonrpc.parse(raw), "a").raw


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"m"}', Kind.REQUEST),
        (b'{"jsonrpc":"2.0","method":"m"}', Kind.NOTIFICATION),
        (b'{"jsonrpc":"2.0","id":1,"result":null}', Kind.RESPONSE),
        (b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}', Kind.RESPONSE),
    ],
)
def test_kinds_are_told_by_their_fields(raw: bytes, kind: Kind) -> None:
    assert jsonrpc.parse(raw).kind is kind


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", PARSE_ERROR),
        (b"{", PARSE_ERROR),
        (b'{"jsonrpc":"2.0"', PARSE_ERROR),
        (b"\xff", PARSE_ERROR),
        (b'"' + b"[" * 10, PARSE_ERROR),
        (b'{"a":' * 100_000, PARSE_ERROR),
        (b"[]", INVALID_REQUEST),
        (b"1", INVALID_REQUEST),
        (b"null", INVALID_REQUEST),
        (b"{}", INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":1,"method":"m"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"method":"m"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"m"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":true,"method":"m"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":[],"method":"m"}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":18446744073709551616,"method":"m"}', INVALID_REQUEST),  # no record could hold it
        (b'{"jsonrpc":"2.0","id":1,"method":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","params":7}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"method":"m","result":7}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1,"result":1,"error":{}}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","result":1}', INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"result":1}', INVALID_REQUEST),
    ],
)
def test_what_is_no_message_is_refused_with_its_code(raw: bytes, code: int) -> None:
    with pytest.raises(InvalidMessage) as refused:
        jsonrpc.parse(raw)

    assert refused.value.code == code


def test_refusal_names_the_request_where_it_can() -> None:
    with pytest.raises(InvalidMessage) as refused:
        jsonrpc.parse(b'{"jsonrpc":"2.0","id":"mine","method":1}')

    assert refused.value.id == "mine"


@given(st.binary(max_size=60))
def test_bytes_are_parsed_or_refused(raw: bytes) -> None:
    try:
        jsonrpc.parse(raw)
    except InvalidMessage as refused:
        assert refused.code in (PARSE_ERROR, INVALID_REQUEST)  # noqa: PT017 - either may happen


@given(ids, json_values)
def test_result_comes_back(id: int | str, value: object) -> None:
    message = jsonrpc.result(id, json.loads(json.dumps(value)) if not _is_large(value) else 1)

    assert jsonrpc.parse(message.raw) == message


def _is_large(value: object) -> bool:
    try:
        jsonrpc.result(1, value)
    except (OverflowError, ValueError):
        return True
    return False


def test_error_answer_is_raised_with_what_it_says() -> None:
    with pytest.raises(RequestFailed, match=r"too much \(-32013\)") as failed:
        jsonrpc.result_of(jsonrpc.error(1, jsonrpc.OVERLOADED, "too much", {"limit": 5}))

    assert (failed.value.code, failed.value.reason, failed.value.data) == (-32013, "too much", {"limit": 5})
