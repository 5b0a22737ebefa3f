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
from msgspec.structs import astuple, replace

from persistence import envelope
from persistence.codec import Codec, KeyMissing, SecretsNeedKey, Unencodable
from persistence.envelope import HEAD_BYTES
from persistence.records import LogEntry, Snapshot, SnapshotHeader
from persistence.store import SnapshotCorrupt, SnapshotTooNew, StoreUnavailable
from tests.persistence.making import entry, snapshot
from tests.persistence.sealed_codecs import CODECS, NEW_KEY, OLD_KEY, OTHER_KEY, codec

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
bodies = st.binary(max_size=200) | st.builds(lambda piece, times: piece * times, st.binary(min_size=9), st.just(40))
entries = st.builds(LogEntry, texts, counts, counts, counts, times, bodies)
codecs = st.sampled_from(list(CODECS.values()))


@given(codecs, codecs, snapshots)
def test_a_snapshot_comes_back_as_it_was_sealed(writer: Codec, reader: Codec, snapshot: Snapshot) -> None:
    # Whatever a codec itself writes, it opens all that it has a key for.
    reader = reader if reader.sealing or not writer.sealing else writer
    assert reader.open_snapshot(snapshot.header, writer.seal_snapshot(snapshot)) == snapshot


@given(codecs, entries)
def test_an_entry_comes_back_as_it_was_sealed(codec: Codec, entry: LogEntry) -> None:
    assert codec.open_entry(attrs.evolve(entry, body=codec.seal_entry(entry))) == entry


@given(codecs, snapshots, st.data())
def test_any_flipped_bit_is_noticed(codec: Codec, snapshot: Snapshot, data: st.DataObject) -> None:
    sealed = codec.seal_snapshot(snapshot)
    damaged = _flip(sealed, data.draw(st.integers(0, len(sealed) * 8 - 1)))
    with pytest.raises(SnapshotCorrupt):
        codec.open_snapshot(snapshot.header, damaged)


@given(codecs, entries, st.data())
def test_any_flipped_bit_of_an_entry_is_noticed(codec: Codec, entry: LogEntry, data: st.DataObject) -> None:
    sealed = codec.seal_entry(entry)
    damaged = _flip(sealed, data.draw(st.integers(0, len(sealed) * 8 - 1)))
    with pytest.raises(SnapshotCorrupt):
        codec.open_entry(attrs.evolve(entry, body=damaged))


def test_without_the_checksum_flipped_bits_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "_checksum", lambda about, head, payload: 0)
    sealed = Codec().seal_entry(entry(body=b"abc"))
    damaged = attrs.evolve(entry(), body=_flip(sealed, (len(sealed) - 1) * 8))
    assert Codec().open_entry(damaged).body == b"abb"


@given(codecs, snapshots, headers)
def test_a_record_fits_its_own_header_only(codec: Codec, snapshot: Snapshot, other: SnapshotHeader) -> None:
    sealed = codec.seal_snapshot(snapshot)
    if other != snapshot.header:
        with pytest.raises(SnapshotCorrupt):
            codec.open_snapshot(other, sealed)


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


@pytest.mark.parametrize(
    "head",
    [
        b"OL\x02\x00\x00\x01\x00\x00\x00\x00",  # another envelope
        b"OL\x01\x80\x00\x01\x00\x00\x00\x00",  # an unknown flag
        b"OL\x01\x00\x00\x01\x00\x00\x00\x07",  # a key id, and not encrypted
        b"OL\x01\x02\x00\x01\x00\x00\x00\x00",  # encrypted, and no key id
    ],
)
def test_an_envelope_of_a_later_kind_is_too_new(head: bytes) -> None:
    with pytest.raises(SnapshotTooNew):
        Codec().open_snapshot(snapshot().header, _sealed(b"\x80", head))
    assert Codec().obstacle(head) == "too_new"


def test_a_payload_that_does_not_unpack_is_corrupt_and_one_of_a_later_dictionary_too_new() -> None:
    head = b"OL\x01\x01\x00\x01\x00\x00\x00\x00"
    with pytest.raises(SnapshotCorrupt):
        Codec().open_snapshot(snapshot().header, _sealed(b"\x01no frame", head))
    with pytest.raises(SnapshotTooNew):
        Codec().open_snapshot(snapshot().header, _sealed(b"\x7fa frame, perhaps", head))


# ---- keys ----


