"""Sharing what is equal: a thousand clients of one program open their sessions with the same words.

Handshakes are a kilobyte for each session, and the same kilobyte for all sessions of one client program with one
server. Pure in effect: what comes out equals what goes in.
"""

from __future__ import annotations

import functools

from actors.ids import Principal


@functools.lru_cache(maxsize=256)
def shared(data: bytes) -> bytes:
    """Give the bytes; equal ones, as long as they are in use often, as the same object."""
    return data


@functools.lru_cache(maxsize=1024)
def shared_principal(issuer: str, client: str, subject: str) -> Principal:
    """Give the principal of these names; the same object as long as it is asked for often, and digested once."""
    return Principal(issuer, client, subject)
