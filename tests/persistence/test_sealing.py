"""Nonces never come twice under one subkey, and what is sealed opens in its own place only."""

from __future__ import annotations

import threading

import hypothesis.strategies as st
import pytest
from hypothesis import given

from persistence import sealing as sealing_module
from persistence.key_ring import KeyRing
from persistence.sealing import SEALING_BYTES, SealBroken, Sealing
from tests.persistence.sealed_codecs import NEW_KEY, OLD_KEY, OTHER_KEY

_SALT = slice(0, 16)
_NONCE = slice(16, 28)


def sealing(**options: int) -> Sealing:
    return Sealing(KeyRing((OLD_KEY,)), **options)


@given(st.binary(max_size=100), st.binary(max_size=30), st.binary(max_size=30))
def test_what_is_sealed_opens_in_its_own_place_only(payload: bytes, about: bytes, other: bytes) -> None:
    sealed = sealing().seal(payload, about)
    assert sealing().open(OLD_KEY.id, sealed, about) == payload
    assert len(sealed) == len(payload) + SEALING_BYTES
    if other != about:
        with pytest.raises(SealBroken):
            sealing().open(OLD_KEY.id, sealed, other)


@given(st.binary(max_size=60), st.data())
def test_any_flipped_bit_breaks_the_seal(payload: bytes, data: st.DataObject) -> None:
    sealed = bytearray(sealing().seal(payload, b"place"))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(SealBroken):
        sealing().open(OLD_KEY.id, bytes(sealed), b"place")


@pytest.mark.parametrize("length", [0, 16, SEALING_BYTES - 1])
def test_too_few_bytes_are_no_seal(length: int) -> None:
    with pytest.raises(SealBroken):
        sealing().open(OLD_KEY.id, bytes(length), b"place")


def test_a_key_that_is_not_there_is_asked_for_by_mistake() -> None:
    assert not sealing().has(OTHER_KEY.id)
    with pytest.raises(LookupError):
        sealing().open(OTHER_KEY.id, bytes(99), b"place")


def test_a_nonce_never_comes_twice_under_one_subkey() -> None:
    # The counter alone makes it so: the random bits are taken off here.
    one = sealing()
    sealed: list[bytes] = []

    def work() -> None:
        sealed.extend(one.seal(b"", b"") for _ in range(500))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(record[_SALT], record[_NONCE][:8]) for record in sealed}) == 2000


def test_each_start_of_a_process_has_a_subkey_of_its_own() -> None:
    # A store that was restored from a backup is written by another process at the same revisions: with the same
    # counter, and yet not under the same key.
    first, second = sealing().seal(b"", b""), sealing().seal(b"", b"")
    assert first[_NONCE][:8] == second[_NONCE][:8]
    assert first[_SALT] != second[_SALT]


def test_one_process_twice_from_one_image_still_differs_by_chance() -> None:
    assert len({sealing().seal(b"", b"")[_NONCE][8:] for _ in range(8)}) > 1


def test_a_subkey_is_left_before_its_nonces_could_run_out() -> None:
    one = sealing(subkey_records_max=3)
    records = [one.seal(b"x", b"place") for _ in range(7)]
    assert [len({record[_SALT] for record in records[:n]}) for n in (3, 4, 6, 7)] == [1, 2, 2, 3]
    assert {one.open(OLD_KEY.id, record, b"place") for record in records} == {b"x"}


def test_subkeys_of_many_former_processes_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing_module, "SUBKEYS_MAX", 2)
    records = [sealing().seal(b"%d" % number, b"place") for number in range(5)]
    reader = sealing()
    for _ in range(2):
        assert [reader.open(OLD_KEY.id, record, b"place") for record in records] == [b"0", b"1", b"2", b"3", b"4"]
    assert reader._cipher.cache_info().currsize == 2


def test_a_repr_names_keys_by_their_ids() -> None:
    shown = repr(Sealing(KeyRing((NEW_KEY, OLD_KEY))))
    assert shown == f"<Sealing with {NEW_KEY.id:08x}, {OLD_KEY.id:08x}>"
