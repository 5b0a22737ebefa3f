"""Logs: one form, one stream, for our own records and those of libraries."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
import structlog
import trio

from actors.log_context import serving, speaking_for, start_apart
from outlast.log_flood import Flood
from outlast.logs import configure_logs
from outlast.targets import HttpTarget
from transport.exchange import RequestHead
from transport.served import ServedRequest


class Terminal(io.StringIO):
    """A stream that is looked at by a person."""

    def isatty(self) -> bool:
        return True


def test_a_record_is_one_line_of_json() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream)
    structlog.get_logger().info("session opened", session="s1", odd={1})
    (line,) = stream.getvalue().splitlines()
    record = json.loads(line)

    assert record["event"] == "session opened"
    assert (record["level"], record["session"], record["odd"]) == ("info", "s1", "{1}")
    assert record["timestamp"].endswith("Z")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_logged_record_keeps_its_secrets(form: str) -> None:
    stream = io.StringIO()
    configure_logs(level="info", form=form, stream=stream)
    structlog.get_logger().info("connecting", target=HttpTarget("https://mcp.example/?key=hunter2"))

    assert "mcp.example" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


def test_what_libraries_log_takes_the_same_road() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream)
    logging.getLogger("hypercorn.error").warning("a %s line", "library's")
    logging.getLogger("hypercorn.error").info("with a line\nend")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())

    assert (first["event"], first["level"], first["logger"]) == ("a library's line", "warning", "hypercorn.error")
    assert second["event"] == "with a line\nend"


def test_a_traceback_is_in_the_record() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream)
    try:
        raise LookupError("gone")
    except LookupError:
        structlog.get_logger().exception("crashed")
    (line,) = stream.getvalue().splitlines()

    assert "LookupError: gone" in json.loads(line)["exception"]


def test_what_is_less_urgent_is_left_out() -> None:
    stream = io.StringIO()
    configure_logs(level="warning", form="json", stream=stream)
    structlog.get_logger().info("no")
    logging.getLogger("library").info("no")
    structlog.get_logger().warning("yes")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["yes"]


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("auto", Terminal(), False),
        ("auto", io.StringIO(), True),
        ("json", Terminal(), True),
        ("console", io.StringIO(), False),
    ],
)
def test_form_follows_the_stream_unless_chosen(form: str, stream: io.StringIO, is_json: bool) -> None:
    configure_logs(level="info", form=form, stream=stream)
    structlog.get_logger().info("hello", n=1)

    assert stream.getvalue().startswith("{") is is_json
    assert "hello" in stream.getvalue()


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_has_one_shape_whoever_writes_it() -> None:
    stream = io.StringIO()
    configure_logs(level="debug", form="json", stream=stream)
    structlog.get_logger("outlast.serving").info("stopping", grace_seconds=1)
    logging.getLogger("hypercorn.error").warning("odd")
    ours, theirs = lines_of(stream)

    assert list(ours) == ["timestamp", "level", "logger", "event", "grace_seconds"]
    assert list(theirs) == ["timestamp", "level", "logger", "event"]
    assert (ours["logger"], theirs["logger"]) == ("outlast.serving", "hypercorn.error")


async def test_a_line_says_which_session_speaks() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream)

    async def speak() -> None:
        structlog.get_logger().info("of a link")

    speaking_for("abcdefghij-the-rest-is-secret", "wiki")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        start_apart(nursery, speak)
    of_session, of_none = sorted(lines_of(stream), key=lambda line: "session" not in line)

    assert (of_session["session"], of_session["server"]) == ("abcdef", "wiki")
    assert "session" not in of_none


async def test_a_line_says_which_request_is_served_and_others_do_not() -> None:
    """What a request starts beside itself lives longer, and works for others: its lines are not the request's."""
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream)
    headers = {"mcp-session-id": "abcdefghij-the-rest", "x-request-id": "edge-17", "authorization": "Bearer hunter2"}
    head = RequestHead("POST", "/mcp", "key=hunter2", headers, "peer")

    async def speak(what: str) -> None:
        structlog.get_logger().info(what)

    async def serve(beside: trio.Nursery) -> None:
        request = ServedRequest(head, "wiki")
        serving(request)
        async with trio.open_nursery() as within:
            within.start_soon(speak, "within")
            beside.start_soon(speak, "beside")
        await trio.to_thread.run_sync(structlog.get_logger().info, "in a thread")
        request.end()
        await speak("over")

    async with trio.open_nursery() as beside, trio.open_nursery() as connections:
        connections.start_soon(serve, beside)
    lines = {line["event"]: line for line in lines_of(stream)}

    assert (lines["within"]["request"], lines["within"]["session"]) == ("edge-17", "abcdef")
    assert lines["within"]["server"] == "wiki"
    for other in ("beside", "in a thread", "over"):
        assert "request" not in lines[other], other
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("given", ["", "two words", "x" * 65, "\x1b[31m"])
async def test_what_is_no_request_id_is_not_taken_for_one(given: str) -> None:
    request = ServedRequest(RequestHead("GET", "/", "", {"x-request-id": given}, "peer"), "")

    assert request.log_fields()["request"] not in ("", given)
    assert request.log_fields() == request.log_fields()


