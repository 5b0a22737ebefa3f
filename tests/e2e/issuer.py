"""An authorization server over real HTTP on the loopback: metadata, key set, and tokens for client credentials.

In a thread of the test's process, so that a test rotates its keys, or takes it away, by a call.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import jwt

from tests.transport.tokens import AuthorizationServer

AUDIENCE = "https://outlast.test"  # the gateway's name in tokens, wherever it listens
UPSTREAM = "https://upstream.test"  # the name of a server behind it
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
GATEWAY_CLIENT = "gateway"  # the client that gets tokens for that one


class Issuer:
    """Issues tokens whose audience is `AUDIENCE`. Close it at the end."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []  # path, form; in order
        self.issued: list[str] = []  # at the token endpoint
        self.says_seconds = 600.0  # that they last
        self.lasts_seconds = 600.0  # that they do
        self.refusal = ""  # a code in place of a token
        self.strangers: set[str] = set()  # whose tokens are not exchanged
        self.make_token: Callable[[int], str] | None = None  # from its number: one that is no JWT
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._server = AuthorizationServer(self.url)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Be away from now on. Fine when it is already."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def rotate(self, key_id: str) -> None:
        """Sign with a new key from now on, and withdraw the old one."""
        self._server.rotate(key_id)

    def token(self, subject: str = "ann", **claims: Any) -> str:
        """Issue a token for the gateway, unless a claim says otherwise."""
        return self._server.token(subject, **{"aud": AUDIENCE, **claims})

    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [path for path, _ in self.requests]

    def _token(self, form: dict[str, str], client: str) -> dict[str, Any]:
        if self.refusal:
            return {"error": self.refusal, "error_description": f"not for {form}"}
        subject, scope = client, form.get("scope", "")
        if form["grant_type"] == EXCHANGE:
            claims = jwt.decode(form["subject_token"], options={"verify_signature": False})
            if claims["aud"] != AUDIENCE or claims["sub"] in self.strangers:
                return {"error": "invalid_grant"}
            subject = claims["sub"]
        audience = UPSTREAM if client == GATEWAY_CLIENT else AUDIENCE
        claims = {"client_id": client, "scope": scope, "aud": audience, "lasts_seconds": self.lasts_seconds}
        self.issued.append(self.make_token(len(self.issued)) if self.make_token else self.token(subject, **claims))
        answer = {"access_token": self.issued[-1], "token_type": "Bearer", "expires_in": self.says_seconds}
        return {**answer, "scope": scope}

    def _answer(self, path: str, form: dict[str, str], client: str) -> dict[str, Any] | None:
        self.requests.append((path, form))
        if path == "/.well-known/oauth-authorization-server":
            return {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/keys",
                "token_endpoint": f"{self.url}/token",
                "authorization_endpoint": f"{self.url}/authorize",
                "response_types_supported": ["code"],
                "grant_types_supported": ["client_credentials"],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            }
        if path == "/keys":
            keys: dict[str, Any] = json.loads(self._server.key_set())
            return keys
        if path == "/token":
            return self._token(form, client)
        return None

    def _handler(issuer) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._respond(issuer._answer(self.path, {}, ""))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                form = {name: values[0] for name, values in parse_qs(body).items()}
                _, _, credentials = self.headers.get("authorization", "").partition(" ")
                self._respond(issuer._answer(self.path, form, base64.b64decode(credentials).decode().partition(":")[0]))

            def _respond(self, content: dict[str, Any] | None) -> None:
                body = json.dumps(content).encode()
                self.send_response(404 if content is None else 400 if "error" in content else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler
