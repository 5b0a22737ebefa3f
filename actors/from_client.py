"""Choices about what the client's side asks, and what an embedding application asks.

Pure, like `decide`, which calls these. Messages leave for the upstream in the order in which they came: what cannot
be sent yet waits in the state (bounded) and goes, oldest first, when there is a link.
"""

from __future__ import annotations

from msgspec.structs import replace

from actors import jsonrpc
from actors import messages as say
from actors.jsonrpc import Message, with_id
from actors.state import Call, LinkPhase, Post
from actors.turn import Turn


def send_request(turn: Turn, command: say.SendRequest) -> None:
    """Take a client's request: refuse it, or send it, or let it wait for the link."""
    refusal = _refusal(turn, command)
    if refusal is not None:
        turn.reply(command.ticket, refusal)
    else:
        _start(turn, command, stream=None)


def _start(turn: Turn, command: say.SendRequest, *, stream: int | None) -> None:
    state, message = turn.state, command.message
    assert message.id is not None
    linked = state.link is LinkPhase.UP and not _anything_waits(turn)
    call = Call(
        ticket=command.ticket,
        request_id=message.id,
        method=message.method,
        label=command.label,
        message=message,
        started_unix_s=turn.now_unix_s,
        setup=command.setup,
        sent=linked or command.own,
        sent_unix_s=turn.now_unix_s,
        stream=stream,
        own=command.own,
        on_standalone=command.on_standalone,
    )
    turn.happen(say.CallStarted(call, tool=bool(command.label)))
    if command.own:
        turn.do(say.AnswerOurselves(message))
    elif linked:
        turn.do(say.SendUpstream(message, command.ticket))
    else:
        turn.ensure_link()
    limits = turn.limits
    patience = limits.promise_within_seconds if command.on_standalone else limits.first_look_seconds
    turn.do(say.Watch(command.ticket, patience))


def _refusal(turn: Turn, command: say.SendRequest) -> say.NotDone | None:
    state = turn.state
    if state.failure:
        return uninitialized(turn)
    if state.opened == command.opens:
        return say.NotDone(
            say.Problem.REFUSED,
            "the session is open already" if state.opened else "the session is not open yet",
        )
    if command.message.id in state.calls:
        return say.NotDone(
            say.Problem.DUPLICATE, f"a request with id {command.message.id!r} is in progress in this session"
        )
    if len(state.calls) >= turn.limits.calls_in_flight_max:
        return say.NotDone(
            say.Problem.OVERLOADED,
            f"{turn.limits.calls_in_flight_max} requests are in progress in this session",
        )
    if command.setup is not None and command.setup.keep:
        return _setup_refusal(turn, command.setup.key, command.message)
    return None


def send_batch(turn: Turn, command: say.SendBatch) -> None:
    """Take a client's batch: each message by itself, all answers on one stream (MCP 2025-03-26, basic, Batching)."""
    if turn.state.failure or not turn.state.opened:
        turn.reply(command.ticket, uninitialized(turn))
        return
    stream = turn.open_shared_stream()
    turn.reply(command.ticket, say.Streaming(stream))
    for refusal in command.refusals:
        turn.log(stream, refusal)
    for item in command.items:
        if isinstance(item, say.SendRequest):
            _start_in_batch(turn, item, stream)
        elif (refused := _post_refusal(turn)) is not None:
            turn.log(stream, jsonrpc.error(None, _CODES[refused.problem], refused.detail))
        elif isinstance(item, say.SendNotification):
            send_notification(turn, item)
        else:
            send_answer(turn, item)
    turn.release_shared_stream()


def _start_in_batch(turn: Turn, command: say.SendRequest, stream: int) -> None:
    refusal = _refusal(turn, command)
    if refusal is None:
        _start(turn, command, stream=stream)
        return
    # An error under an id that is in progress would be taken for the answer of that request.
    request_id = None if refusal.problem is say.Problem.DUPLICATE else command.message.id
    turn.log(stream, jsonrpc.error(request_id, _CODES[refusal.problem], refusal.detail))


_CODES = {
    say.Problem.DUPLICATE: jsonrpc.INVALID_REQUEST,
    say.Problem.REFUSED: jsonrpc.INVALID_REQUEST,
    say.Problem.OVERLOADED: jsonrpc.OVERLOADED,
}


def _setup_refusal(turn: Turn, key: str, message: Message) -> say.NotDone | None:
    """Refuse what would have to be kept to be sent again, and is too much for that.

    Before it is sent: a subscription that the upstream has and we could not renew would end unnoticed some day. Those
    in flight count as kept.
    """
    kept = {kept_key: len(raw) for kept_key, raw in turn.state.setup.items()}
    for call in turn.state.calls.values():
        if call.setup is not None and call.setup.keep and call.message is not None:
            kept[call.setup.key] = max(len(call.message.raw), kept.get(call.setup.key, 0))
    kept[key] = max(len(message.raw), kept.get(key, 0))
    total_bytes = sum(kept.values()) + sum(len(kept_key.encode()) for kept_key in kept)
    if total_bytes <= turn.limits.setup_bytes_max:
        return None
    return say.NotDone(
        say.Problem.REFUSED,
        f"the session would have to keep {total_bytes} bytes of set-up (log level, subscriptions), the limit is"
        f" {turn.limits.setup_bytes_max}; undo some of it first",
    )


def uninitialized(turn: Turn) -> say.NotDone:
    """Say that the session goes on no more."""
    return say.NotDone(say.Problem.UNINITIALIZED, f"the session cannot go on ({turn.state.failure})")


