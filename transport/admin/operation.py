"""The administration as an operation of the gateway: everything below `/admin/`.

A request is matched, checked, answered; whatever goes wrong on the way becomes one problem (`problem.py`).
"""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from actors.handle import CommandRejected, OutcomeUnknown, SessionUnavailable
from actors.registry import Draining, SessionNotFound
from transport.admin.problem import Refusal
from transport.admin.route import Match, Request, match, read_body, read_query
from transport.admin.routes import Seen, make_routes
from transport.exchange import Exchange, Headers
from transport.handler import JSON_HEADERS
from transport.operation import Operation

RETRY_SECONDS = b"1"
_NOT_STORED = (b"cache-control", b"no-store")  # it is about now, and for operators only
_to_json = msgspec.json.Encoder().encode


def administration(seen: Seen) -> Operation:
    """Make the operation.

    Args:
      seen: what it shows and changes.
    """
    routes = make_routes(seen)

    async def operate(exchange: Exchange, _is_operator: bool, extra: Headers) -> None:
        try:
            matched = match(routes, exchange.head)
            answer = await _answer(exchange, matched)
        except Refusal as refusal:
            headers = (*refusal.headers, _NOT_STORED, *extra)
            await exchange.respond(refusal.problem.status, headers, refusal.body)
            return
        if matched.route.tells is None:
            await exchange.respond(204, (_NOT_STORED, *extra), b"")
        else:
            await exchange.respond(200, (*JSON_HEADERS, _NOT_STORED, *extra), _to_json(answer))

    return Operation("/admin/", operate)


async def _answer(exchange: Exchange, matched: Match) -> object:
    """Do what is asked.

    Raises:
      Refusal
    """
    route, head = matched.route, exchange.head
    query = read_query(head.query, route.query)
    body = None
    if route.body is not None:
        body = read_body(await exchange.body(), head.headers.get("content-type", ""), route.body)
    try:
        return await route.answer(Request(matched.session, query, body))
    except SessionNotFound:
        raise Refusal(HTTPStatus.NOT_FOUND, "there is no session of this id or reference") from None
    except CommandRejected as rejected:
        raise Refusal(HTTPStatus.CONFLICT, str(rejected)) from None
    except OutcomeUnknown as unknown:
        detail = f"{unknown}; it may have been done: look before you do it again"
        raise Refusal(HTTPStatus.GATEWAY_TIMEOUT, detail) from None
    except (SessionUnavailable, Draining) as unavailable:
        retry = ((b"retry-after", RETRY_SECONDS),)
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{unavailable}", headers=retry) from None
