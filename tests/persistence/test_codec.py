"""Records come back as they were sealed, or not at all."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import attrs
import hypothesis.strategies as st
import msgpack
import pytest
from hypothesis import given
from msgspec.structs import replace

from persistence import codec as codec_module
from persistence.codec import Codec, Unencodable
from persistence.records import LogEntry, Snapshot, SnapshotHeader
from persistence.store import SnapshotCorrupt, SnapshotTooNew
from tests.persistence.making import entry, snapshot

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
times = st.floats(allow_nan=False) | st.integers(-(2**40), 2**40)
counts = st.integers(0, 2**63 - 1)
headers = st.builds(SnapshotHeader, texts, counts, texts, texts, texts, times, times)
scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts | st.binary()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts | counts, inner, max_size=4),
    max_leaves=12,
)
snapshots = st.builds(Snapshot, headers, st.dictionaries(texts, values, max_size=5))
entries = st.builds(LogEntry, texts, counts, counts, counts, times, st.binary(max_size=200))


@given(snapshots)
def test_a_snapshot_comes_back_as_it_was_sealed(snapshot: Snapshot) -> None:
    assert Codec().open_snapshot(snapshot.header, Codec().seal_snapshot(snapshot)) == snapshot


@given(entries)
def test_an_entry_comes_back_as_it_was_sealed(entry: LogEntry) -> None:
    assert Codec().open_entry(attrs.evolve(entry, body=Codec().seal_entry(entry))) == entry


@given(snapshots, st.data())
def test_any_flipped_bit_is_noticed(snapshot: Snapshot, data: st.DataObject) -> None:
    sealed = Codec().seal_snapshot(snapshot)
    damaged = _flip(sealed, data.draw(st.integers(0, len(sealed) * 8 - 1)))
    with pytest.raises(SnapshotCorrupt):
        Codec().open_snapshot(snapshot.header, damaged)


@given(entries, st.data())
def test_any_flipped_bit_of_an_entry_is_noticed(entry: LogEntry, data: st.DataObject) -> None:
    sealed = Codec().seal_entry(entry)
    damaged = _flip(sealed, data.draw(st.integers(0, len(sealed) * 8 - 1)))
    with pytest.raises(SnapshotCorrupt):
        Codec().open_entry(attrs.evolve(entry, body=damaged))


def test_without_the_checksum_flipped_bits_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec_module, "_checksum", lambda about, head, payload: 0)
    sealed = Codec().seal_entry(entry(body=b"abc"))
    damaged = attrs.evolve(entry(), body=_flip(sealed, (len(sealed) - 1) * 8))
    assert Codec().open_entry(damaged).body == b"abb"


@given(snapshots, headers)
def test_a_record_fits_its_own_header_only(snapshot: Snapshot, other: SnapshotHeader) -> None:
    sealed = Codec().seal_snapshot(snapshot)
    if other != snapshot.header:
        with pytest.raises(SnapshotCorrupt):
            Codec().open_snapshot(other, sealed)


@pytest.mark.parametrize(
    "change",
    [{"session_id": "t"}, {"revision": 2}, {"server_id": "x"}, {"owner": "x"}, {"failure": "x"}]
    + [{"last_active_unix_s": 1.0}, {"expires_unix_s": 1.0}],
)
def test_each_header_column_is_bound_to_its_record(change: dict[str, Any]) -> None:
    sealed = Codec().seal_snapshot(snapshot())
    with pytest.raises(SnapshotCorrupt):
        Codec().open_snapshot(replace(snapshot().header, **change), sealed)


@pytest.mark.parametrize("change", [{"session_id": "t"}, {"sequence": 2}, {"stream": 1}, {"offset": 2}])
def test_an_entry_is_bound_to_its_place(change: dict[str, Any]) -> None:
    sealed = attrs.evolve(entry(), body=Codec().seal_entry(entry()))
    with pytest.raises(SnapshotCorrupt):
        Codec().open_entry(attrs.evolve(sealed, **change))


def test_a_snapshot_is_not_taken_for_an_entry() -> None:
    with pytest.raises(SnapshotCorrupt):
        Codec().open_entry(attrs.evolve(entry(), body=Codec().seal_snapshot(snapshot())))


@given(st.binary(max_size=100))
def test_foreign_bytes_are_corrupt(record: bytes) -> None:
    with pytest.raises(SnapshotCorrupt):
        Codec().open_snapshot(snapshot().header, record)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xdf\xff\xff\xff\xff",  # a map of 4 G pairs
        b"\x81\xa1a\xc6\xff\xff\xff\xff",  # 4 GB of bytes
        b"\x81\xa1a" + b"\x91" * 100_000 + b"\xc0",  # lists in lists
        b"\x81\xa1a\xc7\x05\x01hello",  # an extension type
        b"\x81\xa1a\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\x81\x90\xc0",  # a list as a key
        b"\x81\xa1\xff\xc0",  # not UTF-8
        b"\x80\x80",  # more than one value
        b"\x90",  # no map
        b"\xc1",  # never used by msgpack
    ],
)
def test_a_hostile_payload_is_corrupt_and_costs_little(payload: bytes) -> None:
    with pytest.raises(SnapshotCorrupt):
        Codec().open_snapshot(snapshot().header, _sealed(payload))


@pytest.mark.parametrize("head", [b"OL\x02\x00\x00\x01", b"OL\x01\x01\x00\x01", b"OL\x01\x80\x00\x01"])
def test_an_envelope_of_a_later_kind_is_too_new(head: bytes) -> None:
    with pytest.raises(SnapshotTooNew):
        Codec().open_snapshot(snapshot().header, _sealed(b"\x80", head + bytes(4)))


def test_a_record_with_a_key_is_too_new_for_a_version_without() -> None:
    with pytest.raises(SnapshotTooNew):
        Codec().open_snapshot(snapshot().header, _sealed(b"\x80", b"OL\x01\x00\x00\x01\x00\x00\x00\x07"))


def test_a_newer_schema_version_is_too_new() -> None:
    sealed = Codec(version=3, upcasters={}).seal_snapshot(snapshot())
    with pytest.raises(SnapshotTooNew, match="version 3"):
        Codec(version=2).open_snapshot(snapshot().header, sealed)


def test_damage_is_told_from_novelty() -> None:
    # A flipped bit in the version would look like a newer version, whose record would be kept and wait for ever.
    sealed = bytearray(Codec().seal_snapshot(snapshot()))
    sealed[5] ^= 0x40
    with pytest.raises(SnapshotCorrupt):
        Codec().open_snapshot(snapshot().header, bytes(sealed))


def test_upcasters_are_applied_one_after_the_other() -> None:
    sealed = Codec(version=1).seal_snapshot(snapshot(fields={"trace": ["1"]}))
    steps = {
        1: lambda fields: {"trace": [*fields["trace"], "2"]},
        2: lambda fields: {"trace": [*fields["trace"], "3"]},
    }
    codec = Codec(version=3, upcasters=steps)
    assert codec.open_snapshot(snapshot().header, sealed).fields == {"trace": ["1", "2", "3"]}


def test_a_record_that_an_upcaster_fails_on_is_left_alone() -> None:
    sealed = Codec(version=1).seal_snapshot(snapshot(fields={}))
    for upcasters in ({1: lambda fields: fields["missing"]}, {}):
        with pytest.raises(SnapshotTooNew):
            Codec(version=2, upcasters=upcasters).open_snapshot(snapshot().header, sealed)


@pytest.mark.parametrize("fields", [{"x": object()}, {"x": 2**64}, {"x": {1}}, {"x": "\ud800"}])
def test_what_msgpack_has_no_word_for_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(Unencodable, match="session s"):
        Codec().seal_snapshot(snapshot(fields=fields))


def test_a_record_of_version_1_stays_readable() -> None:
    # The bytes that the first release wrote: whatever changes, they must open.
    record = bytes.fromhex("4f4c0100000100000000") + struct.pack(">I", GOLDEN_CHECKSUM) + GOLDEN_PAYLOAD
    assert Codec(version=1).open_snapshot(snapshot().header, record) == snapshot()
    assert Codec(version=1).seal_snapshot(snapshot()) == record


GOLDEN_PAYLOAD = b"\x81\xa8revision\x01"
GOLDEN_CHECKSUM = 0x032CBCC9


def _flip(record: bytes, bit: int) -> bytes:
    flipped = bytearray(record)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def _sealed(payload: bytes, head: bytes = b"OL\x01\x00\x00\x01\x00\x00\x00\x00") -> bytes:
    """Seal any payload as the codec would, for the header of `snapshot()`."""
    about = msgpack.packb(("snapshot", "s", 1, "linear", "owner-digest", "", 1000.5, 2000.25))
    return head + struct.pack(">I", zlib.crc32(about + head + payload)) + payload
