"""What is packed comes back; small, huge and random payloads are left alone; hostile frames cost nothing."""

from __future__ import annotations

import hashlib
import threading

import hypothesis.strategies as st
import pytest
import zstandard
from hypothesis import given

from persistence import compression as compression_module
from persistence.compression import (
    COMPRESS_FROM_BYTES,
    PAYLOAD_BYTES_MAX,
    Compression,
    CompressionBroken,
    DictionaryUnknown,
    decompress,
)
from persistence.dictionary import DICTIONARIES, NEWEST

PAYLOAD = b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}' * 8


@given(st.binary(min_size=1, max_size=40), st.integers(1, 2000), st.sampled_from([1, 3, 19]))
def test_what_is_packed_comes_back(piece: bytes, times: int, level: int) -> None:
    packed = Compression(level).compress(piece * times)
    assert packed is None or decompress(packed) == piece * times


def test_what_would_not_pay_is_left_alone() -> None:
    random = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(100))
    assert Compression().compress(random) is None
    assert Compression().compress(b"a" * (COMPRESS_FROM_BYTES - 1)) is None
    assert Compression().compress(b"a" * COMPRESS_FROM_BYTES) is not None


def test_what_could_not_be_opened_is_not_packed() -> None:
    assert Compression().compress(bytes(PAYLOAD_BYTES_MAX + 1)) is None


def _bomb(size: int) -> bytes:
    return bytes([NEWEST]) + zstandard.ZstdCompressor().compress(bytes(size))


def test_a_few_bytes_cannot_ask_for_a_lot_of_memory() -> None:
    bomb = _bomb(PAYLOAD_BYTES_MAX + 1)
    assert len(bomb) < 10_000
    with pytest.raises(CompressionBroken, match=str(PAYLOAD_BYTES_MAX + 1)):
        decompress(bomb)


def test_without_the_bound_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression_module, "PAYLOAD_BYTES_MAX", 1 << 40)
    assert len(decompress(_bomb(PAYLOAD_BYTES_MAX + 1))) == PAYLOAD_BYTES_MAX + 1


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(PAYLOAD)
    with pytest.raises(CompressionBroken):
        decompress(bytes([NEWEST]) + frame)


@given(st.binary(max_size=60))
def test_foreign_bytes_are_refused(noise: bytes) -> None:
    packed = Compression().compress(PAYLOAD)
    assert packed is not None
    for broken in (bytes([NEWEST]) + noise, packed[:-1], packed + b"\0"):
        with pytest.raises(CompressionBroken):
            decompress(broken)


def test_nothing_is_no_frame() -> None:
    with pytest.raises(CompressionBroken):
        decompress(b"")


def test_a_later_dictionary_is_newer_than_this_version() -> None:
    packed = Compression().compress(PAYLOAD)
    assert packed is not None
    with pytest.raises(DictionaryUnknown):
        decompress(bytes([NEWEST + 1]) + packed[1:])


def test_a_released_dictionary_never_changes() -> None:
    digests = {number: hashlib.sha256(content).hexdigest() for number, content in DICTIONARIES.items()}
    assert digests == {1: "e92a8bfede08f3f0812353de7a0756a430eb6085764ec1611822859a7b1abfe3"}


def test_the_dictionary_is_what_makes_small_records_small() -> None:
    message = (
        b'{"jsonrpc":"2.0","id":"7f","result":{"protocolVersion":"2025-11-25","capabilities":{"logging":{},"tools":'
        b'{"listChanged":true}},"serverInfo":{"name":"weather","version":"2.3.1"},"instructions":"Ask for forecasts."}}'
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
    )
    packed = Compression().compress(message)
    assert packed is not None
    assert len(packed) < len(zstandard.ZstdCompressor(level=19).compress(message)) / 2


@pytest.mark.parametrize("level", [0, -1, 20])
def test_levels_out_of_bounds_are_refused(level: int) -> None:
    with pytest.raises(ValueError, match="level"):
        Compression(level)


def test_one_compression_serves_many_threads() -> None:
    # zstandard's contexts break when two threads use one at once; each thread has its own.
    compression, wrong = Compression(), []

    def work(thread: int) -> None:
        for number in range(200):
            payload = b"%d %d " % (thread, number) * 400
            packed = compression.compress(payload)
            if packed is None or decompress(packed) != payload:
                wrong.append((thread, number))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert wrong == []
