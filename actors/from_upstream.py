"""Choices about what the other side says: answers, requests, notifications, and the fate of what was sent.

Pure, like `decide`, which calls these. Each message goes to exactly one of the client's streams (MCP 2025-11-25,
transports, "Multiple Connections"): what is about a request goes with that request, everything else to the
standalone stream.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from actors import jsonrpc
from actors import messages as say
from actors.ids import STANDALONE_STREAM
from actors.jsonrpc import Kind, Message, RequestId, with_id
from actors.link import About, Failure
from actors.sharing import shared
from actors.state import Ask, Call, Handshake, LinkPhase
from actors.tasks import TaskNews, news_in_answer, news_in_notification
from actors.turn import Turn


def receive(turn: Turn, command: say.Receive) -> None:
    """Take a message from the other side."""
    if command.message.kind is Kind.RESPONSE:
        _receive_answer(turn, command)
    elif turn.state.opened:
        _receive_unasked(turn, command)
    # Before it is open there is no stream to put anything on; a server SHOULD send only ping and logging then
    # (MCP 2025-11-25, lifecycle), and can do without either.


def _receive_answer(turn: Turn, command: say.Receive) -> None:
    message = command.message
    call = turn.state.calls.get(message.id) if message.id is not None else None
    if call is None:
        return  # cancelled, given up, or never asked: nobody waits for it
    if not turn.state.opened:
        _open(turn, call, command)
        return
    if call.setup is not None and not message.is_error and call.message is not None:
        _keep_setup(turn, call, call.message)
    if call.message is not None and b'"task' in call.message.raw:  # few answers need to be looked into
        _note_task(turn, news_in_answer(call.method, call.message, message))
    turn.answer(call, message)


def _note_task(turn: Turn, news: TaskNews | None) -> None:
    """Remember a task for as long as it lives: its server is not to be ended for idleness meanwhile."""
    if news is None:
        return
    if news.is_live:
        seconds = min(news.ttl_seconds or math.inf, turn.limits.task_seconds_max)
        turn.happen(say.TaskHeard(news.id, turn.now_unix_s + seconds))
    elif news.id in turn.state.tasks:
        turn.happen(say.TaskHeard(news.id, 0.0))


def _open(turn: Turn, call: Call, command: say.Receive) -> None:
    """The answer to the opening request: the session begins to exist, or never was."""
    message = command.message
    if message.is_error:
        turn.answer(call, message)
        turn.do(say.Discard())
        return
    assert call.message is not None
    handshake = Handshake(shared(call.message.raw), shared(message.raw), command.upstream_session_id)
    turn.happen(say.Opened(handshake))
    turn.answer(call, message)


def _keep_setup(turn: Turn, call: Call, request: Message) -> None:
    assert call.setup is not None
    if call.setup.keep:
        turn.happen(say.SetupKept(call.setup.key, request.raw))
    elif call.setup.key in turn.state.setup:
        turn.happen(say.SetupDropped(call.setup.key))


def receive_ping(turn: Turn, command: say.ReceivePing) -> None:
    """Pass a ping on if its client is there to answer it; else answer it (MCP 2025-11-25, basic/utilities/ping).

    A client that is away is no reason for the upstream to give the session up: it is kept, and its client comes back.
    """
    receive_command = command.receive
    call = _call_about(turn, receive_command.about)
    if call is None:
        attended = STANDALONE_STREAM in command.read_streams
    else:
        attended = call.stream in command.read_streams or (call.stream is None and call.ticket in command.awaited)
    if attended and turn.state.opened:
        receive(turn, receive_command)
        return
    _note_heard(turn, receive_command, call)
    assert receive_command.message.id is not None
    turn.do(say.SendUpstream(jsonrpc.result(receive_command.message.id, {}), 0))


def _note_heard(turn: Turn, command: say.Receive, call: Call | None) -> Call | None:
    """Note where the other side's stream stands, and that it is alive."""
    if call is not None:
        return _heard(turn, call, command.cursor)
    if command.cursor and isinstance(command.about, About):  # not that of a call that has ended
        turn.happen(say.CursorMoved(command.cursor))
    return None


