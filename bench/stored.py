"""Stored sessions: a store with very many of them, as a gateway would have left it.

Written through the store itself, so that records, indexes and file are exactly what a gateway finds at its start. The
sessions are alike but not the same: ids are random, and their last activity is spread over the past hours.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import msgspec
import trio

from actors.ids import SESSION_ID_RANDOM_BYTES, SessionId, mint_session_id
from actors.snapshots import to_snapshot
from actors.state import Handshake, LogState, Metrics, SessionState
from bench.script import PROTOCOL_VERSION, Script
from persistence.opening import open_store
from persistence.records import Batch

BATCH_SESSIONS = 1000  # as many as a busy gateway commits at once
_SPREAD_SECONDS = 6 * 3600.0
_TTL_SECONDS = 24 * 3600.0


def make(path: Path, sessions: int, *, server_id: str, on_batch: Callable[[int], None] = lambda _: None) -> SessionId:
    """Make a SQLite store of so many sessions; give the id of the one that was active last.

    Args:
      path: the file; it must not exist.
      sessions: how many; at least one.
      server_id: whose they are.
      on_batch: told how many sessions were written, after each batch.
    """
    states = states_of(sessions, server_id, time.time())
    newest = next(states)
    trio.run(_write, path, newest, states, on_batch)
    return newest.session_id


def states_of(sessions: int, server_id: str, now_unix_s: float) -> Iterator[SessionState]:
    """Give the states of so many open sessions, most recently active first."""
    draw = random.Random(sessions)  # the same ids each time: they guard nothing
    request, result = _handshake()
    for number in range(sessions):
        last_active_unix_s = now_unix_s - _SPREAD_SECONDS * number / sessions
        yield SessionState(
            session_id=mint_session_id(draw.randbytes(SESSION_ID_RANDOM_BYTES)),
            revision=3,
            server_id=server_id,
            created_unix_s=last_active_unix_s - 600.0,
            last_active_unix_s=last_active_unix_s,
            ttl_seconds=_TTL_SECONDS,
            opened=True,
            client_transport="streamable-http",
            upstream_transport="streamable-http",
            handshake=Handshake(request, result, upstream_session_id=draw.randbytes(16).hex(), ready=True),
            log=LogState(epoch=1),
            metrics=Metrics(requests=number % 100, tool_calls=number % 90),
            metadata={"user_agent": "bench/1", "origin": ""},
        )


async def _write(
    path: Path, newest: SessionState, others: Iterator[SessionState], on_batch: Callable[[int], None]
) -> None:
    store = await open_store(f"sqlite:{path}")
    try:
        fence = await store.claim("bench")
        batch = [newest, *islice(others, BATCH_SESSIONS - 1)]
        while batch:
            await store.commit(Batch(fence, snapshots=tuple(map(to_snapshot, batch))))
            on_batch(len(batch))
            batch = list(islice(others, BATCH_SESSIONS))
    finally:
        await store.aclose()


def _handshake() -> tuple[bytes, bytes]:
    """Give what an ordinary client and the scripted upstream say to each other."""
    params = {
        "protocolVersion": PROTOCOL_VERSION,
        "capabilities": {"sampling": {}, "roots": {"listChanged": True}},
        "clientInfo": {"name": "bench-load", "version": "1"},
    }
    request = msgspec.json.encode({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
    return request, Script().answer("POST", "", request).body
