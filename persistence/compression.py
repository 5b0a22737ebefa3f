"""Compression of payloads: zstandard with a dictionary, where it pays, and bounded on the way back.

    dictionary number 1 | zstandard frame

- Small payloads stay as they are: below the threshold there is too little to gain.
- Huge ones stay as they are, too: compressing them would hold the store's thread for long. The same bound holds on the
  way back, so that whatever was compressed can be opened, and a few hostile bytes cannot ask for a terabyte: the
  frame has to say how much it holds, before any of it is unpacked.
- What is compressed before it is encrypted gives away, by its length, how alike its parts are. So a record with
  secrets is not compressed at all (`codec.py`); everything else in a record is its own session's.

This is the only file that imports zstandard.
"""

from __future__ import annotations

import threading

import attrs
import zstandard

from persistence.dictionary import DICTIONARIES, NEWEST

COMPRESS_FROM_BYTES = 256
PAYLOAD_BYTES_MAX = 64 << 20

LEVEL = 3  # zstandard's own choice, for what is large enough to gain from it
LEVEL_MAX = 19  # beyond, a context takes more than 100 MB

# With the dictionary, what is left of an ordinary session's record is a hundred bytes. Levels above 0 would make a
# table of codes for these: 4.5 us in place of 1.7, and not a byte less.
_SMALL_BYTES = 4096
_SMALL_LEVEL = -1

_NEWEST = bytes([NEWEST])
_WORTH = 0.9  # of the payload's size: what saves less is not worth unpacking at every load


class CompressionBroken(Exception):
    """This is no frame that was written here, or it would unpack to more than is allowed."""


class DictionaryUnknown(Exception):
    """A newer version packed this, with a dictionary that this one does not have."""


@attrs.frozen
class Compression:
    """How payloads are compressed. Safe to share between threads.

    Args:
      level: zstandard's, for all but small payloads.
    """

    level: int = attrs.field(default=LEVEL, validator=attrs.validators.in_(range(1, LEVEL_MAX + 1)))

    def compress(self, payload: bytes) -> bytes | None:
        """Pack the payload; None where that would not pay."""
        if not COMPRESS_FROM_BYTES <= len(payload) <= PAYLOAD_BYTES_MAX:
            return None
        level = _SMALL_LEVEL if len(payload) < _SMALL_BYTES else self.level
        frame: bytes = _contexts.compressor(level).compress(payload)
        return _NEWEST + frame if len(frame) < len(payload) * _WORTH else None


def decompress(packed: bytes | memoryview) -> bytes:
    """Give the payload of what `compress` gave.

    Raises:
      CompressionBroken, DictionaryUnknown
    """
    if not packed:
        raise CompressionBroken("nothing there")
    number, frame = packed[0], packed[1:]
    if number not in DICTIONARIES:
        raise DictionaryUnknown(f"dictionary {number}, this one knows {NEWEST}")
    try:
        # Asked first: what the frame says is what zstandard would allocate, whatever limit it is given.
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= PAYLOAD_BYTES_MAX:
            raise CompressionBroken(f"a frame of {size} bytes")
        return _contexts.decompressor(number).decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CompressionBroken(str(error)) from error


class _Contexts(threading.local):
    """zstandard's contexts: costly to make, and not to be used by two threads at once."""

    def __init__(self) -> None:
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self._decompressors: dict[int, zstandard.ZstdDecompressor] = {}

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        compressor = self._compressors.get(level)
        if compressor is None:
            dictionary = _dictionary(NEWEST)
            dictionary.precompute_compress(level=level)
            # No checksum of its own: the envelope has one.
            compressor = zstandard.ZstdCompressor(
                level=level, dict_data=dictionary, write_checksum=False, write_content_size=True
            )
            self._compressors[level] = compressor
        return compressor

    def decompressor(self, number: int) -> zstandard.ZstdDecompressor:
        decompressor = self._decompressors.get(number)
        if decompressor is None:
            decompressor = self._decompressors[number] = zstandard.ZstdDecompressor(dict_data=_dictionary(number))
        return decompressor


def _dictionary(number: int) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(DICTIONARIES[number], dict_type=zstandard.DICT_TYPE_RAWCONTENT)


_contexts = _Contexts()
