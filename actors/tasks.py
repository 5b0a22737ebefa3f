"""Tasks that the other side works on for a session, as far as they keep it alive (MCP 2025-11-25, utilities/tasks).

A task goes on while its client is away, so a server that lives in one process per session must not be ended for
idleness while it works on one. What is read here is a task's id, whether it has ended, and how long it may be kept;
all of it passes on as it came. Pure.
"""

from __future__ import annotations

import attrs
import msgspec

from actors.jsonrpc import Kind, Message
from actors.reading import reader

STATUS_NOTIFICATION = "notifications/tasks/status"
_METHOD_PREFIX = "tasks/"
_ENDED = frozenset(("completed", "failed", "cancelled"))


@attrs.frozen
class TaskNews:
    """What was said of one task."""

    id: str
    is_live: bool
    ttl_seconds: float | None  # from its creation; None: it does not say, or is kept for ever


class _Task(msgspec.Struct, gc=False):
    taskId: str
    status: str = ""
    ttl: float | None = None  # milliseconds


class _Created(msgspec.Struct, gc=False):
    task: _Task


class _CreatedAnswer(msgspec.Struct, gc=False):
    result: _Created


class _TaskAnswer(msgspec.Struct, gc=False):
    result: _Task


class _TaskNotification(msgspec.Struct, gc=False):
    params: _Task


_decode_created = reader(_CreatedAnswer)
_decode_answer = reader(_TaskAnswer)
_decode_notification = reader(_TaskNotification)


def news_in_answer(method: str, request: Message, answer: Message) -> TaskNews | None:
    """Find what an answer says of a task: one that it makes, or one that was asked about."""
    try:
        if method.startswith(_METHOD_PREFIX):
            return _news(_decode_answer(answer.raw).result)
        if b'"task"' in request.raw:  # without that, nobody asked for a task
            return _news(_decode_created(answer.raw).result.task)
    except msgspec.MsgspecError:
        pass  # an error, a list of tasks, or something else
    return None


def news_in_notification(message: Message) -> TaskNews | None:
    """Find what a notification says of a task."""
    if message.method != STATUS_NOTIFICATION or message.kind is not Kind.NOTIFICATION:
        return None
    try:
        return _news(_decode_notification(message.raw).params)
    except msgspec.MsgspecError:
        return None


def _news(task: _Task) -> TaskNews:
    return TaskNews(task.taskId, task.status not in _ENDED, None if task.ttl is None else task.ttl / 1000)
