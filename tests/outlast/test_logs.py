"""Logs: one form, one stream, for our own records and those of libraries."""

from __future__ import annotations

import io
import json
import logging

import pytest
import structlog

from outlast.logs import configure_logs
from outlast.targets import HttpTarget


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
    assert record["at"].endswith("Z")


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
