"""A gateway's administration with canned answers, in a thread: what commands ask is kept."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

JSON = "application/json"


@attrs.define
class FakeAdmin:
    """Answers each request with the next of its answers; the last one stays."""

    answers: list[tuple[int, object]]
    url: str = ""
    asked: list[tuple[str, str, str, Any]] = attrs.field(factory=list)  # method, target, authorization, body

    def next(self) -> tuple[int, bytes]:
        status, content = self.answers[0] if len(self.answers) == 1 else self.answers.pop(0)
        return status, content if isinstance(content, bytes) else json.dumps(content).encode()


@contextmanager
def serving(*answers: tuple[int, object]) -> Iterator[FakeAdmin]:
    """Serve for the length of a block."""
    fake = FakeAdmin(list(answers))

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            content = json.loads(body) if body else None
            fake.asked.append((self.command, self.path, self.headers.get("Authorization", ""), content))
            status, answer = fake.next()
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if status != 204:
                self.wfile.write(answer)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        fake.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield fake
        finally:
            server.shutdown()
            thread.join()


def listed(reference: str = "a" * 24, **fields: object) -> dict[str, Any]:
    """A session of the list."""
    known: dict[str, Any] = {
        "reference": reference,
        "id": "abcdef…",
        "server": "linear",
        "state": "initialized",
        "reason": "",
        "revision": 3,
        "lastActive": 1000.0,
        "expires": None,
        "resident": True,
        "record": None,
    }
    return {**known, **fields}


def page(*sessions: dict[str, Any], next: str | None = None) -> dict[str, Any]:
    """A page of the list."""
    return {"sessions": list(sessions), "next": next, "examined": 0, "cutShort": False}


def analytics(**fields: Any) -> dict[str, Any]:
    """What sessions are used for."""
    known: dict[str, Any] = {
        "at": 1000.0,
        "sessions": {
            "known": 12,
            "active": 4,
            "resident": 3,
            "uninitialized": 0,
            "ended": 7,
            "turnedAway": 0,
            "meanSeconds": 60.0,
        },
        "calls": {"requests": 100, "errors": 2, "errorRate": 0.02, "p50Seconds": 0.01, "p95Seconds": 0.25},
        "tools": [tool("search", 90)],
        "store": {"lagSeconds": 0.002, "backlogRows": 1, "commits": 9, "outageSeconds": 0.0, "factsAtRisk": 0},
        "upstreams": [
            {"server": "linear", "transport": "streamable-http", "state": "closed", "since": 900.0, "lastError": ""}
        ],
    }
    return {**known, **fields}


def tool(name: str, calls: int) -> dict[str, Any]:
    """How a tool is used."""
    return {
        "server": "linear",
        "tool": name,
        "calls": calls,
        "errors": 2,
        "errorRate": 2 / calls,
        "meanSeconds": 0.02,
        "p50Seconds": 0.01,
        "p95Seconds": 0.25,
    }
