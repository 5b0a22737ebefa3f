"""decide: what a command comes to, given the state. Pure: no clock, no randomness, no waiting, no I/O.

All choices about a session are made here and in the neighbours that this file hands over to: `from_client.py` (what
the client's side asks), `from_upstream.py` (what the other side says) and `from_operator.py` (what operators ask). This
file keeps the session's own life: to begin, to be recovered, to have a link or not, to fail, to end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from actors import from_client, from_operator, from_upstream, jsonrpc
from actors import messages as say
from actors.state import RETRY_EVERY_SECONDS, Call, Limits, LinkPhase, SessionState
from actors.turn import Decision, Turn

# A long call is looked at this often, not once when its hour is over: what the timekeeper remembers keeps a session in
# memory, and most long calls are answered within a minute.
LOOK_AGAIN_SECONDS = 60.0


def decide(state: SessionState, command: say.Command, *, now_unix_s: float, limits: Limits) -> Decision:
    """Choose what the command comes to.

    Args:
      state: the session as it is; it stays so.
      command: what is asked or was noticed.
      now_unix_s: wall clock.
      limits: the session's bounds.

    Returns:
      The new state, the events that led there, and the effects for the shell. After `Closed` nothing happens any
      more.
    """
    turn = Turn(state, now_unix_s, limits)
    if not state.closed:
        _DECISIONS[type(command)](turn, command)
    return turn.decision()


def _create(turn: Turn, command: say.Create) -> None:
    turn.happen(say.Created())
    turn.reply(command.ticket, say.Accepted())


def _recovered(turn: Turn, command: say.Recovered) -> None:
    """Settle what the former incarnation left open: nobody waits for it any more but the streams' readers.

    A call can go on only if its upstream can be asked for the rest of its stream. All others may have been run:
    they are answered with an error, and never run again.
    """
    for call in list(turn.state.calls.values()):
        if call.stream is None:
            turn.interrupted(call)
        elif not call.upstream_cursor:
            turn.fail(call, jsonrpc.OUTCOME_UNKNOWN, _INTERRUPTED)
        else:  # its watch was forgotten with the former incarnation; its silence counts from when we listen again
            turn.happen(say.CallChanged(replace(call, heard_unix_s=turn.now_unix_s)))
            turn.do(say.Watch(call.ticket, turn.limits.answer_json_within_seconds))
    if turn.state.initialized and (turn.state.calls or turn.state.listening):
        turn.ensure_link()


_INTERRUPTED = (
    "the session was interrupted while this request was in progress; it may have been carried out, its answer is lost,"
    " and it was not run again"
)


def _connect_now(turn: Turn, command: say.ConnectNow) -> None:
    if turn.state.failure:
        turn.reply(command.ticket, from_client.uninitialized(turn))
        return
    if turn.state.link is LinkPhase.UP:
        turn.reply(command.ticket, say.Accepted())
        return
    turn.happen(say.ConnectAwaited((*turn.state.connect_tickets, command.ticket)))
    turn.ensure_link()


def _tell_connect_waiters(turn: Turn, outcome: say.Outcome) -> None:
    tickets = turn.state.connect_tickets
    if tickets:
        turn.happen(say.ConnectAwaited(()))
        for ticket in tickets:
            turn.reply(ticket, outcome)


def _link_up(turn: Turn, command: say.LinkUp) -> None:
    established = command.established
    turn.happen(say.LinkChanged(LinkPhase.UP))
    if not established.resumed:
        _begin_anew(turn, command)
    if turn.state.opened:  # before that there is nobody to announce anything to
        for message in established.announcements:
            turn.log_standalone(message)
    if turn.state.listening:
        turn.do(say.ListenUpstream())
    from_client.send_waiting(turn)
    _tell_connect_waiters(turn, say.Accepted())


def _begin_anew(turn: Turn, command: say.LinkUp) -> None:
    """The other side starts from nothing: what was in flight there is gone."""
    for call in list(turn.state.calls.values()):
        if call.sent and not call.own:
            turn.fail(call, jsonrpc.OUTCOME_UNKNOWN, _INTERRUPTED)
    for post in list(turn.state.posts.values()):
        if post.sent:
            turn.happen(say.PostEnded(post.ticket))
            turn.not_done(post.ticket, say.Problem.LOST, "the upstream was lost before it confirmed this")
        elif post.message.kind is jsonrpc.Kind.RESPONSE:
            # Whoever asked is gone. The new incarnation counts its questions from one again: an old answer would
            # be taken for that to a new question.
            turn.happen(say.PostEnded(post.ticket))
            turn.reply(post.ticket, say.Accepted())
    if any(not ask.withdrawn for ask in turn.state.asks.values()):
        turn.happen(say.AsksWithdrawn())
    if turn.state.handshake is not None:
        turn.happen(say.Reinitialized(command.established.upstream_session_id))


def _link_down(turn: Turn, command: say.LinkDown) -> None:
    """The link is gone: what was sent has an unknown outcome; what was not waits for the next link."""
    turn.happen(say.LinkChanged(LinkPhase.DOWN, command.detail))
    if not turn.state.opened:
        _never_opened(turn, say.Problem.UNAVAILABLE, command.detail)
        return
    for call in list(turn.state.calls.values()):
        if call.sent and not call.own and not call.upstream_cursor:
            reason = (
                f"the upstream was lost while this request was in progress ({command.detail}); it was not run again"
            )
            turn.fail(call, jsonrpc.OUTCOME_UNKNOWN, reason)
    for post in list(turn.state.posts.values()):
        if post.sent:
            turn.happen(say.PostEnded(post.ticket))
            turn.not_done(
                post.ticket,
                say.Problem.LOST,
                f"the upstream was lost before it confirmed this: {command.detail}",
            )
    _tell_connect_waiters(turn, say.NotDone(say.Problem.UNAVAILABLE, command.detail))
    if turn.state.busy or turn.state.listening:
        turn.ensure_link()


def _connect_retried(turn: Turn, command: say.ConnectRetried) -> None:
    turn.happen(say.LinkChanged(LinkPhase.CONNECTING, command.detail))
    _tell_connect_waiters(turn, say.NotDone(say.Problem.UNAVAILABLE, command.detail))


def _connect_given_up(turn: Turn, command: say.ConnectGivenUp) -> None:
    turn.happen(say.LinkChanged(LinkPhase.DOWN, turn.state.link_detail))


def _connect_refused(turn: Turn, command: say.ConnectRefused) -> None:
    if not turn.state.opened:
        _never_opened(turn, say.Problem.REFUSED, command.detail)
        return
    _fail_session(turn, command.reason, command.detail)


def _abandon(turn: Turn, command: say.Abandon) -> None:
    if turn.state.opened:
        _fail_session(turn, command.reason, command.detail)
    else:
        _never_opened(turn, say.Problem.UNAVAILABLE, command.detail)


def _fail_session(turn: Turn, reason: str, detail: str) -> None:
    """Mark the session uninitialized: it is there to be seen and reaped, but goes on no more."""
    outcome = say.NotDone(say.Problem.UNINITIALIZED, f"the session cannot go on ({reason}): {detail}")
    for call in list(turn.state.calls.values()):
        if call.stream is None:
            turn.end_unanswered(call, outcome)
        else:
            turn.fail(call, jsonrpc.OUTCOME_UNKNOWN, outcome.detail)
    _end_posts(turn, outcome)
    turn.happen(say.Failed(reason, detail, turn.now_unix_s))
    _tell_connect_waiters(turn, outcome)
    turn.do(say.CloseLink(end_session=False))


def _never_opened(turn: Turn, problem: say.Problem, detail: str) -> None:
    """Nothing was promised to anybody yet: say why, and leave no trace."""
    for call in list(turn.state.calls.values()):
        turn.end_unanswered(call, say.NotDone(problem, detail))
    _end_posts(turn, say.NotDone(problem, detail))
    turn.do(say.Discard())


def _close(turn: Turn, command: say.Close) -> None:
    outcome = say.NotDone(say.Problem.UNINITIALIZED, "the session was ended")
    for call in list(turn.state.calls.values()):
        turn.end_unanswered(call, say.Withdrawn() if call.cancelled_unix_s else outcome)
    _end_posts(turn, outcome)
    _tell_connect_waiters(turn, outcome)
    turn.happen(say.Closed(command.reason))
    turn.do(say.CloseLink(end_session=True))
    turn.do(say.Bury(command.ticket, command.reason))


def _end_posts(turn: Turn, outcome: say.Outcome) -> None:
    for post in list(turn.state.posts.values()):
        turn.happen(say.PostEnded(post.ticket))
        turn.reply(post.ticket, outcome)


def _overdue(turn: Turn, command: say.Overdue) -> None:
    """Something has waited for a while: choose what that means.

    Each call and post is watched once at a time: whoever is told of it here watches it again, or ends it.
    """
    call = turn.call_by_ticket(command.ticket)
    if call is not None:
        _overdue_call(turn, call)
    elif command.ticket in turn.state.posts:
        _overdue_post(turn, command.ticket)


def _overdue_call(turn: Turn, call: Call) -> None:
    waited = turn.now_unix_s - call.started_unix_s
    if not turn.state.opened:
        _overdue_opening(turn, call, waited)
        return
    if call.on_standalone and call.stream is None:  # sent or not: its client has waited to hear that it was taken
        call = turn.open_stream(call)
    if not call.sent:
        _overdue_unsent(turn, call, waited)
    elif call.cancelled_unix_s:
        _overdue_cancelled(turn, call)
    else:
        _overdue_sent(turn, call)


def _overdue_opening(turn: Turn, call: Call, waited: float) -> None:
    limit = turn.limits.opening_seconds_max if call.sent else turn.limits.link_wait_seconds
    if waited < limit:
        if not call.sent:
            from_client.send_waiting(turn)
        turn.do(say.Watch(call.ticket, RETRY_EVERY_SECONDS))
        return
    detail = turn.state.link_detail or "it does not answer"
    turn.do(say.CloseLink(end_session=True))
    _never_opened(turn, say.Problem.UNAVAILABLE, f"the upstream could not be opened in {limit:g} s: {detail}")


def _overdue_unsent(turn: Turn, call: Call, waited: float) -> None:
    if waited < turn.limits.link_wait_seconds:
        from_client.send_waiting(turn)
        turn.do(say.Watch(call.ticket, RETRY_EVERY_SECONDS))
        return
    from_upstream.give_up_unsent(turn, call, _unreachable(turn))


def _overdue_cancelled(turn: Turn, call: Call) -> None:
    rest = call.cancelled_unix_s + turn.limits.cancel_grace_seconds - turn.now_unix_s
    if rest > 0:
        turn.do(say.Watch(call.ticket, rest))
    else:
        turn.end_unanswered(call, say.Withdrawn())


def _overdue_sent(turn: Turn, call: Call) -> None:
    if call.stream is None:
        patience = call.sent_unix_s + turn.limits.answer_json_within_seconds - turn.now_unix_s
        if patience > 0:  # it had to wait before it was sent: an upstream that is down is no slow answer
            turn.do(say.Watch(call.ticket, min(patience, turn.limits.link_wait_seconds)))
            return
        call = turn.open_stream(call)
    limits = turn.limits
    silent_since = max(call.started_unix_s, call.heard_unix_s)
    silence_over_unix_s = silent_since + limits.call_seconds_max
    all_over_unix_s = call.started_unix_s + limits.call_total_seconds_max
    rest = min(silence_over_unix_s, all_over_unix_s) - turn.now_unix_s
    if rest > 0:
        # Until it has certainly left, it may turn out not to have been sent: then it is to be tried again in time.
        may_be_unsent = not call.heard_unix_s and turn.now_unix_s - call.sent_unix_s < limits.link_wait_seconds
        again_seconds = limits.link_wait_seconds if may_be_unsent else LOOK_AGAIN_SECONDS
        turn.do(say.Watch(call.ticket, min(rest, again_seconds)))
        return
    passed = (
        f"no answer within {limits.call_total_seconds_max:g} s, whatever progress was told"
        if all_over_unix_s <= silence_over_unix_s
        else f"no answer within {limits.call_seconds_max:g} s"
    )
    reason = f"{passed}; the upstream was told to cancel"
    turn.do(say.CancelUpstream(call.request_id, reason))
    turn.fail(call, jsonrpc.REQUEST_TIMED_OUT, reason)


def _overdue_post(turn: Turn, ticket: int) -> None:
    post = turn.state.posts[ticket]
    limit = turn.limits.opening_seconds_max if post.sent else turn.limits.link_wait_seconds
    if turn.now_unix_s - post.started_unix_s < limit:
        from_client.send_waiting(turn)
        turn.do(say.Watch(ticket, RETRY_EVERY_SECONDS))
        return
    turn.happen(say.PostEnded(ticket))
    problem = say.Problem.LOST if post.sent else say.Problem.UNAVAILABLE
    turn.not_done(ticket, problem, _unreachable(turn))


def _unreachable(turn: Turn) -> str:
    return f"the upstream cannot be reached: {turn.state.link_detail or 'it does not answer'}"


_DECISIONS: dict[type, Callable[[Turn, Any], None]] = {
    say.Create: _create,
    say.SendRequest: from_client.send_request,
    say.SendNotification: from_client.send_notification,
    say.SendAnswer: from_client.send_answer,
    say.SendBatch: from_client.send_batch,
    say.Emit: from_client.emit,
    say.Update: from_client.update,
    say.Listen: from_client.listen,
    say.Look: from_client.look,
    say.NoteShown: from_client.note_shown,
    say.Close: _close,
    say.UpdateMetadata: from_operator.update_metadata,
    say.Reinitialize: from_operator.reinitialize,
    say.Recovered: _recovered,
    say.ConnectNow: _connect_now,
    say.LinkUp: _link_up,
    say.LinkDown: _link_down,
    say.ConnectRetried: _connect_retried,
    say.ConnectGivenUp: _connect_given_up,
    say.ConnectRefused: _connect_refused,
    say.Receive: from_upstream.receive,
    say.ReceivePing: from_upstream.receive_ping,
    say.MoveCursor: from_upstream.move_cursor,
    say.Delivered: from_upstream.delivered,
    say.Refused: from_upstream.refused,
    say.Overdue: _overdue,
    say.Abandon: _abandon,
}
