"""`outlast health`: its report, or ready, alive, no answer; in words and as exit code.

Method: a small HTTP server in a thread answers as each test wants.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest

from outlast.cli import main
from outlast.health import Health, ask_health, health_base
from outlast.kinds import Refused


@contextmanager
def answering(
    answers: Mapping[str, tuple[int, bytes]], presented: list[tuple[str, str | None]] | None = None
) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if presented is not None:
                presented.append((self.path, self.headers.get("Authorization")))
            status, body = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


READY = {"/healthz": (200, b"ok"), "/readyz": (200, b'{"sessions":\n 3}')}
STARTING = {"/healthz": (200, b"ok"), "/readyz": (503, b"restoring")}
SICK = {"/healthz": (500, b"")}

FINDING = {"about": "writer", "status": "degraded", "said": "1.5 s behind", "advice": "a faster disk"}
IN_FULL = {"status": "degraded", "ready": True, "version": "1.2.3", "findings": [FINDING]}
IN_SHORT = {"status": "down", "ready": False, "areas": {"store": "down", "loop": "healthy"}}
OPENING = {"status": "degraded", "ready": False, "reason": "starting"}


def reporting(document: object, status: int = 200) -> dict[str, tuple[int, bytes]]:
    return {"/health": (status, json.dumps(document).encode())}


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        (
            reporting(IN_FULL),
            1,
            "degraded, ready (1.2.3)\nWARN  writer  1.5 s behind\n              -> a faster disk",
        ),
        (reporting(IN_SHORT, 503), 2, "down, not ready (store down)"),
        (reporting(OPENING, 503), 1, "degraded, not ready (starting)"),
        ({**reporting({"status": "fine"}), **READY}, 0, 'ready ({"sessions": 3})'),  # some other program's page
    ],
)
def test_a_report_is_shown_and_its_state_is_the_code(
    answers: Mapping[str, tuple[int, bytes]], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(answers) as url:
        assert main(["health", "--url", url]) == code
    assert capsys.readouterr().out == f"outlast: {url}: {words}\n"


def test_a_report_is_given_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(reporting(IN_FULL)) as url:
        assert main(["health", "--url", url, "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"url": url, **IN_FULL}
    assert main(["health", "--url", url, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["status"] == "down"


def test_the_operators_token_is_presented_for_the_report_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    presented: list[tuple[str, str | None]] = []
    monkeypatch.setenv("OUTLAST_OPERATORS_TOKEN", "a-long-secret")
    with answering(READY, presented) as url:
        assert main(["health", "--url", url]) == 0
    assert presented == [("/health", "Bearer a-long-secret"), ("/healthz", None), ("/readyz", None)]


@pytest.mark.parametrize(
    ("answers", "code", "words"),
    [
        (READY, 0, 'ready ({"sessions": 3})'),
        (STARTING, 1, "alive, not ready (restoring)"),
        (SICK, 2, "no answer (/healthz: 500)"),
        ({}, 2, "no answer (/healthz: 404)"),
    ],
)
def test_health_is_said_in_one_line_and_a_code(
    answers: Mapping[str, tuple[int, bytes]], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(answers) as url:
        assert main(["health", "--url", url]) == code
    assert capsys.readouterr().out == f"outlast: {url}: {words}\n"


def test_health_asks_where_the_gateway_listens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:1")  # it must not ask through this
    with answering(READY) as url:
        monkeypatch.setenv("OUTLAST_LISTEN", url.removeprefix("http://").replace("127.0.0.1", "0.0.0.0"))
        assert main(["health"]) == 0
    assert url in capsys.readouterr().out


def test_health_of_nobody_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert main(["health", "--url", url]) == 2
    assert "no answer" in capsys.readouterr().out


async def test_who_takes_the_connection_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        health = await ask_health(base, ask_seconds=0.05)

    assert health.code == 2


async def test_who_drips_an_answer_is_given_up() -> None:
    """One byte at a time, each soon enough for a socket's timeout: only a deadline for the whole ends this."""
    enough = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                for _ in range(200):
                    if enough.wait(0.02):
                        return
                    connection.sendall(b"x")

        thread = threading.Thread(target=drip)
        thread.start()
        health = await ask_health(f"http://127.0.0.1:{server.getsockname()[1]}", ask_seconds=0.2)
        enough.set()
        thread.join()

    assert health.detail == "nothing within 0.2 s"


async def test_who_speaks_something_else_is_no_gateway() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        health = await ask_health(f"http://127.0.0.1:{server.getsockname()[1]}")
        thread.join()

    assert (health.alive, health.ready) == (False, False)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8080", "ftp://x", "http://", "http://x:y", "http://me:pw@x", "http://[::1"]
)
def test_what_is_no_url_of_a_gateway_is_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Refused):
        health_base(url)
    assert main(["health", "--url", url]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("outlast: --url")
    assert "pw" not in line


def test_a_wrong_listen_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OUTLAST_LISTEN", "nowhere")

    assert main(["health"]) == 2
    assert capsys.readouterr().err.startswith("outlast: OUTLAST_LISTEN: it must be HOST:PORT")


def test_base_leaves_the_path_out() -> None:
    assert health_base("https://mcp.example:8443/mcp?x#y") == "https://mcp.example:8443"
    assert Health("http://x", alive=True, ready=True, detail="").code == 0
