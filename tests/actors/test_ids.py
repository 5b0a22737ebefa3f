"""Ids: nobody can make one up, and one session's are of no use in another."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.ids import ANONYMOUS, SESSION_ID_RANDOM_BYTES, EventId, InvalidEventId, Principal, mint_session_id

MINE = mint_session_id(bytes(range(24)))
OTHER = mint_session_id(bytes(range(1, 25)))
event_ids = st.builds(EventId, st.integers(0, 2**40), st.integers(0, 2**32), st.integers(0, 2**50))


@given(st.binary(min_size=SESSION_ID_RANDOM_BYTES, max_size=64))
def test_session_id_is_visible_ascii_and_holds_all_its_randomness(random: bytes) -> None:
    session_id = mint_session_id(random)

    assert set(session_id) <= set(string.ascii_letters + string.digits + "-_")
    assert len(session_id) == 32
    assert (session_id == MINE) == (random[:24] == bytes(range(24)))


def test_too_little_randomness_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 24 random bytes"):
        mint_session_id(b"short")


@given(event_ids)
def test_event_id_comes_back_as_it_was_written(event_id: EventId) -> None:
    assert EventId.read(MINE, event_id.write(MINE)) == event_id


@given(event_ids)
def test_event_id_of_another_session_is_refused(event_id: EventId) -> None:
    with pytest.raises(InvalidEventId):
        EventId.read(OTHER, event_id.write(MINE))


@given(event_ids, st.data())
def test_changed_event_id_is_refused(event_id: EventId, data: st.DataObject) -> None:
    text = event_id.write(MINE)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters().filter(lambda other: other != text[at])) + text[at + 1 :]

    with pytest.raises(InvalidEventId):
        EventId.read(MINE, changed)


@given(st.text(st.characters()))
def test_text_is_no_event_id(text: str) -> None:
    with pytest.raises(InvalidEventId):
        EventId.read(MINE, text)


def test_principals_differ_by_each_of_their_parts() -> None:
    people = [
        Principal("a", "b", "c"),
        Principal("ab", "", "c"),
        Principal("a", "bc", ""),
        Principal("", "ab", "c"),
        ANONYMOUS,
    ]

    assert len({person.digest for person in people}) == len(people)
    assert Principal("a", "b", "c").digest == people[0].digest
