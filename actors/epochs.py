"""Epochs: which incarnation of a session's log gave an event its id. Pure.

A client may have been told of events that the next process does not find: those of an outage that was bridged in
memory (`degrade`), or those that a Redis lost together with its gateway. The log goes on with other events at the same
offsets, and the same id must not name them: who comes back with it would go on behind an event that it never got. So,
over such a store, each process logs under an epoch of its own.

What an older incarnation had made durable keeps its ids: a stream remembers up to which offset it had come when the
epoch changed. So a cursor is good if its offset was logged under its epoch, whenever that was.

An epoch is not an event: it follows from the record and the process, is kept with the next event, and nothing is
written for sessions that only are restored.
"""

from __future__ import annotations

import attrs
from msgspec.structs import replace

from actors.ids import STANDALONE_STREAM, EventId
from actors.state import SessionState, Stream

# Epochs in which a stream has grown, one for each start of a process at most. Cursors of before are lost, as are those
# that fell off the log.
FORMER_EPOCHS_MAX = 32


def under_epoch(state: SessionState, epoch: int) -> SessionState:
    """Give a state whose log goes on under this epoch; as it is, if it does already."""
    former = state.log.epoch
    if former == epoch:
        return state
    streams = {stream.id: _remembering(stream, former) for stream in state.streams.values()}
    return replace(state, streams=streams or state.streams, log=attrs.evolve(state.log, epoch=epoch))


def epoch_at(stream: Stream, offset: int, epoch: int) -> int:
    """Give the epoch under which a stream's event at this offset was logged.

    Args:
      epoch: the log's present one.
    """
    for former, last_offset in stream.former_epochs:
        if offset <= last_offset:
            return former
    return epoch


def is_of(cursor: EventId, stream: Stream, epoch: int) -> bool:
    """Say whether an event id is one that this stream gave out, as far as epochs tell.

    The start of the session's own stream is the same under any epoch: nothing came before it. That of another stream is
    not: the stream itself may be another call's.
    """
    if cursor.stream == STANDALONE_STREAM and cursor.offset == 0:
        return True
    return cursor.epoch == epoch_at(stream, cursor.offset, epoch)


def _remembering(stream: Stream, epoch: int) -> Stream:
    reached = stream.former_epochs[-1][1] if stream.former_epochs else -1
    if stream.last_offset <= reached or (stream.id == STANDALONE_STREAM and not stream.last_offset):
        return stream  # nothing was given out under that epoch
    former = (*stream.former_epochs, (epoch, stream.last_offset))
    return attrs.evolve(stream, former_epochs=former[-FORMER_EPOCHS_MAX:])
