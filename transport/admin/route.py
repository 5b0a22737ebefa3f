"""Route: one thing that can be asked of the administration. The table of them dispatches, and is what is described.

A path template has parts in braces: `/admin/sessions/{session}`. Templates are matched part by part, whole: a slash
that a client encoded is a slash, and matches nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import attrs
import msgspec

from transport.admin.problem import Refusal, explained
from transport.admin.shapes import Asked, NoQuery
from transport.exchange import RequestHead

PARAMETERS_MAX = 50  # more are refused unread
SEGMENT_PATTERN = "^[!-.0-~]+$"
SEGMENT_CHARACTERS_MAX = 1024


@attrs.frozen
class Request:
    """What was asked, checked against its route."""

    session: str  # the id or reference in the path; "" where the route has none
    query: Any  # of the route's type
    body: Any


@attrs.frozen(kw_only=True)
class Route:
    """One thing that can be asked."""

    method: str
    template: str
    name: str  # of the operation, for generated clients
    about: str
    answer: Callable[[Request], Awaitable[object]]
    tells: type | None  # what it answers; None: nothing (204)
    query: type[Asked] = NoQuery
    body: type[Asked] | None = None
    refusals: Mapping[HTTPStatus, str] = attrs.field(factory=dict)  # besides those that any route may give

    @property
    def has_session(self) -> bool:
        return "{session}" in self.template

    def session_in(self, path: str) -> str | None:
        """Give what stands in the session's place of a path; "" where there is no such place; None: no match."""
        parts, wanted = path.split("/"), self.template.split("/")
        if len(parts) != len(wanted):
            return None
        session = ""
        for part, template in zip(parts, wanted, strict=True):
            if template == "{session}":
                session = part
            elif part != template:
                return None
        return session if session or not self.has_session else None


@attrs.frozen
class Match:
    """A route, and what of the path it was found by."""

    route: Route
    session: str


def match(routes: Sequence[Route], head: RequestHead) -> Match:
    """Find the route of a request.

    Raises:
      Refusal: 404 or 405.
    """
    found = [Match(route, session) for route in routes if (session := route.session_in(head.path)) is not None]
    if not found:
        raise Refusal(HTTPStatus.NOT_FOUND, "there is nothing at this path; /admin/openapi.json says what there is")
    method = "GET" if head.method == "HEAD" else head.method
    for one in found:
        if one.route.method == method:
            return one
    allowed = sorted({one.route.method for one in found} | ({"HEAD"} if any(_reads(one) for one in found) else set()))
    raise Refusal(
        HTTPStatus.METHOD_NOT_ALLOWED,
        f"use {' or '.join(allowed)}",
        headers=((b"allow", ", ".join(allowed).encode()),),
    )


def _reads(one: Match) -> bool:
    return one.route.method == "GET"


def read_query(raw: str, kind: type[Asked]) -> Asked:
    """Read a query as its route has it: numbers and truths from their texts.

    Raises:
      Refusal: 400.
    """
    try:
        pairs = parse_qsl(
            raw, keep_blank_values=True, strict_parsing=bool(raw), errors="strict", max_num_fields=PARAMETERS_MAX
        )
    except ValueError:
        detail = "the query is malformed: NAME=VALUE&NAME=VALUE, percent-encoded UTF-8"
        raise Refusal(HTTPStatus.BAD_REQUEST, detail) from None
    given = dict(pairs)
    if len(given) != len(pairs):
        twice = next(name for name, _ in pairs if sum(1 for other, _ in pairs if other == name) > 1)
        raise Refusal(HTTPStatus.BAD_REQUEST, "this parameter is given more than once", field=_shown(twice))
    fields = {field.encode_name for field in msgspec.structs.fields(kind)}
    unknown = next((name for name in given if name not in fields), None)
    if unknown is not None:
        known = ", ".join(sorted(fields)) or "none"
        raise Refusal(HTTPStatus.BAD_REQUEST, f"there is no such parameter; known: {known}", field=_shown(unknown))
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise explained(error, HTTPStatus.BAD_REQUEST) from None


def read_body(raw: bytes, content_type: str, kind: type[Asked]) -> Asked:
    """Read a body as its route has it.

    Raises:
      Refusal: 415, 400 (no JSON), 422 (JSON, but not what is wanted).
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send the body as application/json")
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise explained(error, HTTPStatus.UNPROCESSABLE_ENTITY) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal(HTTPStatus.BAD_REQUEST, "the body is no JSON text") from None


def _shown(name: str) -> str:
    return f"$.{name[:64]}"