def test_what_is_said_again_and_again_is_counted() -> None:
    stream = io.StringIO()
    now = [0.0]
    configure_logs(
        level="info",
        form="json",
        stream=stream,
        flood=Flood(lines_max=3, stretch_seconds=60, now_seconds=lambda: now[0]),
    )
    log = structlog.get_logger("a")
    for number in range(1000):
        log.warning("upstream is away", attempt=number)
    log.warning("something else")
    now[0] = 60
    log.warning("upstream is away", attempt=1000)
    *_, last, other, after = lines_of(stream)

    assert len(lines_of(stream)) == 5  # three, the other kind, and one in the next stretch
    assert (last["attempt"], last["last_for_seconds"]) == (2, 60)
    assert other["event"] == "something else"
    assert (after["attempt"], after["left_out"]) == (1000, 997)


def test_one_noisy_server_does_not_hide_another() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream, flood=Flood(lines_max=1))
    for server in ("a", "b", "a", "b"):
        structlog.get_logger().warning("upstream is away", server=server)

    assert [line["server"] for line in lines_of(stream)] == ["a", "b"]


def test_what_libraries_repeat_is_counted_too() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream, flood=Flood(lines_max=2, stretch_seconds=60))
    for number in range(100):
        logging.getLogger("outlast.http").error("serving %s failed", number)
    first, second, said = lines_of(stream)

    assert (first["event"], second["event"]) == ("serving 0 failed", "serving 1 failed")
    assert "outlast.http says the same often" in said["event"]


def test_without_the_gate_they_fill_the_disk() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream, flood=Flood(lines_max=10_000))
    for _ in range(1000):
        structlog.get_logger().warning("upstream is away")

    assert len(lines_of(stream)) == 1000


def test_a_stream_that_takes_no_lines_is_no_reason_to_stop() -> None:
    lines = configure_logs(level="info", form="json", stream=Full())
    structlog.get_logger().info("hello")
    logging.getLogger("library").info("hello")

    assert lines.lost == 2


def test_a_line_that_cannot_be_formatted_is_told_of_without_its_arguments() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="json", stream=stream)
    logging.getLogger("library").info("%d of %d", "hunter2")

    assert lines_of(stream)[0]["event"] == "a line cannot be formatted: '%d of %d'"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_long_text_is_cut_in_the_middle(form: str) -> None:
    stream = io.StringIO()
    configure_logs(level="info", form=form, stream=stream)
    structlog.get_logger().info("said", text="a" + "x" * 1_000_000 + "z")

    assert len(stream.getvalue()) < 10_000
    assert "characters" in stream.getvalue()


def test_a_terminal_is_not_told_what_to_do_by_what_a_line_quotes() -> None:
    stream = io.StringIO()
    configure_logs(level="info", form="console", stream=stream)
    structlog.get_logger().info("said", text="\x1b]0;owned\x07\nFORGED", other="\x9b31m")
    written = stream.getvalue()

    assert "\x1b]0" not in written
    assert "\x9b" not in written
    assert len(written.splitlines()) == 1


def crash_with(password: str) -> None:
    raise LookupError("gone")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_has_no_values_of_variables(form: str) -> None:
    stream = io.StringIO()
    configure_logs(level="info", form=form, stream=stream)
    try:
        crash_with("hunter" + "2")
    except LookupError:
        structlog.get_logger().exception("crashed")
        logging.getLogger("library").exception("crashed")

    assert stream.getvalue().count("LookupError: gone") == 2
    assert "hunter2" not in stream.getvalue()


def test_structlogs_own_console_form_prints_the_values_of_variables() -> None:
    """The control: where rich is installed, as here."""
    stream = io.StringIO()
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.dev.ConsoleRenderer()],
        logger_factory=structlog.WriteLoggerFactory(stream),
    )
    try:
        crash_with("hunter" + "2")
    except LookupError:
        structlog.get_logger().exception("crashed")

    assert "hunter2" in stream.getvalue()
