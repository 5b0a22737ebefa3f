"""A server that repeats to whoever asks what it was asked with, credentials included: as some proxies' error pages do.

The first part of a path says how: a status, or `html` and `events` for a status of 200 with a body of that kind. Asked
for a tunnel, it wants other credentials (407).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_KINDS = {"html": "text/html", "events": "text/event-stream"}


@contextmanager
def repeating_server() -> Iterator[str]:
    """Have one run, in threads, for the length of a block; gives its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Repeating)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Repeating(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        how = "407" if self.command == "CONNECT" else self.path.lstrip("/").partition("/")[0]
        heard = self.rfile.read(int(self.headers.get("content-length", 0)))
        told = f"cannot serve {self.path}\n{self.headers}\n{heard.decode(errors='replace')}"
        if how == "events":
            told = f"event: endpoint\ndata: http://elsewhere.example{self.path}\n\ndata: {told!r}\n\n"
        body = told.encode()
        credentials = self.headers.get("proxy-authorization", "")
        self.send_response(int(how) if how.isdigit() else 200, f"cannot serve {self.path} {credentials}")
        self.send_header("Content-Type", _KINDS.get(how, "text/plain"))
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Location", f"http://elsewhere.example{self.path}")
        self.send_header("WWW-Authenticate", f'Bearer error="{self.headers.get("authorization", "")}"')
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = do_CONNECT = _answer

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
