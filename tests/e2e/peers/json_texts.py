"""JSON as text, in all the ways in which the same value can be written: what a relay must not change.

Numbers of any length, escapes that nobody needs, names that differ by case or not at all, spaces between tokens. What
RFC 8259 allows and servers may send; a library that reads and writes it would change nearly every one of these.
"""

from __future__ import annotations

from hypothesis import strategies as st

_SPACES = st.sampled_from(["", "", "", " ", "  ", "\t"])
_NUMBERS = st.from_regex(r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?", fullmatch=True)
_ODD_NUMBERS = st.sampled_from(["-0", "1.0", "1.50", "1E400", "1e-400", "9007199254740993", "18446744073709551616"])
_PLAIN = st.characters(exclude_characters='"\\', exclude_categories=("Cs", "Cc"))
_ESCAPES = st.sampled_from(
    ["\\n", "\\/", "\\b", "\\u0000", "\\u00fc", "\\u00FC", "\\u2028", "\\ud83d\\ude00", "\\uD83D\\uDE00", '\\"', "\\\\"]
)
_STRINGS = st.lists(_PLAIN | _ESCAPES, max_size=12).map(lambda pieces: f'"{"".join(pieces)}"')
_NAMES = st.sampled_from(['"a"', '"A"', '"\\u0061"', '""', '"id"', '"_meta"', '"method"', '"__proto__"']) | _STRINGS
_SCALARS = st.sampled_from(["null", "true", "false", '"1"', "1"]) | _NUMBERS | _ODD_NUMBERS | _STRINGS


def _joined(opening: str, closing: str, pieces: list[tuple[str, str]]) -> str:
    return f"{opening}{','.join(f'{space}{piece}{space}' for space, piece in pieces)}{closing}"


def _arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(_SPACES, values), max_size=4).map(lambda pieces: _joined("[", "]", pieces))


def _objects(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    members = st.tuples(_NAMES, _SPACES, values).map(lambda member: f"{member[0]}{member[1]}:{member[2]}")
    return st.lists(st.tuples(_SPACES, members), max_size=4).map(lambda pieces: _joined("{", "}", pieces))


VALUES: st.SearchStrategy[str] = st.recursive(_SCALARS, lambda inner: _arrays(inner) | _objects(inner), max_leaves=12)
OBJECTS: st.SearchStrategy[str] = _objects(VALUES)

# Members of the envelope that JSON-RPC does not know, some of them like those that it does.
_UNKNOWN_NAMES = st.sampled_from(["x", "Id", "METHOD", "Params", "Result", "jsonRpc", "_meta", "trace"])
EXTRAS: st.SearchStrategy[list[tuple[str, str]]] = st.lists(st.tuples(_UNKNOWN_NAMES, VALUES), max_size=3)


def nested(depth: int) -> str:
    """A value in that many arrays and objects."""
    return '{"a":[' * (depth // 2) + "null" + "]}" * (depth // 2)


@st.composite
def envelopes(draw: st.DrawFn, *members: tuple[str, str]) -> bytes:
    """Write a message with these members and unknown ones, in any order, with any spaces."""
    order = draw(st.permutations([("jsonrpc", '"2.0"'), *members, *draw(EXTRAS)]))
    pieces = [(draw(_SPACES), f'"{name}":{draw(_SPACES)}{text}') for name, text in order]
    return _joined("{", "}", pieces).encode()
