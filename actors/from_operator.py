"""What an operator asks of a session comes to: notes about it are changed, its upstream session is begun anew. Pure.

An operator is not the session's client: nothing here counts as activity, so a session that is looked after expires when
it would have. Ending a session is `Close`, for everybody.
"""

from __future__ import annotations

from typing import Any

from actors import jsonrpc
from actors import messages as say
from actors.keeping import Unkeepable, keep
from actors.state import LinkPhase
from actors.turn import Turn

_DROPPED = (
    "an operator had the upstream session begun anew while this request was in progress; it may have been carried out,"
    " its answer is lost, and it was not run again"
)
TAGS = "tags"  # under which name in the metadata


def update_metadata(turn: Turn, command: say.UpdateMetadata) -> None:
    """Change metadata and tags, all of it or nothing."""
    if not turn.state.opened:
        turn.not_done(command.ticket, say.Problem.UNAVAILABLE, "the session is not open yet")
        return
    if TAGS in command.values or TAGS in command.forget:
        turn.not_done(command.ticket, say.Problem.REFUSED, "tags are put on and taken off, not set or forgotten whole")
        return
    limits = turn.limits
    kept = turn.state.metadata.get(TAGS)
    before = [tag for tag in kept if isinstance(tag, str)] if isinstance(kept, list) else []
    tags = [tag for tag in before if tag not in command.remove_tags]
    tags += [tag for tag in dict.fromkeys(command.add_tags) if tag not in tags]
    if len(tags) > limits.tags_max:
        detail = f"the session would have {len(tags)} tags, the limit is {limits.tags_max}; take some off first"
        turn.not_done(command.ticket, say.Problem.REFUSED, detail)
        return
    metadata: dict[str, Any] = {**turn.state.metadata, **command.values}
    for name in command.forget:
        metadata.pop(name, None)
    metadata.pop(TAGS, None)
    if tags:
        metadata[TAGS] = tags
    try:
        metadata, encoded_bytes = keep(metadata)
    except Unkeepable as error:
        turn.not_done(command.ticket, say.Problem.REFUSED, f"metadata: {error}")
        return
    if encoded_bytes > limits.metadata_bytes_max:
        detail = f"metadata would take {encoded_bytes} bytes, the limit is {limits.metadata_bytes_max}; forget some"
        turn.not_done(command.ticket, say.Problem.REFUSED, detail)
        return
    if metadata != turn.state.metadata:
        turn.happen(say.MetadataChanged(metadata))
    turn.reply(command.ticket, say.Accepted())


def reinitialize(turn: Turn, command: say.Reinitialize) -> None:
    """Drop the upstream's session and open a new one by the kept handshake.

    Calls that were sent end with "outcome unknown", as after any loss of the upstream, and are not run again. A session
    that was uninitialized is in force again if the handshake succeeds, and fails again if it does not.
    """
    state = turn.state
    if state.handshake is None:
        detail = "the session has no handshake that could be done again" if state.opened else "it is not open yet"
        turn.not_done(command.ticket, say.Problem.REFUSED, detail)
        return
    for call in list(state.calls.values()):
        if call.sent:
            turn.fail(call, jsonrpc.OUTCOME_UNKNOWN, _DROPPED)
    turn.happen(say.ReinitializationBegun())
    turn.happen(say.LinkChanged(LinkPhase.DOWN, "an operator has it begun anew"))
    turn.do(say.CloseLink(end_session=True))
    turn.happen(say.ConnectAwaited((*state.connect_tickets, command.ticket)))
    turn.ensure_link()
