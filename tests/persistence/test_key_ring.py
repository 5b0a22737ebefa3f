"""Keys are read as they are written, told apart by their ids, and shown nowhere."""

from __future__ import annotations

import attrs
import pytest

from persistence.key_ring import Key, KeyRing, KeyRingInvalid, new_key


def test_a_new_key_can_be_read_and_is_never_the_same() -> None:
    first, second = new_key(), new_key()

    assert len(Key.read(first).secret) == 32
    assert Key.read(first) == Key.read(f"{first}=")
    assert Key.read(first) != Key.read(second)


def test_the_first_key_is_the_newest_and_all_are_found_by_id() -> None:
    texts = [new_key() for _ in range(3)]
    ring = KeyRing.read(f" {texts[0]},{texts[1]} ,\n{texts[2]},")

    assert ring.keys == tuple(map(Key.read, texts))
    assert ring.newest == Key.read(texts[0])
    assert [ring.find(key.id) for key in ring.keys] == list(ring.keys)
    assert ring.find(0) is None


def test_a_key_id_is_the_key_s_own_for_ever() -> None:
    # Records name their key by this number: another way of deriving it would lose them all.
    assert Key(bytes(range(32))).id == 0xE93DBD6D


@pytest.mark.parametrize("text", ["", " , ", "hunter2", "A" * 42, "A" * 44, "A" * 42 + "!", "A" * 43 + "=="])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(KeyRingInvalid):
        KeyRing.read(text)


def test_a_key_given_twice_is_refused() -> None:
    text = new_key()
    with pytest.raises(KeyRingInvalid, match="twice"):
        KeyRing.read(f"{text},{text}=")


def test_neither_errors_nor_repr_repeat_a_key() -> None:
    good, bad = new_key(), new_key()[:-1]
    with pytest.raises(KeyRingInvalid, match="key 2") as raised:
        KeyRing.read(f"{good},{bad}")

    shown = f"{raised.value!r} {raised.value.__cause__!r} {KeyRing.read(good)!r}"
    assert good not in shown
    assert bad not in shown
    assert repr(Key.read(good).secret) not in shown
    assert [field.name for field in attrs.fields(Key) if field.repr is not False] == ["id"]
