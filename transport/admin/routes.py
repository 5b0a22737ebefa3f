"""The table of what can be asked of the administration, and who answers each. It dispatches, and it is described."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TypeVar

import attrs
from msgspec import UnsetType

from actors import messages as say
from actors.administration import Administration
from actors.listing import Filter, Order, Place
from actors.portable_redaction import without_credentials
from actors.runtime import Runtime
from transport.admin import shapes, shown
from transport.admin.openapi import document
from transport.admin.route import Request, Route

T = TypeVar("T")

_UNDECIDED = "it is not known whether it was done; look before you do it again"
_CHANGES = {
    HTTPStatus.CONFLICT: "the session will not do this, or a limit is against it; nothing was done",
    HTTPStatus.GATEWAY_TIMEOUT: _UNDECIDED,
}


@attrs.frozen
class Seen:
    """What the administration shows and changes."""

    runtime: Runtime
    upstreams: Callable[[], Sequence[shapes.UpstreamShown]]  # how each server fares
    version: str  # of the gateway


def make_routes(seen: Seen) -> tuple[Route, ...]:
    """Make the table."""
    sessions = _Sessions(seen.runtime)
    routes: list[Route] = [*_reading(sessions), *_changing(sessions), _analytics(seen, sessions)]

    async def describe(_: Request) -> object:
        return description

    routes.append(
        Route(
            method="GET",
            template="/admin/openapi.json",
            name="describe",
            about="This description.",
            answer=describe,
            tells=dict,
        )
    )
    description = document(routes, seen.version)
    return tuple(routes)


def _reading(sessions: _Sessions) -> Sequence[Route]:
    return (
        Route(
            method="GET",
            template="/admin/sessions",
            name="listSessions",
            about="List sessions by pages.",
            answer=sessions.list,
            tells=shapes.SessionList,
            query=shapes.ListQuery,
        ),
        Route(
            method="GET",
            template="/admin/sessions/{session}",
            name="showSession",
            about="Show a session, without its secrets.",
            answer=sessions.show,
            tells=shapes.SessionShown,
        ),
        Route(
            method="GET",
            template="/admin/sessions/{session}/history",
            name="showHistory",
            about="Show a session's tool calls, newest first.",
            answer=sessions.history,
            tells=shapes.History,
            query=shapes.HistoryQuery,
        ),
    )


def _changing(sessions: _Sessions) -> Sequence[Route]:
    return (
        Route(
            method="DELETE",
            template="/admin/sessions/{session}",
            name="closeSession",
            about="End a session for good: here, in the store and upstream. Tells whether its server was told.",
            answer=sessions.close,
            tells=shapes.Closed,
            refusals=_CHANGES,
        ),
        Route(
            method="PATCH",
            template="/admin/sessions/{session}",
            name="changeMetadata",
            about="Change a session's tags and metadata; durable when answered.",
            answer=sessions.change,
            tells=shapes.SessionShown,
            body=shapes.MetadataChange,
            refusals=_CHANGES,
        ),
        Route(
            method="POST",
            template="/admin/sessions/{session}/reinitialize",
            name="reinitializeSession",
            about="Drop a session's upstream session and do its handshake again. Calls in progress end in an error.",
            answer=sessions.reinitialize,
            tells=shapes.SessionShown,
            refusals=_CHANGES,
        ),
    )


def _analytics(seen: Seen, sessions: _Sessions) -> Route:
    async def tell(_: Request) -> shapes.AnalyticsShown:
        runtime = seen.runtime
        return shown.analytics(
            runtime.analytics(),
            at_unix_s=sessions.administration.now_unix_s(),
            sessions=runtime.registry.statistics(),
            writer=runtime.writer.statistics(),
            degraded=runtime.degraded,
            upstreams=seen.upstreams(),
        )

    return Route(
        method="GET",
        template="/admin/analytics",
        name="showAnalytics",
        about="Show what sessions are used for, since the gateway started.",
        answer=tell,
        tells=shapes.AnalyticsShown,
    )


class _Sessions:
    """Answers what is asked about sessions."""

    def __init__(self, runtime: Runtime) -> None:
        self.administration = Administration(runtime)

    async def list(self, request: Request) -> shapes.SessionList:
        query: shapes.ListQuery = request.query
        now_unix_s = self.administration.now_unix_s()
        idle_min_seconds, idle_max_seconds = _given(query.idle_seconds_min), _given(query.idle_seconds_max)
        state = _given(query.state)
        wanted = Filter(
            server_id=_given(query.server),
            initialized=None if state is None else state == "initialized",
            reason=_given(query.reason),
            last_active_from_unix_s=None if idle_max_seconds is None else now_unix_s - idle_max_seconds,
            last_active_until_unix_s=None if idle_min_seconds is None else now_unix_s - idle_min_seconds,
            text=_given(query.text),
            subject=_given(query.subject),
            tag=_given(query.tag),
            created_from_unix_s=_given(query.created_from),
            created_until_unix_s=_given(query.created_until),
        )
        cursor = _given(query.cursor)
        after = None if cursor is None else Place.read(cursor)
        found = await self.administration.page(
            wanted, order=Order(query.order), after=after, limit=query.limit, with_records=query.records
        )
        return shown.page(found)

    async def show(self, request: Request) -> shapes.SessionShown:
        session_id = await self.administration.find(request.session)
        return shown.record(await self.administration.read(session_id))

    async def history(self, request: Request) -> shapes.History:
        query: shapes.HistoryQuery = request.query
        session_id = await self.administration.find(request.session)
        return shown.history(
            await self.administration.history(session_id, before=_given(query.before), limit=query.limit)
        )

    async def close(self, request: Request) -> shapes.Closed:
        end = await self.administration.close(await self.administration.find(request.session))
        return shapes.Closed(upstream=end.told.value, detail=without_credentials(end.detail))

    async def reinitialize(self, request: Request) -> shapes.SessionShown:
        session_id = await self.administration.find(request.session)
        await self.administration.reinitialize(session_id)
        return shown.record(await self.administration.read(session_id))

    async def change(self, request: Request) -> shapes.SessionShown:
        change: shapes.MetadataChange = request.body
        session_id = await self.administration.find(request.session)

        def make(ticket: int) -> say.UpdateMetadata:
            return say.UpdateMetadata(ticket, change.add_tags, change.remove_tags, change.set, change.forget)

        await self.administration.update_metadata(session_id, make)
        return shown.record(await self.administration.read(session_id))


def _given(value: T | UnsetType) -> T | None:
    return None if isinstance(value, UnsetType) else value
