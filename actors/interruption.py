"""What to tell whoever waits when a session is interrupted: "try again" only where nothing was run. Pure.

A client that is told to try again does so, and a call that had reached the other side would be run twice. So for
whatever was sent, and for answers that were held back with a fact that is now forgotten, the outcome is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

from actors import jsonrpc
from actors import messages as say
from actors.gate import Held
from actors.state import SessionState

_IN_DOUBT = (
    "the session was interrupted while this was in progress; it may have been carried out, and was not run again"
)


def outcomes_in_doubt(
    state: SessionState | None, held: Sequence[Held], burial_ticket: int = 0, *, rolled_back: bool
) -> dict[int, say.Outcome]:
    """Give what to tell the tickets of what may have been done; everybody else can simply try again.

    Args:
      state: the session as it was when it was interrupted; None if it had not been loaded.
      held: outputs that waited for a commit, and will not leave any more.
      burial_ticket: under which somebody waits for the session's end to become durable; 0: nobody does.
      rolled_back: what they waited for is certain not to become durable.
    """
    if state is None or not state.opened:
        return {}
    outcomes: dict[int, say.Outcome] = {}
    for call in state.calls.values():
        if call.sent:
            outcomes[call.ticket] = _unknown(call.request_id)
    for post in state.posts.values():
        if post.sent:
            outcomes[post.ticket] = say.NotDone(say.Problem.LOST, _IN_DOUBT)
    if burial_ticket and not rolled_back:
        outcomes[burial_ticket] = say.NotDone(say.Problem.LOST, _IN_DOUBT)
    return {**outcomes, **outcomes_held(held, rolled_back=rolled_back)}


def outcomes_held(held: Sequence[Held], *, rolled_back: bool) -> dict[int, say.Outcome]:
    """Give what to tell the tickets whose replies were held back, in place of those replies."""
    outcomes: dict[int, say.Outcome] = {}
    for effect in (effect for one in held for effect in one.effects):
        if isinstance(effect, say.Reply):
            in_doubt = _in_doubt(effect.outcome, rolled_back=rolled_back)
            if in_doubt is not None:
                outcomes[effect.ticket] = in_doubt
    return outcomes


def _in_doubt(held: say.Outcome, *, rolled_back: bool) -> say.Outcome | None:
    """Choose what to tell in place of a reply that was held back; None: that it was not done."""
    if isinstance(held, say.Answered):
        return _unknown(held.message.id)
    if isinstance(held, say.NotDone):
        return held  # it tells of no fact
    if isinstance(held, say.Accepted) and rolled_back:
        return None
    # What it confirms may become durable all the same; or it is about a call that was sent.
    return say.NotDone(say.Problem.LOST, _IN_DOUBT)


def _unknown(request_id: jsonrpc.RequestId | None) -> say.Outcome:
    return say.Answered(jsonrpc.error(request_id, jsonrpc.OUTCOME_UNKNOWN, _IN_DOUBT))
