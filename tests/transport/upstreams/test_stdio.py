"""Links to child processes: small scripts that misbehave in one way each, and one real MCP server."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec
import pytest
import trio

from actors import jsonrpc
from actors.jsonrpc import Message
from actors.link import About, ConnectFailed, ConnectRejected, Failure, LinkLost
from tests.transport.upstreams.bed import CALL, INITIALIZE, TICKET, VERSION, handshake, new_session
from tests.transport.upstreams.recording_inbox import Delivered, Entry, Lost, Received, RecordingInbox, Refused
from transport.upstreams.child_process import start_child
from transport.upstreams.lines import LineSplitter, as_line
from transport.upstreams.stdio import StdioConnector, StdioLimits, StdioLink, child_environment

# Real processes run on real time: waits below end when something happens, and these only bound how patient the
# link is with children that are made to ignore it.
QUICK = StdioLimits(close_seconds=0.05, terminate_seconds=0.05, last_words_seconds=1.0)

PRELUDE = """
import json, os, signal, subprocess, sys, time
def say(message): sys.stdout.write(json.dumps(message) + "\\n"); sys.stdout.flush()
def answer(request, result): say({"jsonrpc": "2.0", "id": request["id"], "result": result})
def messages():
    for line in sys.stdin: yield json.loads(line)
"""
ECHO = """
for message in messages():
    if "id" in message: answer(message, {"params": message.get("params"), "env": dict(os.environ)})
"""


def connector(script: str, limits: StdioLimits = QUICK, **options: object) -> StdioConnector:
    return StdioConnector((sys.executable, "-c", PRELUDE + script), limits=limits, **options)  # type: ignore[arg-type]


@attrs.frozen
class Running:
    link: StdioLink
    inbox: RecordingInbox

    async def ask(self, message: Message = CALL) -> Entry:
        self.link.send(message, TICKET)
        return await self.inbox.wait()


@asynccontextmanager
async def running(script: str, limits: StdioLimits = QUICK, **options: object) -> AsyncIterator[Running]:
    async with trio.open_nursery() as nursery:
        inbox = RecordingInbox(nursery)
        link = await connector(script, limits, **options)(new_session(), inbox)
        yield Running(link, inbox)
        link.close(end_session=True)


def result_of(entry: Entry) -> dict[str, object]:
    assert isinstance(entry, Received), entry
    decoded: dict[str, dict[str, object]] = msgspec.json.decode(entry.message.raw)
    return decoded["result"]


# ---- relay ----


async def test_request_is_answered_by_its_id() -> None:
    async with running(ECHO) as child:
        entry = await child.ask(jsonrpc.request("1", "x", {"a": [1, None]}))
        assert isinstance(entry, Received)
        assert entry.about == "1"
        assert result_of(entry)["params"] == {"a": [1, None]}


async def test_notification_is_delivered_when_written() -> None:
    async with running(ECHO) as child:
        assert await child.ask(jsonrpc.notification("notifications/initialized")) == Delivered(TICKET)


async def test_message_over_several_lines_is_sent_as_one() -> None:
    pretty = b'{"jsonrpc": "2.0",\r\n "id": 1,\n "method": "x", "params": {"text": "a\\nb"}}'
    async with running(ECHO) as child:
        assert result_of(await child.ask(jsonrpc.parse(pretty)))["params"] == {"text": "a\nb"}
    assert as_line(pretty).count(b"\n") == 1
    assert as_line(b'{"a":1}') == b'{"a":1}\n'


async def test_message_larger_than_the_pipe_passes_both_ways() -> None:
    text = "x" * 3_000_000
    async with running(ECHO) as child:
        entry = await child.ask(jsonrpc.request(1, "x", {"text": text}))
        assert result_of(entry)["params"] == {"text": text}


async def test_progress_belongs_to_the_request_with_its_token() -> None:
    script = """
