"""Sharing equal bytes: a thousand clients of one program open their sessions with the same words.

Handshakes are a kilobyte for each session, and the same kilobyte for all sessions of one client program with one
server. Pure in effect: what comes out equals what goes in.
"""

from __future__ import annotations

import functools


@functools.lru_cache(maxsize=256)
def shared(data: bytes) -> bytes:
    """Give the bytes; equal ones, as long as they are in use often, as the same object."""
    return data
