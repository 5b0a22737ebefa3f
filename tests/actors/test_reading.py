"""Half a character in a document is no reason to refuse it: others read it, so it is relayed as it came."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import jsonrpc
from actors.jsonrpc import INVALID_REQUEST, PARSE_ERROR, InvalidMessage, Kind
from actors.reading import legible, reader

HALVES = [
    "\\ud83d",
    "\\uDE00",
    "x\\ud83d",
    "\\ud83dx",
    "\\ud83d\\ud83d\\ude00",
    "\\ude00\\ud83d",
    "\\\\\\ud83d",
    "\\ud83d\\n",
]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("place", ['"params":{{"text":"{}"}}', '"params":{{"{}":1}}', '"x":"{}"'])
def test_message_with_half_a_character_keeps_its_bytes(half: str, place: str) -> None:
    raw = f'{{"jsonrpc":"2.0","id":"\\u00fc","method":"tools/call",{place.format(half)}}}'.encode()
    message = jsonrpc.parse(raw)
    assert (message.kind, message.id, message.method) == (Kind.REQUEST, "ü", "tools/call")
    assert message.raw is raw


@pytest.mark.parametrize("half", HALVES)
def test_strict_decoder_refuses_it(half: str) -> None:
    """The control: without the second look such a message is malformed."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.Decoder(dict[str, msgspec.Raw]).decode(f'{{"x":"{half}"}}'.encode())


@given(st.text(st.characters(categories=("Cs", "Lu")) | st.sampled_from('\\"u\n🌍\ufffd'), max_size=8))
@settings(max_examples=200)
def test_text_is_read_with_a_replacement_for_each_half(text: str) -> None:
    raw = json.dumps([text]).encode()
    # Two halves that stand together by chance are a character, in JSON as in UTF-16.
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert reader(list[str])(raw) == [expected]


@pytest.mark.parametrize("whole", ['"\\ud83d\\ude00"', '"\\\\ud83d"', '"\\\\\\\\ud83d"', '"ud83d"', '"\\ufffd"', "[1"])
def test_nothing_else_is_touched(whole: str) -> None:
    assert legible(whole.encode()) is None


@pytest.mark.parametrize("member", ['"id":"\\ud800","method":"m"', '"id":1,"method":"\\ud800"'])
def test_id_and_method_must_be_whole(member: str) -> None:
    with pytest.raises(InvalidMessage, match="half a character") as refused:
        jsonrpc.parse(f'{{"jsonrpc":"2.0",{member}}}'.encode())
    assert refused.value.code == INVALID_REQUEST


def test_what_is_malformed_besides_stays_so() -> None:
    with pytest.raises(InvalidMessage) as refused:
        jsonrpc.parse(b'{"jsonrpc":"2.0","method":"m","x":"\\ud800"')
    assert refused.value.code == PARSE_ERROR
