"""Compression of payloads: zstandard, where it pays, and bounded on the way back.

- Small payloads stay as they are: below the threshold a frame's own bytes eat what it saves.
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

# Measured on sessions' records: 2 us for 500 bytes, which is less than writing the bytes that it saves (they halve).
COMPRESS_FROM_BYTES = 512
PAYLOAD_BYTES_MAX = 64 << 20

LEVEL = 3  # zstandard's own choice; 9 saves some 3 % more of a record, for twice the time
LEVEL_MAX = 19  # beyond, a context takes more than 100 MB

_WORTH = 0.9  # of the payload's size: what saves less is not worth unpacking at every load


class CompressionBroken(Exception):
    """This is no frame that was written here, or it would unpack to more than is allowed."""


@attrs.frozen
class Compression:
    """How payloads are compressed. Safe to share between threads."""

    level: int = attrs.field(default=LEVEL, validator=attrs.validators.in_(range(1, LEVEL_MAX + 1)))

    def compress(self, payload: bytes) -> bytes | None:
        """Give the payload as one frame; None where that would not pay."""
        if not COMPRESS_FROM_BYTES <= len(payload) <= PAYLOAD_BYTES_MAX:
            return None
        frame: bytes = _contexts.compressor(self.level).compress(payload)
        return frame if len(frame) < len(payload) * _WORTH else None


def decompress(frame: bytes | memoryview) -> bytes:
    """Give the payload of a frame.

    Raises:
      CompressionBroken
    """
    try:
        # Asked first: what the frame says is what zstandard would allocate, whatever limit it is given.
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= PAYLOAD_BYTES_MAX:
            raise CompressionBroken(f"a frame of {size} bytes")
        return _contexts.decompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CompressionBroken(str(error)) from error


class _Contexts(threading.local):
    """zstandard's contexts: costly to make, and not to be used by two threads at once."""

    def __init__(self) -> None:
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}
        self._decompressor: zstandard.ZstdDecompressor | None = None

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        compressor = self._compressors.get(level)
        if compressor is None:
            # No checksum of its own: the envelope has one.
            compressor = zstandard.ZstdCompressor(level=level, write_checksum=False, write_content_size=True)
            self._compressors[level] = compressor
        return compressor

    def decompressor(self) -> zstandard.ZstdDecompressor:
        if self._decompressor is None:
            self._decompressor = zstandard.ZstdDecompressor()
        return self._decompressor


_contexts = _Contexts()
