"""Looking into a running runtime: whether anything in it is stuck, or larger than it may be."""

from __future__ import annotations

from collections.abc import Iterator

from actors.event_log import TAIL_ENTRIES_MAX
from actors.runtime import Runtime
from actors.session import SessionActor
from actors.state import Limits, LinkPhase
from persistence.writer import BACKLOG_ROWS_MAX


def stuck(runtime: Runtime) -> Iterator[str]:
    """Name what is still pending though nothing should be: each session is in memory and linked, or at rest."""
    for actor in runtime.registry.residents():
        name = f"session {actor.session_id[:6]}"
        if not actor.is_loaded:
            yield f"{name} is still loading"
            continue
        yield from (f"{name}: {text}" for text in _pending(actor))
    statistics = runtime.writer.statistics()
    if statistics.backlog_rows or statistics.soft_sessions > len(runtime.registry.residents()):
        yield f"the writer still has work: {statistics}"


def _pending(actor: SessionActor) -> Iterator[str]:
    state = actor.state
    if state.calls:
        yield f"calls in flight: {list(state.calls.values())}"
    if state.posts:
        yield f"posts in flight: {list(state.posts.values())}"
    if len(actor._mailbox) or actor._waiting:
        yield f"{len(actor._mailbox)} commands queued, {len(actor._waiting)} outcomes owed"
    if not actor._commits.gate.is_clear:
        yield "outputs wait at the gate"
    if actor.wants_link and state.link is not LinkPhase.UP:
        yield f"wants a link, and it is {state.link.value}: {state.link_detail}"
    if state.link is LinkPhase.UP and actor._link._link is None:
        yield "believes that its link is up, and has none"


def bounds_broken(runtime: Runtime, limits: Limits) -> Iterator[str]:
    """Name every queue that is longer than its bound."""
    for actor in runtime.registry.residents():
        if not actor.is_loaded:
            continue
        for what, size, bound in _sizes(actor, runtime.registry.shared.mailbox_max, limits):
            if size > bound:
                yield f"session {actor.session_id[:6]} has {size} {what}, and may have {bound}"
    if runtime.writer.statistics().backlog_rows > BACKLOG_ROWS_MAX:
        yield f"the writer's backlog: {runtime.writer.statistics()}"


def _sizes(actor: SessionActor, mailbox_max: int, limits: Limits) -> Iterator[tuple[str, int, int]]:
    """Give what may grow: its name, its size, its bound."""
    state, log = actor.state, actor._commits.log
    yield "commands of clients", len(actor._mailbox._user), mailbox_max
    yield "calls", len(state.calls), limits.calls_in_flight_max
    yield "posts", len(state.posts), limits.posts_in_flight_max
    yield "questions", sum(not ask.withdrawn for ask in state.asks.values()), limits.asks_max
    yield "streams", len(state.streams), 1 + limits.calls_in_flight_max + limits.streams_kept_max
    if log is not None:
        unreleased = state.log.next_sequence - 1 - log._released
        yield "events in memory", len(log._order), TAIL_ENTRIES_MAX + unreleased
