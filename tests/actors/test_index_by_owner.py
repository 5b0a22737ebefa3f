"""The index counts each owner's sessions along with every change; counting anew gives the same."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.ids import SessionId
from actors.index import SessionIndex
from actors.tally import Tally
from persistence.records import SnapshotHeader

OWNERS = ("ann", "bob", "cem")


def header(session_id: str, owner: str, revision: int = 1) -> SnapshotHeader:
    return SnapshotHeader(session_id, revision, "linear", owner, "", 0.0, 1e9)


CHANGES = st.lists(
    st.tuples(st.sampled_from(["put", "put if new", "pop"]), st.sampled_from("abcde"), st.sampled_from(OWNERS))
)


@given(CHANGES)
def test_the_count_of_an_owner_is_what_counting_would_give(changes: list[tuple[str, str, str]]) -> None:
    index = SessionIndex()
    expected: dict[str, str] = {}  # owner by session
    for change, session_id, owner in changes:
        if change == "pop":
            popped = index.pop(SessionId(session_id))
            assert (popped and popped.owner) == expected.pop(session_id, None)
        elif change == "put":
            index.put(header(session_id, owner))
            expected[session_id] = owner
        else:
            index.put_if_new(header(session_id, owner))
            expected.setdefault(session_id, owner)
        assert len(index) == len(expected)
        assert {owner: index.owned_by(owner) for owner in OWNERS} == {
            owner: list(expected.values()).count(owner) for owner in OWNERS
        }
    assert {found.session_id: found.owner for found in index} == expected


@given(st.lists(st.sampled_from(OWNERS)))
def test_a_tally_remembers_only_what_there_is(names: list[str]) -> None:
    tally = Tally()
    for name in names:
        tally.add(name)
    assert len(tally) == len(set(names))
    for name, count in Counter(names).items():
        assert tally.of(name) == count
        for _ in range(count):
            tally.remove(name)
    assert (len(tally), tally.of("ann")) == (0, 0)


def test_what_was_not_added_cannot_be_removed() -> None:
    with pytest.raises(KeyError):
        Tally().remove("ann")
