"""An authorization server's token endpoint without a network: implements `SideRequests`, with hooks."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import attrs
import trio

from transport.upstreams.side_requests import Reply
from transport.upstreams.token_discovery import TokenClient

SERVER = "https://wiki.example/mcp"
ISSUER = "https://login.example"
ENDPOINT = f"{ISSUER}/token"
SECRET = "s3cret-of-the-gateway"


async def _nothing() -> None:
    await trio.lowlevel.checkpoint()


@attrs.define
class TokenServer:
    """Issues `token-1`, `token-2`, ... and takes note of what it was asked."""

    lasts_seconds: object = 100
    refusal: tuple[int, object] | None = None  # in place of a token: status, and what JSON is made of
    is_away: bool = False
    before_answer: Callable[[], Awaitable[None]] = _nothing
    extra: Mapping[str, Any] = {}
    documents: dict[str, object] = attrs.field(factory=dict)
    challenges: str = ""  # what it says to who brings no token
    forms: list[dict[str, str]] = attrs.field(factory=list)
    headers: list[Mapping[str, str]] = attrs.field(factory=list)
    fetched: list[str] = attrs.field(factory=list)

    async def fetch(self, url: str) -> bytes:
        await trio.lowlevel.checkpoint()
        self.fetched.append(url)
        if self.is_away or url not in self.documents:
            raise OSError("status 404")
        return json.dumps(self.documents[url]).encode()

    async def challenge(self, url: str) -> str:
        await trio.lowlevel.checkpoint()
        self.fetched.append(url)
        return self.challenges

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Reply:
        self.forms.append(dict(parse_qsl(body.decode(), strict_parsing=True)))
        self.headers.append(headers)
        number = len(self.forms)
        await self.before_answer()
        if self.is_away:
            raise OSError("no connection to the upstream: refused")
        if self.refusal is not None:
            status, content = self.refusal
            return Reply(status, content if isinstance(content, bytes) else json.dumps(content).encode())
        answer = {"access_token": f"token-{number}", "token_type": "Bearer", "expires_in": self.lasts_seconds}
        return Reply(200, json.dumps({**answer, **self.extra}).encode())


def client(**changes: Any) -> TokenClient:
    facts: dict[str, Any] = {"client_id": "outlast", "client_secret": SECRET, "server_url": SERVER}
    return TokenClient(**(facts | {"token_endpoint": ENDPOINT} | changes))
