"""What can be kept comes back as it will be after a restart; what cannot is refused at the door."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.keeping import Unkeepable, keep

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
keepable = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


@given(keepable)
def test_builtins_are_kept_as_they_are(value: object) -> None:
    kept, encoded_bytes = keep(value)
    assert kept == value
    assert encoded_bytes >= len(msgpack.packb(value))


def test_a_copy_is_kept_that_later_changes_do_not_reach() -> None:
    value = {"list": [1]}
    kept, _ = keep(value)
    value["list"].append(2)
    assert kept == {"list": [1]}


def _nested(depth: int) -> object:
    value: object = 0
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [{1, 2}, object(), 2**64, "\ud800", _nested(2000)],
    ids=["set", "object", "65 bits", "lone surrogate", "nested"],
)
def test_what_a_store_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(Unkeepable, match="can be kept"):
        keep({"value": value})


def test_what_is_kept_can_lie_deeper_in_a_record() -> None:
    """The deepest value that is kept still packs where a snapshot puts it."""
    deepest = next(depth for depth in range(1100, 900, -1) if _is_kept(_nested(depth)))
    msgpack.packb({"values": {"key": _nested(deepest)}})


def _is_kept(value: object) -> bool:
    try:
        keep(value)
    except Unkeepable:
        return False
    return True
