"""Nobody gets another's session: every principal tries every session, in every way there is, over real HTTP.

Method: each principal opens a session. Then each tries every session by POST, GET, GET with an event id, DELETE, and by
the paths of HTTP+SSE. To everybody but its owner the answer must be the one that an id gets which never existed: the
same status, headers and bytes. All of it is tried on what was restored after a kill, too. The control takes the
comparison of owners away, and must find sessions of others.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence

import attrs
import pytest
import trio

from tests.e2e.bed import Bed
from tests.e2e.gateway import NO_OWNERS, Gateway
from tests.e2e.raw_client import Answer, RawClient
from tests.e2e.socket_client import connect

PRINCIPALS = 20
SERVER = "plain"
NO_SESSION = "A" * 32  # as long as an id of ours
PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
NOTE = json.dumps({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}).encode()
TRIED_AT_ONCE = 4


def token_of(name: str) -> str:
    return f"secret-of-{name}-0123456789"


def tokens_setting(names: Sequence[str]) -> Mapping[str, str]:
    return {"OUTLAST_CLIENT_TOKENS": ",".join(f"{name}={token_of(name)}" for name in names)}


@attrs.frozen
class Attempt:
    """One way to try a session."""

    method: str
    body: bytes = b""
    last_event_id: str | None = None
    protocol_version: str = "2025-11-25"
    path: str = "/mcp"  # of another transport: the session is named in its query, or its event id


@attrs.frozen
class Owned:
    """A session, and an event id of it."""

    client: RawClient
    event_id: str

    def attempts(self) -> tuple[Attempt, ...]:
        """Give all ways to try it. DELETE last: where it succeeds, nothing else would after it."""
        return (
            *(Attempt("GET", path="/sse?session_id={}"), Attempt("POST", PING, path="/messages?session_id={}")),
            Attempt("GET", last_event_id="{}." + self.event_id, path="/sse"),
            *(Attempt("POST", PING), Attempt("POST", NOTE), Attempt("POST", PING, protocol_version="2025-06-18")),
            *(Attempt("GET"), Attempt("GET", last_event_id=self.event_id), Attempt("DELETE")),
        )


async def attempt(url: str, token: str, session_id: str, what: Attempt) -> Answer:
    """Try a session as somebody. A stream is given without its body, which may have no end."""
    is_legacy = what.path != "/mcp"
    headers = {"last-event-id": what.last_event_id and what.last_event_id.replace("{}", session_id)}
    url = url.removesuffix("/mcp") + what.path.replace("{}", session_id)
    who = RawClient(url, "" if is_legacy else session_id, what.protocol_version, token=token)
    if is_legacy:
        headers |= {"mcp-protocol-version": None, "accept": None if what.method == "POST" else "text/event-stream"}
    async with who.exchange(what.method, what.body, headers=headers) as stream:
        seen = {name: value for name, value in stream.headers.items() if name != "date"}
        return Answer(stream.status, seen, b"" if stream.is_event_stream else await stream.body())


async def open_all(gateway: Gateway, names: Sequence[str]) -> dict[str, Owned]:
    """Have everybody open a session, and get an event id of a call's stream in it."""
    owned = {}
    for name in names:
        client = RawClient(gateway.url(), token=token_of(name))
        await client.open_session()
        call = client.tool_call("progress", key=name, count=1)
        async with client.post(call) as stream:
            frames = await stream.rest()
        owned[name] = Owned(client, next(frame.id for frame in frames if frame.id))
    return owned


async def foreign_sessions_found(gateway: Gateway, owned: Mapping[str, Owned]) -> list[str]:
    """Have everybody try everybody else's session; give what was answered otherwise than for one that never was."""
    found: list[str] = []
    waiting = trio.CapacityLimiter(TRIED_AT_ONCE)
    unknown = {
        name: [await attempt(gateway.url(), token_of(name), NO_SESSION, what) for what in session.attempts()]
        for name, session in owned.items()
    }

    async def try_one(who: str, whose: str) -> None:
        async with waiting:
            session = owned[whose]
            for what, expected in zip(session.attempts(), unknown[who], strict=True):
                answer = await attempt(gateway.url(), token_of(who), session.client.session_id, what)
                if answer != expected or answer.status != 404:
                    found.append(f"{who} got {whose}'s by {what.method} {what.path}: {answer}, and not {expected}")

    async with trio.open_nursery() as nursery:
        for who, whose in itertools.permutations(owned, 2):
            nursery.start_soon(try_one, who, whose)
    return found


