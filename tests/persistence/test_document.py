"""The document's frame: whatever its layout and however it is cut into blocks, its sessions come out as they are."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence.document import DocumentInvalid, DocumentReader, DocumentWriter, Element, Member

texts = st.text(st.sampled_from('ab\\"{}[],:\n é'), max_size=8)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=10,
)
sessions = st.lists(st.dictionaries(texts, values, max_size=3), max_size=4)
layouts = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"indent": "\t", "ensure_ascii": False}])


def read(text: bytes, cuts: list[int], **bounds: int) -> list[Member | Element]:
    """Read a document that comes in blocks."""
    reader = DocumentReader(**bounds)
    found: list[Member | Element] = []
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(places):
        found += reader.feed(text[start:end])
    reader.finish()
    return found


def refusal(text: str, **bounds: int) -> str:
    with pytest.raises(DocumentInvalid) as refused:
        read(text.encode(), [], **bounds)
    return str(refused.value)


def elements(parts: list[Member | Element]) -> list[Any]:
    found = [part for part in parts if isinstance(part, Element)]
    assert [part.index for part in found] == list(range(len(found)))
    return [json.loads(part.text) for part in found]


@given(sessions, values, layouts, st.lists(st.integers(0, 10_000), max_size=6))
def test_any_layout_in_any_blocks_gives_its_parts(
    said: list[Any], note: Any, layout: dict[str, Any], cuts: list[int]
) -> None:
    text = json.dumps({"note": note, "sessions": said, "behind": [note]}, **layout).encode()
    parts = read(text, cuts)

    assert elements(parts) == said
    members = [part for part in parts if isinstance(part, Member)]
    assert members == [Member("note", note), Member("behind", [note])]


@given(sessions, layouts, st.lists(st.integers(0, 10_000), max_size=6))
def test_a_bare_array_is_a_document_too(said: list[Any], layout: dict[str, Any], cuts: list[int]) -> None:
    assert elements(read(b"\xef\xbb\xbf" + json.dumps(said, **layout).encode() + b"\n", cuts)) == said


@given(sessions, st.lists(st.integers(0, 10_000), max_size=6))
def test_what_is_written_is_read(said: list[Any], cuts: list[int]) -> None:
    writer = DocumentWriter()
    text = writer.head(exported_unix_s=1.5, secrets="included")
    for session in said:
        text += writer.element(json.dumps(session).encode(), entries=2)
    text += writer.tail(left_out=1)

    assert elements(read(text, cuts)) == said
    whole = json.loads(text)  # for any other reader, too
    assert whole["counts"] == {"sessions": len(said), "entries": 2 * len(said), "leftOut": 1}
    # Head and bracket have a line each, every session one of its own, and so have closing bracket and counts.
    assert text.count(b"\n") == 4 + max(0, len(said) - 1) + bool(said)


@given(st.integers(1, 10_000))
def test_a_document_that_was_cut_short_is_refused(cut: int) -> None:
    text = b'{"format": "outlast-sessions",\n"sessions": [\n{"id": "a"},\n{"id": "b"}\n],\n"counts": {"sessions": 2}}'
    with pytest.raises(DocumentInvalid):
        read(text[: cut % len(text)], [])
    assert elements(read(text, [])) == [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the document is empty"),
        ("  \n", "the document is empty"),
        ("x", "this is no JSON object or array"),
        ("7", "this is no JSON object or array"),
        ("{}", "sessions: is missing"),
        ('{"sessions": 7}', "sessions: expected an array"),
        ('{"sessions": {}}', "sessions: expected an array"),
        ('{"sessions": [], "sessions": []}', "sessions: is there twice"),
        ('{"version": 1, "version": 1, "sessions": []}', "version: is there twice"),
        ('{"version": tru, "sessions": []}', "version: not valid JSON"),
        ('{version: 1, "sessions": []}', "expected a name in quotes"),
        ('{"sessions": [{"a": 1} {"b": 2}]}', 'sessions[0]: expected "," or "]"'),
        ('{"sessions": [{"a": 1}', "sessions[0]: the document ends here"),
        ('{"sessions": [{"a": 1}, {"b"', "sessions[1]: the document ends here"),
        ('{"sessions": []} {}', "behind the end"),
        ("[]]", "behind the end"),
    ],
)
def test_what_is_no_document_is_refused_with_its_place(text: str, words: str) -> None:
    assert words in refusal(text)


def test_no_more_is_held_than_one_session_may_have() -> None:
    text = json.dumps([{"id": "a" * 100}, {"id": "b" * 200}])

    assert refusal(text, session_bytes_max=150) == "sessions[1]: is longer than 150 bytes"
    assert refusal(text[:-2], session_bytes_max=150) == "sessions[1]: is longer than 150 bytes"  # before its end came
    assert len(elements(read(text.encode(), [], session_bytes_max=250))) == 2


def test_endless_members_are_refused() -> None:
    assert refusal(json.dumps(dict.fromkeys(map(str, range(101))))) == "the document has more than 100 fields"
    assert refusal('{"note": "' + "x" * (1 << 21)) == "note: is longer than 1048576 bytes"
    assert "expected a name" in refusal('{"' + "x" * (1 << 21))
