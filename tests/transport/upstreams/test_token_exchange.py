"""Tokens in exchange for clients' own: whose is whose, how long they last, and what is said where there is none."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.ids import ANONYMOUS, Principal
from actors.link import ConnectFailed
from tests.transport.modern_messages import call, parsed
from tests.transport.upstreams.bed import CALL, TICKET, handshake, new_session
from tests.transport.upstreams.collecting import collected
from tests.transport.upstreams.recording_inbox import RecordingInbox, Refused
from tests.transport.upstreams.scripted_upstream import Caller, ScriptedUpstream, SeenRequest
from tests.transport.upstreams.token_server import TokenServer, client
from transport.exchange import RequestHead
from transport.subjects import LiveSubjects, Subject
from transport.upstreams.access_tokens import TokenRefused, TokenSource, TokenUnavailable
from transport.upstreams.authorized_pool import AuthorizedPool
from transport.upstreams.http_pool import HttpPool
from transport.upstreams.http_target import HttpTarget
from transport.upstreams.side_requests import Reply
from transport.upstreams.stateless import NoAnswer
from transport.upstreams.stateless_http import StatelessHttp
from transport.upstreams.streamable_http import StreamableHttpConnector
from transport.upstreams.token_exchange import EXCHANGES_MAX, TokenExchange
from transport.upstreams.token_requests import TokenRequests

ISSUER = "https://login.example"
ANN, BOB = (Principal(ISSUER, "inspector", name) for name in ("ann", "bob"))


@attrs.define
class ExchangeServer(TokenServer):
    """Gives for each token one that tells which it was got for."""

    async def post(self, url: str, headers: object, body: bytes) -> Reply:
        reply = await super().post(url, headers, body)  # type: ignore[arg-type]
        if reply.status != 200 or self.refusal is not None:
            return reply
        answer = json.loads(reply.body)
        got_for = base64.urlsafe_b64encode(dict(parse_qsl(body.decode()))["subject_token"].encode()).decode()
        return Reply(200, json.dumps({**answer, "access_token": f"for-{got_for}"}).encode())


def for_(token: str) -> str:
    return f"for-{base64.urlsafe_b64encode(token.encode()).decode()}"


@attrs.frozen
class Bed:
    server: ExchangeServer
    subjects: LiveSubjects
    exchange: TokenExchange
    told: list[str]

    async def presents(self, principal: Principal, token: str, *, lasts_seconds: float = 1000.0) -> None:
        """Be the door, for one request."""
        with self.subjects.present(principal, head(token), trio.current_time() + lasts_seconds):
            await trio.lowlevel.checkpoint()

    def subject_tokens(self) -> list[str]:
        return [form["subject_token"] for form in self.server.forms]


def head(token: str) -> RequestHead:
    return RequestHead("POST", "/mcp", "", {"authorization": f"Bearer {token}"}, "peer")


@asynccontextmanager
async def bed(
    server: ExchangeServer | None = None,
    *,
    held_max: int = 100,
    key_of: Callable[[Subject], Hashable] | None = None,
) -> AsyncIterator[Bed]:
    server, subjects, told = server or ExchangeServer(lasts_seconds=100), LiveSubjects(ISSUER, ["wiki"]), list[str]()
    async with trio.open_nursery() as nursery:

        def start_soon(run: Callable[[], object]) -> bool:
            nursery.start_soon(run)  # type: ignore[arg-type]
            return True

        requests = TokenRequests("wiki", client(), server)
        options = {} if key_of is None else {"key_of": key_of}
        exchange = TokenExchange(
            requests, start_soon, subjects, server="wiki", told=told.append, held_max=held_max, **options
        )
        yield Bed(server, subjects, exchange, told)
        nursery.cancel_scope.cancel()


# ---- whose is whose ----


async def test_the_client_s_token_is_exchanged_with_the_gateway_s_credentials(autojump_clock: MockClock) -> None:
    async with bed() as it:
        await it.presents(ANN, "token-of-ann")
        assert await it.exchange.of(ANN).obtain() == for_("token-of-ann")
        assert it.server.forms == [
            {
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "subject_token": "token-of-ann",
                "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "resource": "https://wiki.example/mcp",
            }
        ]
        assert it.server.headers[0]["Authorization"].startswith("Basic ")


async def of_twenty_owners(it: Bed) -> list[tuple[str, str]]:
    """Twenty owners with twenty sessions each, all at once: give whose token each session got."""
    owners = [Principal(ISSUER, "inspector", f"owner-{number}") for number in range(20)]
    got: list[tuple[str, str]] = []

    async def use(owner: Principal, source: TokenSource) -> None:
        got.append((owner.subject, await source.obtain()))

    for owner in owners:
        await it.presents(owner, f"token-of-{owner.subject}")
    async with trio.open_nursery() as nursery:
        for owner in owners:
            for _ in range(20):
                nursery.start_soon(use, owner, it.exchange.of(owner))
    return got


async def test_no_two_principals_share_a_result(autojump_clock: MockClock) -> None:
    async with bed() as it:
        got = await of_twenty_owners(it)
        assert len(got) == 400
        assert [mine for mine, token in got if token != for_(f"token-of-{mine}")] == []
        assert len(it.server.forms) == 20


async def test_control_without_the_owner_in_the_key_they_do(autojump_clock: MockClock) -> None:
    async with bed(key_of=lambda _: "wiki") as it:
        got = await of_twenty_owners(it)
        assert len([mine for mine, token in got if token != for_(f"token-of-{mine}")]) == 380


async def test_nor_do_two_who_present_the_same_text(autojump_clock: MockClock) -> None:
    """As an issuer of short opaque tokens might have it; the key has both, the principal and the token."""
    async with bed() as it:
        for principal in (ANN, BOB):
            await it.presents(principal, "the-same")
            await it.exchange.of(principal).obtain()
        assert len(it.server.forms) == 2


async def test_a_request_without_a_session_carries_what_its_own_token_was_exchanged_for(
    autojump_clock: MockClock,
) -> None:
    """Two tokens of one principal, at the same time: each request gets its own."""
    got: dict[str, str] = {}

    async def ask(it: Bed, token: str) -> None:
        with it.subjects.present(ANN, head(token), 1000.0):
            await trio.sleep(1)
            got[token] = await it.exchange.of_request().obtain()

    async with bed() as it, trio.open_nursery() as nursery:
        for token in ("broad", "narrow"):
            nursery.start_soon(ask, it, token)
    assert got == {"broad": for_("broad"), "narrow": for_("narrow")}


async def test_a_task_that_a_request_has_left_behind_is_nobody_s(autojump_clock: MockClock) -> None:
    seen = []

    async def outlive(it: Bed) -> None:
        seen.append(it.subjects.of_request())
        await trio.sleep(5)
        seen.append(it.subjects.of_request())

    async with bed() as it, trio.open_nursery() as nursery:
        with it.subjects.present(ANN, head("token-of-ann"), 1000.0):
            nursery.start_soon(outlive, it)
            await trio.sleep(1)
            assert it.subjects.of_request() is not None
        assert it.subjects.of_request() is None
    assert seen == [None, None]


async def test_what_a_server_repeats_of_it_is_hidden_from_everybody(mock_clock: MockClock) -> None:
    """With sessions and without: an error page that quotes the request, sent to the one whose token it is."""

    async def repeat(request: SeenRequest, caller: Caller) -> None:
        await caller.answer(403, request.raw_head, {"Content-Type": "text/plain"})

    async with bed() as it, trio.open_nursery() as nursery:
        upstream, pool = ScriptedUpstream(repeat), HttpPool()
        await nursery.start(upstream.run)
        await nursery.start(pool.run)
        carrier, target = AuthorizedPool(pool, it.exchange), HttpTarget.parse(upstream.url)
        inbox = RecordingInbox(nursery, patience_seconds=600)
        await it.presents(ANN, "token-of-ann")
        link = await StreamableHttpConnector(carrier, target)(new_session(principal=ANN), inbox)
        link.send(CALL, TICKET)
        entry = await inbox.wait()
        assert isinstance(entry, Refused)
        said = [entry.detail]
        with it.subjects.present(ANN, head("token-of-ann"), 1000.0):
            _, end = await collected(await StatelessHttp(carrier, target).send(parsed(call())))
        assert isinstance(end, NoAnswer)
        said.append(end.detail)
        sent = [request.headers["authorization"] for request in upstream.requests]
        nursery.cancel_scope.cancel()
    assert sent == [f"Bearer {for_('token-of-ann')}"] * 2
    for text in said:
        assert "Authorization: Bearer <hidden>" in text


# ---- how long ----


async def test_a_result_is_used_until_it_runs_out_and_then_the_newest_token_is_exchanged(
    autojump_clock: MockClock,
) -> None:
    """It lasts 100 s, and is due at 80: a session goes on with the old one while another is asked for."""
    async with bed() as it:
        await it.presents(ANN, "first")
        source = it.exchange.of(ANN)
        await source.obtain()
        await it.presents(ANN, "second")
        await trio.sleep(79)
        assert source.current() == for_("first")
        assert it.subject_tokens() == ["first"]
        await trio.sleep(2)
        assert source.current() == for_("first")
        await wait_all_tasks_blocked()
        assert source.current() == for_("second")
        assert set(source.shown()) == {for_("first"), for_("second")}  # requests on their way may carry either
        assert it.subject_tokens() == ["first", "second"]


async def test_a_session_that_is_opened_anew_takes_the_newest_at_once(autojump_clock: MockClock) -> None:
    async with bed() as it:
        await it.presents(ANN, "first")
        await it.exchange.of(ANN).obtain()
        await it.presents(ANN, "second")
        assert await it.exchange.of(ANN).obtain() == for_("second")


async def test_no_result_outlasts_the_token_that_it_was_got_for(autojump_clock: MockClock) -> None:
    async with bed() as it:
        await it.presents(ANN, "short", lasts_seconds=30)
        source = it.exchange.of(ANN)
        await source.obtain()
        await trio.sleep(30)
        assert source.current() == ""
        with pytest.raises(TokenUnavailable, match="goes on with the owner's next request"):
            await source.obtain()
        await it.presents(ANN, "fresh")
        assert await source.obtain() == for_("fresh")


async def test_a_refused_result_is_replaced_once_it_is_not_new(autojump_clock: MockClock) -> None:
    async with bed() as it:
        await it.presents(ANN, "first")
        source = it.exchange.of(ANN)
        assert not source.replace("whatever")  # it holds none
        value = await source.obtain()
        assert not source.replace(value)
        await trio.sleep(10)
        assert source.replace(value)
        await source.obtain()
        assert it.subject_tokens() == ["first", "first"]


async def test_what_is_held_is_bounded_and_what_is_over_is_let_go(autojump_clock: MockClock) -> None:
    async with bed(held_max=3) as it:
        for number in range(5):
            await it.presents(ANN, f"token-{number}")
            await it.exchange.of(ANN).obtain()
        assert "3 held" in repr(it.exchange)
        await trio.sleep(2000)
        await it.presents(BOB, "token-of-bob")
        await it.exchange.of(BOB).obtain()
        assert "1 held" in repr(it.exchange)


async def test_so_is_who_is_known(autojump_clock: MockClock) -> None:
    subjects = LiveSubjects(ISSUER, ["wiki"], subjects_max=2)
    owners = [Principal(ISSUER, "inspector", f"owner-{number}") for number in range(3)]
    for owner in owners:
        with subjects.present(owner, head("x"), 100.0):
            pass
    assert [subjects.newest(owner) is not None for owner in owners] == [False, True, True]
    await trio.sleep(100)
    assert subjects.newest(owners[2]) is None


# ---- where there is none ----


@pytest.mark.parametrize("principal", [ANONYMOUS, Principal("outlast:static", "", "ann")])
async def test_who_brings_another_kind_of_credential_is_told_what_is_needed(
    principal: Principal, autojump_clock: MockClock
) -> None:
    async with bed() as it:
        await it.presents(principal, "s3cret-static-token")
        assert it.subjects.newest(principal) is None
        for source in (it.exchange.of(principal), it.exchange.of_request()):
            assert source.current() == ""
            assert not source.replace("x")
            assert list(source.shown()) == []
            with pytest.raises(TokenRefused, match=f"wants a token of each user: present one of {ISSUER}"):
                await source.obtain()
        assert it.server.forms == []


async def test_a_session_whose_owner_is_not_there_is_told_so(autojump_clock: MockClock) -> None:
    async with bed() as it:
        with pytest.raises(TokenUnavailable, match="'wiki' wants a token of the session's owner"):
            await it.exchange.of(ANN).obtain()


async def test_it_is_not_opened_upstream_with_anything_else(mock_clock: MockClock) -> None:
    """Neither asked whether it is still known nor opened anew: nothing reaches the server."""

    async def never(request: SeenRequest, caller: Caller) -> None:
        raise AssertionError

    async with bed() as it, trio.open_nursery() as nursery:
        upstream, pool = ScriptedUpstream(never), HttpPool()
        await nursery.start(upstream.run)
        await nursery.start(pool.run)
        connector = StreamableHttpConnector(AuthorizedPool(pool, it.exchange), HttpTarget.parse(upstream.url))
        inbox = RecordingInbox(nursery)
        await it.presents(BOB, "token-of-bob")  # which is no help to ann's
        with pytest.raises(ConnectFailed, match="goes on with the owner's next request"):
            await connector(new_session(principal=ANN, handshake=handshake()), inbox)
        with pytest.raises(ConnectFailed, match="goes on with the owner's next request"):
            await connector.end_session(new_session(principal=ANN, handshake=handshake()))
        assert upstream.requests == []
        assert it.server.forms == []
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("code", ["invalid_grant", "invalid_target", "insufficient_scope"])
async def test_a_refusal_says_what_to_look_at_and_repeats_no_token(code: str, autojump_clock: MockClock) -> None:
    refusal = {"error": code, "error_description": "s3cret-token-of-ann is no good"}
    async with bed(ExchangeServer(refusal=(400, refusal))) as it:
        await it.presents(ANN, "s3cret-token-of-ann")
        with pytest.raises(TokenRefused, match=rf"\({code}\): look at ") as refused:
            await it.exchange.of(ANN).obtain()
        assert "s3cret" not in str(refused.value)
        assert "s3cret" not in repr((it.exchange, it.subjects, it.subjects.newest(ANN)))


async def test_one_client_s_refusals_are_its_own_and_everybody_s_are_the_operator_s(
    autojump_clock: MockClock,
) -> None:
    async with bed(ExchangeServer(refusal=(401, {"error": "invalid_client"}))) as it:
        for number in range(5):
            assert it.told == []
            await it.presents(ANN, f"token-{number}")
            with pytest.raises(TokenRefused):
                await it.exchange.of(ANN).obtain()
        assert "(invalid_client)" in it.told[-1]
        it.server.refusal = None
        await it.presents(ANN, "good")
        await it.exchange.of(ANN).obtain()
        assert it.told[-1] == ""


async def test_a_token_of_another_type_is_none(autojump_clock: MockClock) -> None:
    saml = {"issued_token_type": "urn:ietf:params:oauth:token-type:saml2"}
    async with bed(ExchangeServer(extra=saml)) as it:
        await it.presents(ANN, "token-of-ann")
        with pytest.raises(TokenRefused, match="no access token"):
            await it.exchange.of(ANN).obtain()


async def test_exchanges_do_not_come_all_at_once(autojump_clock: MockClock) -> None:
    at_work, most = 0, 0

    async def work() -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await trio.sleep(1)
        at_work -= 1

    async with bed(ExchangeServer(before_answer=work)) as it:
        await of_twenty_owners(it)
        assert most == EXCHANGES_MAX
