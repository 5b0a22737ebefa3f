"""The export without secrets: what is in one place a secret is in no place of the line."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from actors.portable_checks import Misfit
from actors.portable_redaction import redact
from actors.portable_schema import PortableSession, encode_session
from actors.portable_session import read_portable, to_portable
from actors.snapshots import to_snapshot
from tests.actors.making import fresh_state
from tests.actors.portable_making import FULL_ID, MARK, full_records, full_state


def portable(**fields: Any) -> PortableSession:
    return to_portable(to_snapshot(fresh_state(**fields)), ())


def full_portable() -> PortableSession:
    records = full_records()
    return to_portable(records.snapshot, records.entries)


def test_no_secret_is_left_in_the_line() -> None:
    text = encode_session(redact(full_portable()))

    assert MARK.encode() not in text
    assert b"AAAAAAAAAAAA" not in text  # base64 of the bytes in values
    assert b"/v7+" not in text
    assert b"/wD/AP8A" not in text


def test_without_redaction_it_is_full_of_them() -> None:
    """The negative control: the mark stands in each place that can hold a secret."""
    assert encode_session(full_portable()).count(MARK.encode()) == 18


def test_what_is_no_secret_stays() -> None:
    line = msgspec.json.decode(encode_session(redact(full_portable())))
    state = full_state()

    assert line["metrics"] == {"requests": 10, "toolCalls": 5, "errors": 1}
    assert (line["createdAt"], line["serverId"]) == (state.created_unix_s, "wiki")
    assert line["failure"]["reason"] == "auth_gone"
    assert line["values"]["step"] == 3
    assert line["context"]["permissions"] == ["read"]
    assert [kept["key"] for kept in line["setup"]] == ["resources/subscribe", "b"]
    assert [entry["offset"] for entry in line["log"]["entries"]] == [1, 1, 2]


def test_sessions_can_be_told_apart_and_followed() -> None:
    ids = [redact(portable(session_id=session_id)).id for session_id in ("a" * 32, "b" * 32, "a" * 32)]
    assert ids[0] == ids[2] != ids[1]


def test_a_redacted_session_is_no_session() -> None:
    with pytest.raises(Misfit, match="id: expected visible ASCII"):
        read_portable(encode_session(redact(full_portable())))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"Authorization": "x"}, {"Authorization": "[redacted]"}),
        ({"a": {"refresh_token": ["x"]}}, {"a": {"refresh_token": "[redacted]"}}),
        ({"X-Api-Key": 7, "keys": 8}, {"X-Api-Key": "[redacted]", "keys": 8}),
        ({"password": "x", "pass": "x"}, {"password": "[redacted]", "pass": "x"}),
        ({"h": [["cookie", "x"], ["host", "y"]]}, {"h": [["cookie", "[redacted]"], ["host", "y"]]}),
        ({"n": "call me with Bearer abc.def, please"}, {"n": "call me with [redacted], please"}),
        ({"n": "eyJhbGciOi.eyJzdWIi.c2ln"}, {"n": "[redacted]"}),
        ({"n": "postgres://user:word@host/x"}, {"n": "postgres://[redacted]host/x"}),
        ({"n": f"<{FULL_ID}>"}, {"n": "<[redacted]>"}),
        ({"n": b"x"}, {"n": "[redacted]"}),
        ({"author": "x", "n": [1, None, True, 2.5]}, {"author": "x", "n": [1, None, True, 2.5]}),
    ],
)
def test_credentials_in_values_are_found_by_name_and_by_look(value: dict[str, Any], shown: dict[str, Any]) -> None:
    for field in ("values", "context", "metadata"):
        redacted = redact(portable(session_id=FULL_ID, **{field: value}))
        assert getattr(redacted, field) == shown


def test_an_id_too_short_for_a_secret_does_not_tear_words_apart() -> None:
    assert redact(portable(session_id="a", values={"n": "banana"})).values == {"n": "banana"}


def test_values_too_deep_to_look_through_are_left_out() -> None:
    deep: Any = {"token": MARK}
    for _ in range(500):
        deep = {"a": deep}
    assert MARK.encode() not in encode_session(redact(portable(values=deep)))
