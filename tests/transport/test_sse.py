"""Server-sent events: what is written is what is read, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport import sse
from transport.sse import Event, EventTooLarge, Parser

_text = st.text(alphabet=st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]), max_size=12)
_events = st.builds(
    Event,
    data=st.none() | st.binary(max_size=40).map(lambda data: data.replace(b"\r", b"")),
    id=st.none() | _text,
    name=_text.map(lambda name: name or "message"),
    retry_ms=st.none() | st.integers(0, 10**9),
).filter(lambda event: not (event.data is None and event.id is None and event.retry_ms is None))


def parse(*chunks: bytes) -> list[Event]:
    parser = Parser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def cut(data: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in positions), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@given(
    events=st.lists(_events, max_size=5),
    positions=st.lists(st.integers(0, 10_000), max_size=12),
    line_end=st.sampled_from([b"\n", b"\r", b"\r\n"]),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_events_are_read_as_written_under_any_cut(
    events: list[Event], positions: list[int], line_end: bytes, mark: bytes
) -> None:
    wire = mark + b"".join(map(sse.encode, events)).replace(b"\n", line_end)
    assert parse(*cut(wire, positions)) == events


@given(data=st.binary(max_size=100), event_id=st.sampled_from(["", "0-1-2-abc"]))
def test_message_arrives_with_line_feeds_for_line_breaks(data: bytes, event_id: str) -> None:
    (event,) = parse(sse.encode_message(data, event_id))
    assert event == Event(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), event_id or None)


def test_message_is_written_as_the_sdks_do() -> None:
    assert sse.encode_message(b'{"a":1}', "7") == b'id: 7\nevent: message\ndata: {"a":1}\n\n'
    assert sse.encode_message(b"{}") == b"event: message\ndata: {}\n\n"


def test_data_with_line_breaks_cannot_forge_an_event() -> None:
    events = parse(sse.encode_message(b"x\n\nid: 9\ndata: forged\r\rdata: too", "1"))
    assert events == [Event(b"x\n\nid: 9\ndata: forged\n\ndata: too", "1")]


@pytest.mark.parametrize("text", ["a\nb", "a\rb", "a\0b"])
def test_id_and_name_cannot_break_out_of_their_line(text: str) -> None:
    with pytest.raises(ValueError):
        sse.encode_message(b"{}", text)
    with pytest.raises(ValueError):
        sse.encode(Event(b"", name=text))


def test_priming_event_has_an_id_and_empty_data() -> None:
    assert sse.encode_priming("5", 1500) == b"id: 5\nretry: 1500\ndata: \n\n"
    assert parse(sse.encode_priming("5", 1500)) == [Event(b"", "5", retry_ms=1500)]


def test_id_or_retry_without_data_is_told_but_has_none() -> None:
    parser = Parser()
    assert parser.feed(b"id: 5\n\nretry: 10\n\n") == [Event(None, "5"), Event(None, retry_ms=10)]
    assert parser.last_event_id == "5"


def test_event_without_an_id_leaves_the_last_one_in_force() -> None:
    parser = Parser()
    parser.feed(b"id: 5\ndata: a\n\ndata: b\n\n")
    assert parser.last_event_id == "5"
    parser.feed(b"id\ndata: c\n\n")
    assert parser.last_event_id == ""


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b": comment\n\n", []),
        (b"data:a\n\n", [Event(b"a")]),
        (b"data:  a\n\n", [Event(b" a")]),
        (b"data\n\n", [Event(b"")]),
        (b"data: a:b\n\n", [Event(b"a:b")]),
        (b"data: a\ndata:\ndata: b\n\n", [Event(b"a\n\nb")]),
        (b"event: x\n\ndata: a\n\n", [Event(b"a")]),  # a name alone is no event, and does not last
        (b"event: x\ndata: a\n\n", [Event(b"a", name="x")]),
        (b"id: a\0b\ndata: x\n\n", [Event(b"x")]),
        (b"retry: 1x\ndata: x\n\n", [Event(b"x")]),
        (b"retry: -1\ndata: x\n\n", [Event(b"x")]),
        (b"unknown: 1\ndata: x\n\n", [Event(b"x")]),
        (b"Data: x\n\n", []),
        (b"data: cut off\n", []),  # the end of the stream does not complete an event
        (b"\n\n\ndata: x\n\n\n\n", [Event(b"x")]),
        (b"\xef\xbb\xbfdata: x\n\n", [Event(b"x")]),
        (b"data: x\n\n\xef\xbb\xbfdata: y\n\n", [Event(b"x")]),  # a mark is one at the very start only
        (b"data: \x85\x0b\x0c\x1c\xe2\x80\xa8\n\n", [Event(b"\x85\x0b\x0c\x1c\xe2\x80\xa8")]),
    ],
)
def test_standard_is_followed(wire: bytes, expected: list[Event]) -> None:
    assert parse(wire) == expected
    assert parse(*(wire[index : index + 1] for index in range(len(wire)))) == expected


def test_event_is_told_with_its_last_byte_even_after_a_bare_return() -> None:
    parser = Parser()
    assert parser.feed(b"data: x\r\n\r") == [Event(b"x")]
    assert parser.feed(b"\ndata: y\r\n\r\n") == [Event(b"y")]


def feed_in_sevens(parser: Parser, wire: bytes) -> None:
    for position in range(0, len(wire), 7):
        parser.feed(wire[position : position + 7])


def test_too_large_an_event_is_an_error_in_one_line_or_in_many() -> None:
    for wire in (b"data: " + b"x" * 200, b"data: xxxx\n" * 50, b"data\n" * 60, b": " + b"x" * 200):
        with pytest.raises(EventTooLarge):
            feed_in_sevens(Parser(event_bytes_max=100), wire)


def test_bound_is_on_an_event_and_not_on_the_stream() -> None:
    parser = Parser(event_bytes_max=100)
    wire = b"data: " + b"x" * 50 + b"\n\n"
    assert sum(len(parser.feed(wire)) for _ in range(100)) == 100


def test_comment_of_several_lines_stays_a_comment() -> None:
    assert sse.encode_comment("a\ndata: b") == b": a\n: data: b\n\n"
    assert sse.encode_comment("") == b": \n\n"
    assert parse(sse.encode_comment("a\ndata: b"), sse.KEEP_ALIVE, sse.encode_retry(5)) == [Event(None, retry_ms=5)]