def _receive_unasked(turn: Turn, command: say.Receive) -> None:
    message = command.message
    call = _note_heard(turn, command, _call_about(turn, command.about))
    stream_id = STANDALONE_STREAM
    if call is not None:
        if call.stream is None:
            call = turn.open_stream(call)
        assert call.stream is not None
        stream_id = call.stream
    if not turn.fits(message):
        _refuse_large(turn, message)
    elif message.kind is Kind.REQUEST:
        _ask(turn, message, stream_id)
    elif message.method == "notifications/cancelled":
        turn.log(stream_id, _withdraw_ask(turn, message))
    else:
        _note_task(turn, news_in_notification(message))
        turn.log(stream_id, message)


def _withdraw_ask(turn: Turn, message: Message) -> Message:
    """Take a question back; give the cancellation under the id by which the client knows the question."""
    upstream_id = jsonrpc.cancelled_id(message)
    asks = (ask for ask in turn.state.asks.values() if not ask.withdrawn)
    ask = next((ask for ask in asks if ask.upstream_id == upstream_id), None)
    if ask is None:
        return message
    turn.happen(say.AskClosed(ask.client_id))
    return message if ask.client_id == ask.upstream_id else jsonrpc.with_cancelled_id(message, ask.client_id)


def _refuse_large(turn: Turn, message: Message) -> None:
    """Turn away what is too large to be kept: a question is answered with an error, a notification is lost."""
    if message.id is not None:
        reason = f"the request has {len(message.raw)} bytes; a stream keeps {turn.limits.event_bytes_max}"
        turn.do(say.SendUpstream(jsonrpc.error(message.id, jsonrpc.OVERLOADED, reason), 0))


def _call_about(turn: Turn, about: RequestId | About) -> Call | None:
    """Find the call whose stream the message belongs to; None: the standalone stream."""
    if not isinstance(about, About):
        return turn.state.calls.get(about)
    if about is About.NOTHING:
        return None
    return _most_likely_call(turn)


def _most_likely_call(turn: Turn) -> Call | None:
    """Choose where the transport does not tell (stdio).

    With one request in progress it is that one. With several, the client's standalone stream if the client reads it,
    else the newest request: a server's question must reach the client on some stream, or both wait for ever.
    """
    calls = [call for call in turn.state.calls.values() if call.sent and not (call.cancelled_unix_s or call.own)]
    if not calls or (len(calls) > 1 and turn.state.listening):
        return None
    return calls[-1]


def _heard(turn: Turn, call: Call, cursor: str) -> Call:
    changed = replace(call, heard_unix_s=turn.now_unix_s, upstream_cursor=cursor or call.upstream_cursor)
    turn.happen(say.CallChanged(changed))
    return changed


def _ask(turn: Turn, message: Message, stream_id: int) -> None:
    """Pass a request of the upstream on to the client, under an id that no older one of them has."""
    assert message.id is not None
    open_asks = [ask for ask in turn.state.asks.values() if not ask.withdrawn]
    if len(open_asks) >= turn.limits.asks_max:
        _give_up_ask(turn, open_asks[0])
    client_id = upstream_id = message.id
    if client_id in turn.state.asks:
        client_id = f"{upstream_id}~{turn.state.log.next_sequence}"
        message = with_id(message, client_id)
    turn.happen(say.AskOpened(Ask(client_id, upstream_id, message.method, stream_id)))
    turn.log(stream_id, message)


def _give_up_ask(turn: Turn, ask: Ask) -> None:
    """Answer the oldest question ourselves: a client that left so many open is not going to answer that one."""
    turn.happen(say.AskClosed(ask.client_id))
    refusal = jsonrpc.error(ask.upstream_id, jsonrpc.OVERLOADED, "the client has too many requests to answer")
    turn.do(say.SendUpstream(refusal, 0))


def move_cursor(turn: Turn, command: say.MoveCursor) -> None:
    """Note how far the upstream's own stream has been read, to resume it there."""
    if isinstance(command.about, About):
        turn.happen(say.CursorMoved(command.cursor))
        return
    call = turn.state.calls.get(command.about)
    if call is not None:
        _heard(turn, call, command.cursor)


def delivered(turn: Turn, command: say.Delivered) -> None:
    """The upstream has a notification or an answer."""
    if command.ticket in turn.state.posts:
        turn.happen(say.PostEnded(command.ticket))
        turn.reply(command.ticket, say.Accepted())


