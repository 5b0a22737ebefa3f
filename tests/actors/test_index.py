"""The index counts as it changes, and never by looking at all sessions."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from actors.ids import SessionId
from actors.index import SessionIndex
from persistence.records import SnapshotHeader

HEADER = SnapshotHeader("", 1, "linear", "owner", "", 0.0, 0.0)
changes = st.tuples(
    st.sampled_from(["put", "put_if_new", "pop"]), st.sampled_from("abcd"), st.sampled_from(["", "corrupt", "too_new"])
)


@given(st.lists(changes, max_size=60))
def test_counts_are_those_of_the_sessions_whatever_happened(done: list[tuple[str, str, str]]) -> None:
    index = SessionIndex()
    for what, name, failure in done:
        header = replace(HEADER, session_id=name, failure=failure)
        if what == "pop":
            index.pop(SessionId(name))
        else:
            getattr(index, what)(header)
    assert index.by_reason() == Counter(header.failure for header in index if header.failure)
    assert index.uninitialized == sum(bool(header.failure) for header in index)


def test_what_is_known_already_is_not_replaced_by_what_was_stored() -> None:
    index = SessionIndex()
    index.put(replace(HEADER, session_id="a", revision=7))
    index.put_if_new(replace(HEADER, session_id="a", revision=3, failure="corrupt"))
    assert [header.revision for header in index] == [7]
    assert index.by_reason() == {}