def send_notification(turn: Turn, command: say.SendNotification) -> None:
    """Take a client's notification; it is accepted when the upstream has it."""
    if not _may_post(turn, command.ticket):
        return
    if command.confirms and turn.state.handshake is not None and not turn.state.handshake.ready:
        turn.happen(say.ClientReady())
    turn.touch()
    if command.cancels is not None and _cancel(turn, command):
        return
    _post(turn, command.ticket, command.message)


def _cancel(turn: Turn, command: say.SendNotification) -> bool:
    """Note that a call is not wanted any more. True: the upstream never saw it, and need not hear of it."""
    call = turn.state.calls.get(command.cancels) if command.cancels is not None else None
    if call is None:
        return False
    if call.own or not call.sent:
        turn.end_unanswered(call, say.Withdrawn())
        turn.reply(command.ticket, say.Accepted())
        return True
    turn.happen(say.CallChanged(replace(call, cancelled_unix_s=turn.now_unix_s)))
    turn.do(say.Watch(call.ticket, turn.limits.cancel_grace_seconds))
    return False


def send_answer(turn: Turn, command: say.SendAnswer) -> None:
    """Take a client's answer to a request of the upstream; one that nobody waits for is accepted and dropped."""
    if not _may_post(turn, command.ticket):
        return
    turn.touch()
    client_id = command.message.id
    ask = turn.state.asks.get(client_id) if client_id is not None else None
    if ask is None:
        turn.reply(command.ticket, say.Accepted())
        return
    turn.happen(say.AskClosed(ask.client_id))
    if ask.withdrawn:
        turn.reply(command.ticket, say.Accepted())
        return
    message = command.message
    if ask.upstream_id != ask.client_id:
        message = with_id(message, ask.upstream_id)
    _post(turn, command.ticket, message)


def _may_post(turn: Turn, ticket: int) -> bool:
    refusal = _post_refusal(turn)
    if refusal is not None:
        turn.reply(ticket, refusal)
    return refusal is None


def _post_refusal(turn: Turn) -> say.NotDone | None:
    if turn.state.failure:
        return uninitialized(turn)
    if not turn.state.opened:
        return say.NotDone(say.Problem.REFUSED, "the session is not open yet")
    if len(turn.state.posts) >= turn.limits.posts_in_flight_max:
        detail = f"{turn.limits.posts_in_flight_max} messages of this session wait for the upstream"
        return say.NotDone(say.Problem.OVERLOADED, detail)
    return None


def _post(turn: Turn, ticket: int, message: Message) -> None:
    linked = turn.state.link is LinkPhase.UP and not _anything_waits(turn)
    turn.happen(say.PostChanged(Post(ticket, message, turn.now_unix_s, sent=linked)))
    if linked:
        turn.do(say.SendUpstream(message, ticket))
    else:
        turn.ensure_link()
    turn.do(say.Watch(ticket, turn.limits.first_look_seconds))


def _anything_waits(turn: Turn) -> bool:
    state = turn.state
    return any(not call.sent for call in state.calls.values()) or any(not post.sent for post in state.posts.values())


def send_waiting(turn: Turn) -> None:
    """Send what waits, in the order in which it came, if there is a link."""
    if turn.state.link is not LinkPhase.UP:
        turn.ensure_link()
        return
    waiting: list[Call | Post] = [call for call in turn.state.calls.values() if not call.sent]
    waiting += [post for post in turn.state.posts.values() if not post.sent]
    for item in sorted(waiting, key=_ticket):
        assert item.message is not None
        if isinstance(item, Call):
            turn.happen(say.CallChanged(replace(item, sent=True, sent_unix_s=turn.now_unix_s)))
        else:
            turn.happen(say.PostChanged(replace(item, sent=True)))
        turn.do(say.SendUpstream(item.message, item.ticket))


def _ticket(item: Call | Post) -> int:
    return item.ticket


def listen(turn: Turn, command: say.Listen) -> None:
    """Let the upstream speak unasked, from now on and again after every re-opening of the link."""
    if turn.state.failure or not turn.state.opened:
        turn.reply(command.ticket, uninitialized(turn))
        return
    turn.touch()
    turn.reply(command.ticket, say.Accepted())
    if not turn.state.listening:
        turn.happen(say.ListeningStarted())
    if turn.state.link is LinkPhase.UP:
        turn.do(say.ListenUpstream())
    else:
        turn.ensure_link()


def look(turn: Turn, command: say.Look) -> None:
    """Say that the session is in memory."""
    if turn.state.failure or not turn.state.opened:
        turn.reply(command.ticket, uninitialized(turn))
    else:
        turn.touch()
        turn.reply(command.ticket, say.Accepted())


def note_shown(turn: Turn, command: say.NoteShown) -> None:
    """Remember how far the standalone stream was sent, for a client that comes back without a cursor."""
    if command.offset > turn.state.shown_offset:
        turn.happen(say.Shown(command.offset))


def emit(turn: Turn, command: say.Emit) -> None:
    """Log a message of the embedding application's own."""
    if turn.state.failure or not turn.state.opened:
        turn.reply(command.ticket, uninitialized(turn))
        return
    turn.touch()
    turn.log_standalone(command.message)
    turn.reply(command.ticket, say.Accepted())


def update(turn: Turn, command: say.Update) -> None:
    """Replace the application's values."""
    if turn.state.failure or not turn.state.opened:
        turn.reply(command.ticket, uninitialized(turn))
        return
    if command.encoded_bytes > turn.limits.values_bytes_max:
        detail = f"values take {command.encoded_bytes} bytes, the limit is {turn.limits.values_bytes_max}"
        turn.not_done(command.ticket, say.Problem.REFUSED, detail)
        return
    turn.touch()
    turn.happen(say.ValuesChanged(command.values))
    turn.reply(command.ticket, say.Accepted())
