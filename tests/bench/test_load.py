"""The load counts right answers only, and says what was wrong with the others.

Method: an upstream in the test's own loop, whose script goes wrong on purpose; the load runs for a tenth of a second.
The honest upstream is the control: everything is the same but the fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bench.caller import SessionFailed, is_echo, last_event
from bench.load import Measured, Plan, run, run_populate
from bench.script import Answer, Script
from bench.upstream import UpstreamConnection, UpstreamServer


class _FaultyScript(Script):
    """Alters every answer to a call; all else is as in `Script`."""

    def __init__(self, fault: Callable[[Answer], Answer]) -> None:
        super().__init__()
        self._fault = fault

    def answer(self, method: str, session_id: str, body: bytes) -> Answer:
        answer = super().answer(method, session_id, body)
        return self._fault(answer) if b"tools/call" in body else answer


async def _load(script: Script, *, sessions: int = 3, sse: bool = False) -> Measured:
    async with UpstreamServer(script, sse=sse) as server:
        return await run(Plan(server.url, sessions=sessions, seconds=0.1, warm_up_seconds=0.02))


def _other_session(answer: Answer) -> Answer:
    return Answer(200, answer.body.replace(b"of session 1", b"of session 2"))


def _other_id(answer: Answer) -> Answer:
    return Answer(200, answer.body.replace(b'"id":', b'"id":1'))


@pytest.mark.parametrize("sse", [False, True], ids=["json", "sse"])
def test_an_honest_upstream_gives_calls_and_no_errors(sse: bool) -> None:
    script = Script()
    measured = asyncio.run(_load(script, sse=sse))
    assert measured.errors == {}
    assert measured.calls > 0
    assert 0 < measured.p50_ms <= measured.p99_ms <= measured.max_ms
    assert script.sessions == 0  # each one was ended


@pytest.mark.parametrize("fault", [_other_session, _other_id])
def test_another_calls_answer_is_counted_as_wrong(fault: Callable[[Answer], Answer]) -> None:
    measured = asyncio.run(_load(_FaultyScript(fault)))
    assert measured.errors["wrong answer"] > 0
    if fault is _other_id:
        assert measured.calls == 0


def test_a_refused_call_is_counted_by_its_status() -> None:
    measured = asyncio.run(_load(_FaultyScript(lambda answer: Answer(503))))
    assert measured.calls == 0
    assert list(measured.errors) == ["status 503"]


def test_a_lost_connection_is_counted_and_the_session_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = 0

    def drop_the_tenth(connection: UpstreamConnection) -> None:
        nonlocal answered
        answered += 1
        if answered == 10:
            connection.close()
        else:
            whole(connection)

    whole = UpstreamConnection.on_message_complete
    monkeypatch.setattr(UpstreamConnection, "on_message_complete", drop_the_tenth)
    measured = asyncio.run(_load(Script(), sessions=1))
    assert measured.errors == {"connection lost": 1}
    assert measured.calls > 0


def test_a_session_that_cannot_be_opened_ends_the_run() -> None:
    class Refusing(Script):
        def answer(self, method: str, session_id: str, body: bytes) -> Answer:
            return Answer(503)

    with pytest.raises(SessionFailed, match="initialize was answered with 503"):
        asyncio.run(_load(Refusing()))


def test_populating_leaves_every_session_open() -> None:
    async def populate(script: Script) -> Measured:
        async with UpstreamServer(script) as server:
            return await run_populate(Plan(server.url, sessions=100))

    script = Script()
    assert asyncio.run(populate(script)).sessions == 100
    assert script.sessions == 100


def test_the_answer_is_found_in_a_stream_behind_its_priming_event() -> None:
    message = b'{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"hello"}]}}'
    stream = b"id: 1\r\ndata: \r\n\r\nid: 2\r\nevent: message\r\ndata: " + message + b"\r\n\r\n"
    assert last_event(stream) == message
    assert is_echo(stream, 7, "hello")
    assert not is_echo(stream, 8, "hello")
    assert not is_echo(stream, 7, "other")
    assert not is_echo(b"", 7, "hello")