@given(snapshots, entries)
def test_without_its_key_a_record_never_opens(snapshot: Snapshot, entry: LogEntry) -> None:
    sealed, body = codec(OLD_KEY).seal_snapshot(snapshot), codec(OLD_KEY).seal_entry(entry)
    for stranger in (codec(OTHER_KEY, NEW_KEY), codec()):
        with pytest.raises(KeyMissing) as raised:
            stranger.open_snapshot(snapshot.header, sealed)
        assert raised.value.key_id == OLD_KEY.id
        assert stranger.obstacle(sealed[:HEAD_BYTES]) == "key_missing"
        with pytest.raises(StoreUnavailable, match=f"{OLD_KEY.id:08x}"):
            stranger.open_entry(attrs.evolve(entry, body=body))
        with pytest.raises(KeyMissing):
            stranger.reseal_snapshot(snapshot.header, sealed)


def test_a_key_missing_is_a_reason_to_leave_a_record_alone() -> None:
    # What happens to a newer record, actors know already: unavailable, not reaped.
    assert issubclass(KeyMissing, SnapshotTooNew)


def test_a_wrong_key_by_the_right_name_does_not_open() -> None:
    sealed = codec(OLD_KEY).seal_snapshot(snapshot())
    impostor = attrs.evolve(OTHER_KEY)
    object.__setattr__(impostor, "id", OLD_KEY.id)
    with pytest.raises(SnapshotCorrupt, match="not sealed"):
        codec(impostor).open_snapshot(snapshot().header, sealed)


def test_the_newest_key_writes_and_old_ones_read() -> None:
    old, both, new = codec(OLD_KEY), codec(NEW_KEY, OLD_KEY), codec(NEW_KEY)
    header = snapshot().header
    assert both.open_snapshot(header, old.seal_snapshot(snapshot())) == snapshot()
    assert new.open_snapshot(header, both.seal_snapshot(snapshot())) == snapshot()
    with pytest.raises(KeyMissing):
        old.open_snapshot(header, both.seal_snapshot(snapshot()))


def test_records_from_before_there_was_a_key_are_read() -> None:
    assert codec(NEW_KEY).open_snapshot(snapshot().header, Codec().seal_snapshot(snapshot())) == snapshot()


@given(codecs, snapshots, entries)
def test_a_resealed_record_holds_the_same_under_the_newest_key(
    before: Codec, snapshot: Snapshot, entry: LogEntry
) -> None:
    ring, new = codec(NEW_KEY, OLD_KEY), codec(NEW_KEY)
    resealed = ring.reseal_snapshot(snapshot.header, before.seal_snapshot(snapshot))
    assert new.open_snapshot(snapshot.header, resealed) == snapshot
    body = ring.reseal_entry(attrs.evolve(entry, body=before.seal_entry(entry)))
    assert new.open_entry(attrs.evolve(entry, body=body)) == entry


def test_a_record_of_a_newer_schema_can_be_resealed_untouched() -> None:
    newer = Codec(version=9).seal_snapshot(snapshot())
    resealed = codec(NEW_KEY).reseal_snapshot(snapshot().header, newer)
    with pytest.raises(SnapshotTooNew, match="version 9"):
        codec(NEW_KEY).open_snapshot(snapshot().header, resealed)
    upcasters = dict.fromkeys(range(9), lambda fields: fields)
    assert (
        Codec(version=9, upcasters=upcasters, sealing=codec(NEW_KEY).sealing).open_snapshot(snapshot().header, resealed)
        == snapshot()
    )


@pytest.mark.parametrize("change", [{"session_id": "t"}, {"owner": "x"}, {"revision": 2}])
def test_a_forged_copy_does_not_open_elsewhere(change: dict[str, Any]) -> None:
    # The checksum is no secret: whoever may write into the store makes one that fits. The seal is what refuses.
    elsewhere = replace(snapshot().header, **change)
    forged = _with_checksum_for(elsewhere, codec(OLD_KEY).seal_snapshot(snapshot()))
    with pytest.raises(SnapshotCorrupt, match="not sealed"):
        codec(OLD_KEY).open_snapshot(elsewhere, forged)