async def assert_owners_get_through(gateway: Gateway, owned: Mapping[str, Owned]) -> None:
    """Have everybody use what is theirs, by the transport that it was opened with and short of ending it."""
    for name, session in owned.items():
        for what in session.attempts()[3:-1]:
            answer = await attempt(gateway.url(), token_of(name), session.client.session_id, what)
            assert answer.status in (200, 202), (name, what, answer)


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_sessions_exist_for_their_owners_only_also_after_a_restart(bed: Bed, end: str) -> None:
    names = [f"p{number}" for number in range(PRINCIPALS if end == "kill" else 3)]
    gateway = await bed.gateway(environment=tokens_setting(names), **{SERVER: bed.lasting.plain.target})
    owned = await open_all(gateway, names)
    some = {name: owned[name] for name in names[:3]}
    assert await foreign_sessions_found(gateway, some) == []
    await assert_owners_get_through(gateway, some)
    if end == "kill":
        gateway.kill()
    else:
        await gateway.stop()
    await gateway.start()
    assert await foreign_sessions_found(gateway, owned) == []
    await assert_owners_get_through(gateway, owned)
    for session in owned.values():
        assert (await session.client.delete()).status == 200


async def socket_told(gateway: Gateway, token: str, query: str) -> tuple[object, ...]:
    """Go on with a session by WebSocket; give what was told until the end."""
    headers = [("authorization", f"Bearer {token}")]
    async with connect(gateway, query=query, headers=headers) as client:
        code = await client.end_code()
        assert client.connection.closed is not None
        shown = {name for name, _ in client.connection.handshake_headers}
        return code, client.connection.closed.reason, client.frames, shown


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_sockets_are_for_owners_only_as_well(bed: Bed, is_restarted: bool) -> None:
    names = ["ann", "bob", "cem"]
    gateway = await bed.gateway(environment=tokens_setting(names), **{SERVER: bed.lasting.plain.target})
    owned = await open_all(gateway, names)
    if is_restarted:
        gateway.kill()
        await gateway.start()
    for who in names:
        for form in ("session_id={}", "session_id={}&last_event_id=0-0-0-000000000000"):
            unknown = await socket_told(gateway, token_of(who), form.format(NO_SESSION))
            assert unknown[0] == 4404
            for whose in names:
                if who != whose:
                    query = form.format(owned[whose].client.session_id)
                    assert await socket_told(gateway, token_of(who), query) == unknown
        told = await socket_told(gateway, token_of(who), f"session_id={owned[who].client.session_id}")
        assert "opened over streamable-http" in str(told[1])


async def test_an_event_id_of_another_s_session_is_as_good_as_made_up(bed: Bed) -> None:
    gateway = await bed.gateway(environment=tokens_setting(["ann", "bob"]), **{SERVER: bed.lasting.plain.target})
    owned = await open_all(gateway, ["ann", "bob"])
    theirs, made_up = owned["bob"].event_id, owned["bob"].event_id[::-1]
    answers = [
        await attempt(gateway.url(), token_of("ann"), owned["ann"].client.session_id, Attempt("GET", b"", event_id))
        for event_id in (theirs, made_up)
    ]
    assert answers[0] == answers[1]
    assert answers[0].status == 400


async def test_without_a_token_nothing_tells_whether_a_session_exists(bed: Bed) -> None:
    gateway = await bed.gateway(environment=tokens_setting(["ann"]), **{SERVER: bed.lasting.plain.target})
    owned = await open_all(gateway, ["ann"])
    for what in owned["ann"].attempts():
        for token in ("", "somebody-s-old-token"):
            answers = [
                await attempt(gateway.url(), token, session_id, what)
                for session_id in (owned["ann"].client.session_id, NO_SESSION)
            ]
            assert answers[0] == answers[1]
            assert answers[0].status == 401
            assert answers[0].headers["www-authenticate"].startswith("Bearer")


async def test_control_without_owners_sessions_of_others_are_found(bed: Bed) -> None:
    gateway = await bed.gateway(
        environment=tokens_setting(["ann", "bob"]), weakened=[NO_OWNERS], **{SERVER: bed.lasting.plain.target}
    )
    owned = await open_all(gateway, ["ann", "bob"])
    found = await foreign_sessions_found(gateway, owned)
    for way in ("POST /mcp", "GET /mcp", "DELETE /mcp", "GET /sse", "POST /messages"):
        assert any(f"by {way}" in line for line in found), way
