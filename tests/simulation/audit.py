"""The audit: a stream read once more from its start must show what its client heard, under the same ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing

import trio

from actors.event_log import CursorLost
from actors.handle import CommandRejected, SessionUnavailable
from actors.ids import EventId, SessionId
from actors.registry import SessionNotFound
from actors.runtime import Runtime
from tests.simulation.history import Heard, SessionHistory
from tests.simulation.sim_client import principal_of

AUDIT_SECONDS = 30.0


async def replay_again(runtime: Runtime, history: SessionHistory, heard: Heard, *, may_be_lost: bool) -> list[str]:
    """Read a stream from its start to what its client heard last, and name all differences.

    Args:
      may_be_lost: the beginning of the stream is no longer kept.
    """
    replayed: dict[str, bytes] = {}
    try:
        with trio.move_on_after(AUDIT_SECONDS):
            handle = runtime.session(history.session_id, principal=principal_of(history.name))
            async with aclosing(handle.events(stream=heard.stream)) as events:
                async for event in events:
                    replayed[event.id] = event.message.raw
                    if EventId.read(SessionId(history.session_id), event.id).offset >= heard.offset:
                        break
    except CursorLost as lost:
        return [] if may_be_lost else [f"stream {heard.stream} cannot be replayed: {lost}"]
    except (SessionNotFound, SessionUnavailable, CommandRejected) as error:
        return [f"stream {heard.stream} cannot be replayed: {error!r}"]
    return list(_differences(heard, replayed, may_be_lost=may_be_lost))


def _differences(heard: Heard, replayed: dict[str, bytes], *, may_be_lost: bool) -> Iterator[str]:
    first = next(iter(replayed), "")
    begun = not may_be_lost
    for shown in heard.events:
        begun = begun or shown.id == first
        if begun and replayed.get(shown.id) != shown.body:
            yield f"event {shown.id} was shown as {shown.body!r}, and is replayed as {replayed.get(shown.id)!r}"
    if not begun:
        yield f"stream {heard.stream} replays nothing of what was heard"