@pytest.mark.parametrize("change", [{"session_id": "t"}, {"owner": "x"}, {"revision": 2}])
def test_without_associated_data_a_forged_copy_opens(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persistence.codec._bound_to", lambda about, head: b"")
    elsewhere = replace(snapshot().header, **change)
    forged = _with_checksum_for(elsewhere, codec(OLD_KEY).seal_snapshot(snapshot()))
    assert codec(OLD_KEY).open_snapshot(elsewhere, forged).fields == snapshot().fields


def test_a_forged_head_does_not_open() -> None:
    sealed = codec(OLD_KEY).seal_snapshot(snapshot())
    forged = _with_checksum_for(snapshot().header, sealed[:3] + b"\x03" + sealed[4:])  # "compressed"
    with pytest.raises(SnapshotCorrupt, match="not sealed"):
        codec(OLD_KEY).open_snapshot(snapshot().header, forged)


def test_sealed_bytes_do_not_show_what_they_hold() -> None:
    held = snapshot(fields={"token": "hunter2-hunter2"})
    assert b"hunter2" in Codec().seal_snapshot(held)
    assert b"hunter2" not in codec(OLD_KEY).seal_snapshot(held)


# ---- secrets ----


def test_secrets_are_refused_without_a_key_and_the_message_says_what_to_do() -> None:
    with pytest.raises(SecretsNeedKey, match="outlast keygen") as raised:
        Codec().seal_snapshot(snapshot(fields={"secrets": {"authorization": "hunter2"}}))
    assert "hunter2" not in str(raised.value)
    with pytest.raises(SecretsNeedKey):
        codec(compress=True).check_secrets()
    assert Codec().seal_snapshot(snapshot(fields={"secrets": {}}))


def test_secrets_are_kept_with_a_key_or_where_it_was_allowed() -> None:
    held = snapshot(fields={"secrets": {"authorization": "hunter2"}})
    for keeper in (codec(OLD_KEY), codec(secrets_in_clear=True)):
        keeper.check_secrets()
        assert keeper.open_snapshot(held.header, keeper.seal_snapshot(held)) == held


def test_a_record_with_secrets_is_not_compressed() -> None:
    # Its length would tell whether a guess that a client had stored beside them is right.
    def length(**fields: object) -> int:
        return len(codec(OLD_KEY, compress=True).seal_snapshot(snapshot(fields={"guess": "hunter2" * 99, **fields})))

    assert length(secrets={"a": "hunter2"}) == length(secrets={"a": "opensSa"})
    assert length(other={"a": "hunter2" * 20}) < length(other={"a": "0m4Zk8Qx1c7VbR5t9yNp" * 7})


# ---- versions ----


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


def test_what_an_upcaster_stumbles_over_is_not_told() -> None:
    sealed = Codec(version=1).seal_snapshot(snapshot(fields={"port": "hunter2"}))
    with pytest.raises(SnapshotTooNew, match="ValueError") as raised:
        Codec(version=2, upcasters={1: lambda fields: {"port": int(fields["port"])}}).open_snapshot(
            snapshot().header, sealed
        )
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("fields", [{"x": object()}, {"x": 2**64}, {"x": {1}}, {"x": "\ud800"}])
def test_what_msgpack_has_no_word_for_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(Unencodable, match="session s"):
        Codec().seal_snapshot(snapshot(fields=fields))


def test_a_record_of_version_1_stays_readable() -> None:
    # The bytes that the first release wrote: whatever changes, they must open.
    record = bytes.fromhex("4f4c0100000100000000") + struct.pack(">I", GOLDEN_CHECKSUM) + GOLDEN_PAYLOAD
    assert Codec(version=1).open_snapshot(snapshot().header, record) == snapshot()
    assert Codec(version=1).seal_snapshot(snapshot()) == record


@given(headers)
def test_the_place_that_a_record_is_bound_to_is_written_as_msgpack_writes_it(header: SnapshotHeader) -> None:
    # Of old, and by whoever reads the format from the documents.
    header = replace(
        header,
        last_active_unix_s=header.last_active_unix_s + 0.0,
        expires_unix_s=header.expires_unix_s + 0.0,
    )
    record = Codec().seal_snapshot(Snapshot(header, {}))
    assert _with_checksum_for(header, record) == record


GOLDEN_PAYLOAD = b"\x81\xa8revision\x01"
GOLDEN_CHECKSUM = 0x032CBCC9


def _with_checksum_for(header: SnapshotHeader, record: bytes) -> bytes:
    """Make the checksum fit another header, as anybody can."""
    about = msgpack.packb(("snapshot", *astuple(header)))
    checksum = zlib.crc32(record[14:], zlib.crc32(record[:10], zlib.crc32(about)))
    return record[:10] + struct.pack(">I", checksum) + record[14:]


def _flip(record: bytes, bit: int) -> bytes:
    flipped = bytearray(record)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def _sealed(payload: bytes, head: bytes = b"OL\x01\x00\x00\x01\x00\x00\x00\x00") -> bytes:
    """Seal any payload as the codec would, for the header of `snapshot()`."""
    about = msgpack.packb(("snapshot", "s", 1, "linear", "owner-digest", "", 1000.5, 2000.25))
    return head + struct.pack(">I", zlib.crc32(about + head + payload)) + payload
