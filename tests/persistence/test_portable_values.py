"""Values: everything that a record can hold goes through JSON and comes back, types included."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from persistence.portable_values import NotPortable, from_json_value, to_json_value

keys = st.one_of(
    st.text(max_size=3),
    st.sampled_from(["$map", "$base64", "$x", "$"]),
    st.integers(-(2**63), 2**64 - 1),
    st.booleans(),
    st.none(),
    st.binary(max_size=3),
    st.floats(allow_nan=False),
)
values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(keys, st.floats(allow_nan=False), st.just(math.nan)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=20,
)


def packed(value: Any) -> bytes:
    """Give the bytes that a store keeps: they tell 1 from 1.0 and from True, and one nan from none."""
    data: bytes = msgpack.packb(value)
    return data


def through_json(value: Any) -> Any:
    return from_json_value(msgspec.json.decode(msgspec.json.encode(to_json_value(value))))


@given(values)
def test_every_value_comes_back_with_its_type(value: Any) -> None:
    assert packed(through_json(value)) == packed(value)


def test_plain_values_stay_readable() -> None:
    value = {"cart": [{"sku": "a", "count": 1, "price": 2.5}], "done": False, "note": None}
    assert to_json_value(value) == value


def test_json_alone_would_lose_types() -> None:
    """What the marks are for: the negative control."""
    value = {1: b"\xff", "n": math.inf}
    assert msgspec.json.decode(msgspec.json.encode(value)) == {"1": "/w==", "n": None}


@pytest.mark.parametrize("depth", [10, 200, 500])
def test_deep_values_come_back(depth: int) -> None:
    lists: Any = 1
    maps: Any = 1
    for _ in range(depth):
        lists, maps = [lists], {0: maps}

    assert packed(through_json(lists)) == packed(lists)
    assert packed(through_json(maps)) == packed(maps)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"$base64": "no base64!"}, '"$base64" cannot be read'),
        ({"$base64": 7}, '"$base64" cannot be read'),
        ({"$base64": "", "b": 1}, '"$base64" must stand alone'),
        ({"a": {"$unheard-of": 1}}, 'does not know "$unheard-of"'),
        ({"$number": "7"}, '"$number" is one of'),
        ({"$map": [1]}, '"$map" cannot be read'),
        ({"$map": [[[], 1]]}, '"$map" cannot be read'),
        ({"$msgpack": "wQ=="}, '"$msgpack" cannot be read'),
    ],
)
def test_marks_that_say_nothing_are_refused(said: Any, words: str) -> None:
    with pytest.raises(NotPortable, match=re.escape(words)):
        from_json_value(json.loads(json.dumps(said)))
