"""How much of a session's event log is kept: so many events, so many bytes. Pure.

Bytes are counted in segments, not by event: a segment is a sixteenth of what may be kept, and the oldest goes
whole. So the state carries a handful of numbers instead of a thousand, and at most a segment too much is kept. The
newest segment always stays: what was just said must be readable, however large it is.
"""

from __future__ import annotations

from actors.state import Limits, LogState

SEGMENTS = 16


def extended(log: LogState, body_bytes: int, limits: Limits) -> LogState:
    """Give the log's state with one event more, and with what falls off its bounds trimmed.

    Args:
      log: before.
      body_bytes: of the event, which is number `log.next_sequence`.
      limits: how many events and bytes may be kept.
    """
    sequence = log.next_sequence
    trimmed_through, segments = within_bounds(
        log.segments,
        log.trimmed_through,
        sequence,
        body_bytes,
        count_max=limits.events_per_session_max,
        bytes_max=limits.events_bytes_max,
    )
    return LogState(log.epoch, sequence + 1, trimmed_through, segments)


def within_bounds(
    segments: tuple[tuple[int, int], ...],
    trimmed_through: int,
    sequence: int,
    body_bytes: int,
    *,
    count_max: int,
    bytes_max: int,
) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Give what is trimmed, and what is kept, with one entry more.

    Args:
      segments, trimmed_through: before.
      sequence, body_bytes: of the entry.
      count_max, bytes_max: how much may be kept.
    """
    segments = _appended(segments, sequence, body_bytes, bytes_max // SEGMENTS)
    trimmed_through = max(trimmed_through, sequence - count_max)
    kept_bytes = sum([size for _, size in segments])
    first = 0
    while first < len(segments) - 1 and (kept_bytes > bytes_max or segments[first][0] <= trimmed_through):
        last_sequence, size = segments[first]
        trimmed_through = max(trimmed_through, last_sequence)
        kept_bytes -= size
        first += 1
    return trimmed_through, segments[first:]


def _appended(
    segments: tuple[tuple[int, int], ...], sequence: int, body_bytes: int, segment_bytes: int
) -> tuple[tuple[int, int], ...]:
    if segments and segments[-1][1] + body_bytes <= segment_bytes:
        return (*segments[:-1], (sequence, segments[-1][1] + body_bytes))
    return (*segments, (sequence, body_bytes))
