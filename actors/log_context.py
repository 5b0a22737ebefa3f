"""What a log line is about: the request that is being served, and the session that speaks.

Whoever writes a line should not have to know it; whoever reads the line should. So the task that serves a request, or
runs a session, says once what it does, and the lines of its children say it, too. Saying it is one `ContextVar.set`;
the fields are made when a line is written, and not before: a request that logs nothing pays for nothing.

A request's note is good in its own task and in that task's descendants only. Contexts are inherited by whatever is
started meanwhile, and much of that lives longer than the request and works for others: an actor that the request
woke, a pooled connection that it opened. A session's note is good for everything that the session starts. What lives
longer than whoever starts it, or serves many, is started by `start_apart`.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, ContextVar
from typing import Any, Protocol

import trio

from persistence.shown import shown_id


class Served(Protocol):
    """A request that is being served."""

    @property
    def task(self) -> trio.lowlevel.Task:
        """The task that serves it."""
        ...

    def log_fields(self) -> Mapping[str, str]:
        """What its lines say of it; without secrets."""
        ...


_REQUEST: ContextVar[Served | None] = ContextVar("outlast_request", default=None)
_SESSION: ContextVar[tuple[str, str] | None] = ContextVar("outlast_session", default=None)

# Sets what the current task serves, until the next one: `serving(request)`. The method itself, since it is called once
# for each request.
serving: Callable[[Served | None], object] = _REQUEST.set


def speaking_for(session_id: str, server_id: str = "") -> None:
    """Say which session the current task, and all that it starts, works for.

    Args:
      server_id: the server behind it; "" where that is not known yet.
    """
    _SESSION.set((session_id, server_id))


def start_apart(nursery: trio.Nursery, run: Callable[..., Awaitable[object]], *args: Any, name: str = "") -> None:
    """Start a task with a life of its own: its lines are of no session, until it says so, and of no request.

    It keeps nothing of whoever starts it either: a context holds on to the request noted in it, and a request to the
    task of its connection.

    Args:
      name: of the task; "": made from that of `run`, a string for each task.
    """
    Context().run(functools.partial(nursery.start_soon, name=name or None), run, *args)


def log_fields() -> dict[str, str]:
    """Give what a line that is written here and now is about."""
    fields: dict[str, str] = {}
    session = _SESSION.get()
    if session is not None:
        session_id, server_id = session
        fields["session"] = shown_id(session_id)
        if server_id:
            fields["server"] = server_id
    request = _REQUEST.get()
    if request is not None and _is_within(request.task):
        fields.update(request.log_fields())
    return fields


def _is_within(ancestor: trio.lowlevel.Task) -> bool:
    """Whether the current task is this one, or was started within it, at whatever remove."""
    try:
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
    except RuntimeError:  # a thread, or no trio at all
        return False
    while task is not None and task is not ancestor:
        nursery = task.parent_nursery
        task = None if nursery is None else nursery.parent_task
    return task is ancestor
