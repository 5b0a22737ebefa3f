"""A server that says exactly the bytes it is told to, and tells exactly the bytes that it saw.

    python -m tests.e2e.peers.raw_upstream [--http] [--encode-again]

Over stdio, or over HTTP: then it prints one line, `port N`. It decodes no more than it must, and encodes nothing of
what it is told to say: `say` and `answer` in a request's params are whole messages, in hexadecimal. Its order: it
waits for the `notified` notifications that the request was announced after, says what it is to say, waits for the
answers to the questions among that, tells in `relay/seen` all that it saw, and answers.

With `--encode-again` all that it reads and says goes through a JSON library, as in a relay that is not raw.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SEEN_METHOD = "relay/seen"
_WAIT_SECONDS = 15.0
_TERMS = '{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"raw","version":"1"}}'

Say = Callable[[bytes], None]


class RawUpstream:
    """One session's server, whatever carries it. Called by many threads."""

    def __init__(self, *, encode_again: bool) -> None:
        self._encode_again = encode_again
        self._changed = threading.Condition()
        self._notifications: list[bytes] = []
        self._answers: list[bytes] = []

    def take(self, raw: bytes, say: Say) -> None:
        """Take one message; for a request, say all that belongs to it."""
        seen = self._as_carried(raw)
        message: dict[str, Any] = json.loads(raw)
        if "method" not in message:
            self._note(self._answers, seen)
        elif "id" not in message:
            if not message["method"].startswith("notifications/"):  # ours, and not the protocol's
                self._note(self._notifications, seen)
        elif message["method"] == "initialize":
            say(f'{{"jsonrpc":"2.0","id":{json.dumps(message["id"])},"result":{_TERMS}}}'.encode())
        else:
            self._play(message["params"]["script"], seen, say)

    def _play(self, script: dict[str, Any], request: bytes, say: Say) -> None:
        with self._changed:
            self._wait(lambda: len(self._notifications) >= script["notified"])
            self._answers.clear()
        questions = 0
        for text in script["say"]:
            raw = bytes.fromhex(text)
            questions += "id" in json.loads(raw)
            say(self._as_carried(raw))
        with self._changed:
            self._wait(lambda: len(self._answers) >= questions)
            seen = [*self._notifications, request, *self._answers]
            self._notifications.clear()
        params = {"raw": [raw.hex() for raw in seen]}
        say(json.dumps({"jsonrpc": "2.0", "method": SEEN_METHOD, "params": params}).encode())
        say(self._as_carried(bytes.fromhex(script["answer"])))

    def _wait(self, condition: Callable[[], bool]) -> None:
        assert self._changed.wait_for(condition, _WAIT_SECONDS), "what was announced did not come"

    def _note(self, place: list[bytes], raw: bytes) -> None:
        with self._changed:
            place.append(raw)
            self._changed.notify_all()

    def _as_carried(self, raw: bytes) -> bytes:
        return json.dumps(json.loads(raw)).encode() if self._encode_again else raw


def serve_stdio(upstream: RawUpstream) -> None:
    """Serve one session on standard input and output."""
    one_line = threading.Lock()

    def say(raw: bytes) -> None:
        with one_line:
            sys.stdout.buffer.write(raw + b"\n")
            sys.stdout.buffer.flush()

    for line in sys.stdin.buffer:
        # A thread for each, since a request waits for messages that come after it.
        threading.Thread(target=upstream.take, args=(line.removesuffix(b"\n"), say), daemon=True).start()


def serve_http(upstream: RawUpstream) -> None:
    """Serve Streamable HTTP, with an event stream for every request; one session at a time is enough here."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"]))
            message = json.loads(raw)
            if "method" not in message or "id" not in message:
                upstream.take(raw, self._chunk)
                self._empty(202)
                return
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            upstream.take(raw, self._event)
            self._chunk(b"")

        def do_GET(self) -> None:
            self._empty(405)

        do_DELETE = do_GET

        def _empty(self, status: int) -> None:
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def _event(self, raw: bytes) -> None:
            self._chunk(b"data: " + raw + b"\n\n")

        def _chunk(self, content: bytes) -> None:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(content), content))

        def log_message(self, format: str, *arguments: object) -> None:
            """Say nothing: it would fill the test's output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"port {server.server_port}", flush=True)
    server.serve_forever()


def main() -> None:
    """Serve as the command line says, until killed or until standard input ends."""
    parser = argparse.ArgumentParser(prog="raw_upstream")
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--encode-again", action="store_true")
    arguments = parser.parse_args()
    upstream = RawUpstream(encode_again=arguments.encode_again)
    if arguments.http:
        serve_http(upstream)
    else:
        serve_stdio(upstream)


if __name__ == "__main__":
    main()