for message in messages():
    token = message["params"]["_meta"]["progressToken"]
    for each in (token, "other"):
        say({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": each, "progress": 1}})
    answer(message, {})
    say({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 2}})
"""
    async with running(script) as child:
        first = await child.ask(jsonrpc.request(5, "x", {"_meta": {"progressToken": "t"}}))
        entries = [first, *[await child.inbox.wait() for _ in range(3)]]
    # after the answer the token is forgotten
    assert [entry.about for entry in entries if isinstance(entry, Received)] == [5, About.UNKNOWN, 5, About.UNKNOWN]


async def test_what_the_server_asks_belongs_to_nobody_in_particular() -> None:
    asks = {"jsonrpc": "2.0", "id": 1, "method": "roots/list"}
    async with running(f"say({asks})\nfor message in messages(): answer(message, message)") as child:
        entry = await child.inbox.wait()
        assert isinstance(entry, Received)
        assert entry.about is About.UNKNOWN
        assert await child.ask(jsonrpc.result(1, {"roots": []})) == Delivered(TICKET)


async def test_cancel_is_written_to_the_process() -> None:
    script = """
seen = []
for message in messages():
    seen.append(message)
    if message.get("id") == 2: answer(message, {"seen": seen})
"""
    async with running(script) as child:
        child.link.send(CALL, 1)
        child.link.cancel(1, "user")
        seen = result_of(await child.ask(jsonrpc.request(2, "ping")))["seen"]
    assert isinstance(seen, list)
    assert seen[1] == {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": 1, "reason": "user"},
    }


# ---- noise ----


async def test_noise_on_stdout_is_counted_and_skipped() -> None:
    script = """
print("Server starting..."); print(); print("{not json"); print('{"json": "but no message"}', flush=True)
sys.stdout.buffer.write(b"\\xff\\xfe garbage\\n"); sys.stdout.flush()
"""
    async with running(script + ECHO) as child:
        assert isinstance(await child.ask(), Received)
        assert child.link.statistics().noise == 4


async def test_answer_to_nothing_that_was_asked_is_dropped() -> None:
    script = 'say({"jsonrpc": "2.0", "id": 77, "result": {}})\nsay({"jsonrpc": "2.0", "id": "1", "result": {}})' + ECHO
    async with running(script) as child:
        entry = await child.ask()
        assert isinstance(entry, Received)
        assert entry.about == 1
        assert child.link.statistics().stray == 2


async def test_never_ending_line_is_dropped_and_does_not_grow() -> None:
    script = 'for _ in range(100): sys.stdout.write("x" * 100_000)\nprint()' + ECHO
    limits = attrs.evolve(QUICK, line_bytes_max=1_000_000)
    async with running(script, limits) as child:
        assert isinstance(await child.ask(), Received)
        assert child.link.statistics().overlong == 1


async def test_flood_on_stderr_neither_blocks_the_process_nor_fills_the_log() -> None:
    script = 'for each in range(20_000): sys.stderr.write("complaint %d\\n" % each)\nsys.stderr.flush()' + ECHO
    async with running(script) as child:
        assert isinstance(await child.ask(), Received)
        await child.ask()
        assert child.link.statistics().error_lines_dropped > 10_000


def test_lines_are_cut_alike_however_the_bytes_come() -> None:
    text = b"one\ntwo-is-too-long-by-far\n\nthree\nlast"
    for size in range(1, len(text) + 1):
        splitter = LineSplitter(10)
        lines = [line for at in range(0, len(text), size) for line in splitter.feed(text[at : at + size])]
        assert [*lines, splitter.rest()] == [b"one", b"", b"three", b"last"]
        assert splitter.overlong == 1


# ---- what does not read ----


async def test_outbox_is_bounded_and_says_so() -> None:
    limits = attrs.evolve(QUICK, outbox_lines_max=2)
    async with running("time.sleep(1000)", limits) as child:
        large = jsonrpc.notification("x", {"text": "x" * 400_000})
        for ticket in range(4):
            child.link.send(large, ticket)
        entry = await child.inbox.wait()
        assert isinstance(entry, Refused)
        assert (entry.ticket, entry.failure) == (2, Failure.NOT_SENT)


async def test_what_waits_in_the_outbox_when_the_process_dies_was_not_sent() -> None:
    async with running("time.sleep(1000)") as child:
        large = jsonrpc.request(1, "x", {"text": "x" * 400_000})
        child.link.send(large, 1)
        child.link.send(jsonrpc.request(2, "x"), 2)
        os.kill(child.link._child.pid, signal.SIGKILL)
        entries = [await child.inbox.wait() for _ in range(3)]
    died = "the server process was killed by SIGKILL"
    assert entries == [Refused(1, Failure.OUTCOME_UNKNOWN, died), Refused(2, Failure.NOT_SENT, died), Lost(died)]


# ---- the end ----


async def test_exit_in_the_middle_of_a_call_loses_the_link() -> None:
    async with running("next(messages()); sys.exit(3)") as child:
        assert await child.ask() == Lost("the server process exited with code 3")
        with pytest.raises(LinkLost):
            child.link.send(CALL, 8)


async def test_last_words_of_an_exiting_process_are_heard() -> None:
    async with running("answer(next(messages()), {}); sys.exit(0)") as child:
        assert isinstance(await child.ask(), Received)
        assert await child.inbox.wait() == Lost("the server process exited with code 0")


async def test_closed_stdout_loses_the_link_and_ends_the_process() -> None:
    limits = attrs.evolve(QUICK, last_words_seconds=0.05)
    async with running("next(messages()); os.close(1); time.sleep(1000)", limits) as child:
        assert await child.ask() == Lost("the server process closed its output")
    assert child.link._child.exit_code is not None


async def test_process_that_ends_on_end_of_file_exits_by_itself() -> None:
    async with running(ECHO, attrs.evolve(QUICK, close_seconds=20.0)) as child:
        await child.ask()
    assert child.link._child.exit_code == 0


async def test_process_that_ignores_everything_is_killed() -> None:
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nanswer(next(messages()), {})\nwhile True: time.sleep(1000)"
    async with running(script) as child:
        await child.ask()
    assert child.link._child.exit_code == -signal.SIGKILL


GRANDCHILD = """
code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(1000)"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
answer(next(messages()), {"pid": child.pid})
"""


class Watched:
    """A process that is not ours, watched by a handle, so that its number cannot come to mean another."""

    def __init__(self, entry: Entry) -> None:
        pid = result_of(entry)["pid"]
        assert isinstance(pid, int)
        self._handle = os.pidfd_open(pid)

    @property
    def alive(self) -> bool:
        return not select.select([self._handle], [], [], 0)[0]

    async def wait_ended(self) -> None:
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(self._handle)
        os.close(self._handle)


async def test_grandchild_is_killed_with_the_group() -> None:
    async with running(GRANDCHILD + "for message in messages(): pass") as child:
        grandchild = Watched(await child.ask())
        assert grandchild.alive  # control
    await grandchild.wait_ended()


async def test_grandchild_outlives_a_process_that_is_merely_waited_for() -> None:
    """Control: without the signal to the group, the end of its parent leaves it running."""
    code = PRELUDE + GRANDCHILD + "for message in messages(): pass"
    child = await start_child((sys.executable, "-c", code), environment=os.environ)
    child.write_nowait(as_line(CALL.raw))
    answer = jsonrpc.parse(await child.read_output())
    grandchild = Watched(Received(answer, about=1))
    os.kill(child.pid, signal.SIGTERM)
    await child.wait_exited()
    assert grandchild.alive
    await child.end(close_seconds=0.05, terminate_seconds=0.05)
    await grandchild.wait_ended()


async def test_grandchild_of_a_process_that_has_exited_is_killed() -> None:
    async with running(GRANDCHILD + "sys.exit(0)") as child:
        grandchild = Watched(await child.ask())
        assert isinstance(await child.inbox.wait(), Lost)
        await grandchild.wait_ended()


async def test_cancelled_runtime_leaves_no_process_behind() -> None:
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + GRANDCHILD + "while True: time.sleep(1000)"
    async with trio.open_nursery() as nursery:
        inbox = RecordingInbox(nursery)
        link = await connector(script)(new_session(), inbox)
        grandchild = Watched(await Running(link, inbox).ask())
        nursery.cancel_scope.cancel()
    await grandchild.wait_ended()
    assert link._child.exit_code == -signal.SIGKILL


GATEWAY = """
import sys, trio
from tests.transport.upstreams.recording_inbox import RecordingInbox
from tests.transport.upstreams.bed import new_session
from transport.upstreams.stdio import StdioConnector
async def main():
    async with trio.open_nursery() as nursery:
        link = await StdioConnector((sys.executable, "-c", "import sys; sys.stdin.read()"))(
            new_session(), RecordingInbox(nursery))
        print(link._child.pid, flush=True)
trio.run(main)
"""


async def test_process_ends_when_the_gateway_is_killed() -> None:
    gateway = await start_child((sys.executable, "-c", GATEWAY), environment=os.environ, directory=os.getcwd())
    output = b""
    while not output.endswith(b"\n"):
        output += await gateway.read_output()
    handle = os.pidfd_open(int(output))
    os.kill(gateway.pid, signal.SIGKILL)
    with trio.fail_after(20):
        await trio.lowlevel.wait_readable(handle)
    os.close(handle)
    await gateway.end(close_seconds=0.05, terminate_seconds=0.05)


async def test_nothing_is_told_after_close() -> None:
    async with running(ECHO) as child:
        child.link.send(CALL, TICKET)
        child.link.close(end_session=False)
    assert child.inbox.entries == []


# ---- starting ----


async def test_command_that_does_not_exist_may_exist_later() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectFailed, match="cannot start 'no-such-command-here'"):
            await StdioConnector(("no-such-command-here",))(new_session(), RecordingInbox(nursery))


async def test_child_inherits_no_secret_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OUTLAST_TOKEN", "SESSION_ENCRYPTION_KEY", "REDIS_URL", "REDIS_SENTINEL_PASSWORD", "HOME_OF_TEST"):
        monkeypatch.setenv(name, "value")
    async with running(ECHO, environment={"SESSION_ID": "given", "MORE": "1"}) as child:
        environment = result_of(await child.ask())["env"]
    assert isinstance(environment, dict)
    assert "OUTLAST_TOKEN" not in environment
    assert "SESSION_ENCRYPTION_KEY" not in environment
    assert "REDIS_URL" not in environment
    assert "REDIS_SENTINEL_PASSWORD" not in environment
    assert environment["HOME_OF_TEST"] == "value"
    assert (environment["SESSION_ID"], environment["MORE"]) == ("given", "1")  # the operator's own choice


def test_arguments_and_environment_are_not_shown() -> None:
    shown = repr(StdioConnector(("server", "--key", "s3cret"), {"TOKEN": "s3cret"}))
    assert "s3cret" not in shown
    assert "server" in shown
    assert child_environment({"A": "1"}, {}) == {"A": "1"}


# ---- re-opening ----

SERVER = """
seen = []
for message in messages():
    seen.append(message)
    if message["method"] == "initialize":
        answer(message, {"protocolVersion": "%s", "capabilities": %s, "serverInfo": {}})
    elif "id" in message:
        answer(message, {"seen": seen})
"""
OFFERS = {"tools": {"listChanged": True}, "logging": {}}


async def reopen(script: str, inbox: RecordingInbox, **session_facts: object) -> StdioLink:
    kept = handshake(upstream_session_id="", capabilities=OFFERS)
    facts = {"handshake": kept, **session_facts}
    return await connector(script)(new_session(**facts), inbox)


async def test_new_process_gets_the_kept_handshake_and_setup() -> None:
    level = jsonrpc.request(9, "logging/setLevel", {"level": "error"})
    async with trio.open_nursery() as nursery:
        inbox = RecordingInbox(nursery)
        link = await reopen(SERVER % (VERSION, OFFERS), inbox, setup={"logging/setLevel": level.raw})
        assert not link.established.resumed
        assert [message.method for message in link.established.announcements] == ["notifications/tools/list_changed"]
        seen = result_of(await Running(link, inbox).ask())["seen"]
        link.close(end_session=True)
    assert isinstance(seen, list)
    assert seen[0] == msgspec.json.decode(INITIALIZE.raw)
    assert [message["method"] for message in seen] == [
        "initialize",
        "notifications/initialized",
        "logging/setLevel",
        "tools/call",
    ]
    assert seen[2]["params"] == {"level": "error"}
    assert seen[2]["id"].startswith("outlast-setup-")


@pytest.mark.parametrize(
    ("offer", "lacking"),
    [
        ((VERSION, {"logging": {}}), "no capability tools"),
        ((VERSION, {"tools": {}, "logging": {}}), "no capability tools.listChanged"),
        (("2024-11-05", OFFERS), "protocol version 2024-11-05"),
    ],
)
async def test_process_that_offers_less_is_rejected_and_ended(offer: tuple[str, object], lacking: str) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectRejected, match=lacking) as caught:
            await reopen(SERVER % offer, RecordingInbox(nursery))
        assert caught.value.reason == "upstream_rejected"
        # the nursery ends only when the process has


async def test_process_that_dies_while_re_opening_may_be_tried_again() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ConnectFailed, match="exited with code 4"):
            await reopen("next(messages()); sys.exit(4)", RecordingInbox(nursery))


async def test_cancelled_re_opening_ends_the_process() -> None:
    async with trio.open_nursery() as nursery:
        inbox = RecordingInbox(nursery)
        with trio.CancelScope() as scope:
            inbox.hook = lambda _: None
            nursery.start_soon(_cancel_when_started, inbox, scope)
            await reopen("for message in messages(): pass", inbox)
        assert scope.cancelled_caught


class ClosedInbox(RecordingInbox):
    """An inbox of a session that is closed already: it starts nothing."""

    def start_soon(self, run: Callable[..., Awaitable[object]], *args: object) -> None:
        self.tasks_started += 1


async def test_process_of_a_session_that_is_closed_already_is_ended() -> None:
    started: list[int] = []
    real = subprocess.Popen

    def watch(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
        process: subprocess.Popen[bytes] = real(*args, **options)
        started.append(os.pidfd_open(process.pid))
        return process

    async with trio.open_nursery() as nursery:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess, "Popen", watch)
            patch.setattr("transport.upstreams.stdio._ADOPTION_SECONDS_MAX", 0.05)
            with pytest.raises(ConnectFailed):
                await connector(ECHO)(new_session(), ClosedInbox(nursery))
    (handle,) = started
    assert select.select([handle], [], [], 0)[0]
    os.close(handle)


async def test_connecting_that_was_cancelled_before_it_began_leaves_no_process() -> None:
    async with trio.open_nursery() as nursery:
        inbox = RecordingInbox(nursery)
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_soon, scope)
            await reopen("for message in messages(): pass", inbox)
        assert scope.cancelled_caught
        # the nursery ends only when the process has


async def _cancel_soon(scope: trio.CancelScope) -> None:
    scope.cancel()


async def _cancel_when_started(inbox: RecordingInbox, scope: trio.CancelScope) -> None:
    while not inbox.tasks_started:
        await trio.lowlevel.checkpoint()
    scope.cancel()


# ---- a real server ----


async def test_real_server_initializes_lists_and_answers() -> None:
    command = (sys.executable, "-m", "mcp_server_time")
    async with trio.open_nursery() as nursery:
        inbox = RecordingInbox(nursery)
        patient = StdioLimits(close_seconds=30.0)
        link = await StdioConnector(command, limits=patient)(new_session(), inbox)
        child = Running(link, inbox)
        assert result_of(await child.ask(INITIALIZE))["protocolVersion"] == VERSION
        assert await child.ask(jsonrpc.notification("notifications/initialized")) == Delivered(TICKET)
        assert "tools" in result_of(await child.ask(jsonrpc.request("list", "tools/list")))
        call = {"name": "get_current_time", "arguments": {"timezone": "Europe/Berlin"}}
        assert "content" in result_of(await child.ask(jsonrpc.request(2, "tools/call", call)))
        link.close(end_session=True)
    assert link._child.exit_code == 0  # it ended by itself, on end of file


async def test_real_server_is_re_opened_with_the_kept_handshake() -> None:
    command = (sys.executable, "-m", "mcp_server_time")
    async with trio.open_nursery() as nursery:
        inbox = RecordingInbox(nursery)
        session = new_session(handshake=handshake(upstream_session_id="", capabilities={"tools": {}}))
        link = await StdioConnector(command)(session, inbox)
        assert "tools" in result_of(await Running(link, inbox).ask(jsonrpc.request(1, "tools/list")))
        link.close(end_session=True)