def refused(turn: Turn, command: say.Refused) -> None:
    """Something that was sent gets no answer: send it again where that is safe, else say what became of it."""
    call = turn.call_by_ticket(command.ticket)
    if call is not None:
        _refused_call(turn, call, command)
    elif command.ticket in turn.state.posts:
        _refused_post(turn, command)


def _refused_call(turn: Turn, call: Call, command: say.Refused) -> None:
    may_be_sent = call.message is not None and not call.heard_unix_s  # the upstream has not begun with it
    is_over = turn.state.opened and turn.now_unix_s - call.started_unix_s >= turn.limits.link_wait_seconds
    if command.failure is Failure.NOT_SENT and may_be_sent and is_over:
        give_up_unsent(turn, call, command.detail)  # connecting alone took all its time
    elif command.failure is Failure.NOT_SENT and may_be_sent:
        # It waits; `Overdue`, which goes on watching it, tries again until the time for that is over.
        turn.happen(say.LinkChanged(turn.state.link, command.detail))
        turn.happen(say.CallChanged(replace(call, sent=False)))
    elif command.failure is Failure.SESSION_LOST and may_be_sent and not call.resent and turn.state.opened:
        turn.happen(say.CallChanged(replace(call, sent=False, resent=True)))
        _reopen(turn, command.detail)
    elif not turn.state.opened:
        turn.end_unanswered(call, say.NotDone(say.Problem.UNAVAILABLE, command.detail))
        turn.do(say.Discard())
    else:
        code = _CODES[command.failure]
        if code == jsonrpc.UPSTREAM_UNAVAILABLE and not may_be_sent:
            code = jsonrpc.OUTCOME_UNKNOWN  # what could not be sent is the wish to hear the rest of it
        turn.fail(call, code, command.detail)


def give_up_unsent(turn: Turn, call: Call, detail: str) -> None:
    """End a call that the upstream never saw: it can safely be tried again."""
    if call.stream is None:
        turn.end_unanswered(call, say.NotDone(say.Problem.UNAVAILABLE, detail))
    else:
        turn.fail(call, jsonrpc.UPSTREAM_UNAVAILABLE, detail)


_CODES = {
    Failure.NOT_SENT: jsonrpc.UPSTREAM_UNAVAILABLE,
    Failure.SESSION_LOST: jsonrpc.UPSTREAM_UNAVAILABLE,
    Failure.OUTCOME_UNKNOWN: jsonrpc.OUTCOME_UNKNOWN,
    Failure.REFUSED: jsonrpc.INTERNAL_ERROR,
    Failure.UNREADABLE: jsonrpc.UNREADABLE_ANSWER,
}


def _refused_post(turn: Turn, command: say.Refused) -> None:
    post = turn.state.posts[command.ticket]
    if command.failure is Failure.NOT_SENT:
        turn.happen(say.PostChanged(replace(post, sent=False)))
        turn.happen(say.LinkChanged(turn.state.link, command.detail))
    elif command.failure is Failure.SESSION_LOST and post.message.kind is Kind.NOTIFICATION and not post.resent:
        turn.happen(say.PostChanged(replace(post, sent=False, resent=True)))
        _reopen(turn, command.detail)
    elif command.failure is Failure.SESSION_LOST and post.message.kind is Kind.RESPONSE:
        # An answer to a question of an incarnation that is gone: nobody waits for it.
        turn.happen(say.PostEnded(post.ticket))
        turn.reply(post.ticket, say.Accepted())
        _reopen(turn, command.detail)
    else:
        problem = say.Problem.LOST if command.failure is Failure.OUTCOME_UNKNOWN else say.Problem.REFUSED
        turn.happen(say.PostEnded(post.ticket))
        turn.not_done(post.ticket, problem, command.detail)


def _reopen(turn: Turn, detail: str) -> None:
    """The other side has forgotten the session: leave the link, and open it again with the kept handshake."""
    if turn.state.link is LinkPhase.UP:
        turn.do(say.CloseLink(end_session=False))
        turn.happen(say.LinkChanged(LinkPhase.DOWN, detail))
        turn.ensure_link()
