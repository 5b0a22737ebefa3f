"""Asking the administration of a world, without a connection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import attrs

from actors.administration import Administration
from tests.actors.worlds import World
from tests.transport.fake_exchange import FakeExchange
from transport.admin.operation import administration
from transport.admin.routes import Seen
from transport.admin.shapes import UpstreamShown

UPSTREAM = UpstreamShown(
    server="linear", transport="streamable-http", state="closed", since=1.0, last_error="", refuses_credentials=False
)


def upstreams() -> Sequence[UpstreamShown]:
    return [UPSTREAM]


@attrs.define
class Asking:
    """Asks as an operator."""

    world: World

    async def __call__(self, method: str, path: str, body: object = None, **headers: str) -> FakeExchange:
        """Ask; `body` is sent as JSON, or as it is where it is bytes."""
        operation = administration(Seen(self.world.runtime, upstreams, "1.2.3"))
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        known = {"content-type": "application/json"} if body is not None else {}
        exchange = FakeExchange(method, path, raw, {**known, **headers})
        assert operation.serves(exchange.head.path)
        await operation.operate(exchange, True, ())
        return exchange

    async def get(self, path: str) -> Any:
        exchange = await self("GET", path)
        assert exchange.status == 200, exchange.answer
        return exchange.json

    async def session_id(self, reference: str) -> str:
        return await Administration(self.world.runtime).find(reference)
