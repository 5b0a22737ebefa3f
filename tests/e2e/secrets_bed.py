"""Secrets in every place where a user or an operator can put one, and everything that is said meanwhile.

Each secret is a word of its own that is nowhere else, so whoever finds one knows which it is and where it leaked.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.e2e.gateway import Gateway
from tests.e2e.journal import Journal
from tests.e2e.process import ROOT, STOP_SECONDS
from tests.e2e.raw_client import RawClient
from tests.e2e.upstream import Upstream, stdio_target

OPERATIONS = (
    "/healthz",
    "/readyz",
    "/health",
    "/metrics",
    "/admin/analytics",
    "/admin/sessions",
    "/admin/openapi.json",
    "/nowhere",
)


class Planted:
    """Makes secrets, and finds them again."""

    def __init__(self) -> None:
        self.by_place: dict[str, str] = {}

    def plant(self, place: str) -> str:
        """Make the secret of a place."""
        return self.by_place.setdefault(place, f"sekret{secrets.token_hex(12)}")

    def keep(self, place: str, secret: str) -> None:
        """Take note of a secret that somebody else has made."""
        self.by_place[place] = secret

    def found_in(self, said: Mapping[str, str]) -> list[str]:
        """Name each place whose secret is in what was said, and where it was said."""
        return [
            f"{place} is in {source}"
            for source, text in said.items()
            for place, secret in self.by_place.items()
            if secret in text
        ]


@attrs.frozen
class SecretsBed:
    """A gateway in front of servers, configured with secrets; what it says is gathered under names."""

    planted: Planted
    gateway: Gateway
    environment: Mapping[str, str]
    stored: Sequence[str] = ()  # flags that tell other commands which store it is, beside the environment
    tls: ssl.SSLContext | None = None
    closing: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack)  # what the gateway leans on
    said: dict[str, str] = attrs.field(factory=dict)

    @classmethod
    def make(cls, directory: Path, *, road: str, form: str) -> SecretsBed:
        """Configure everything that there is around sessions over HTTP; nothing but the upstream is started."""
        planted = Planted()
        upstream = Upstream(directory / "upstream")
        upstream.start_blocking()
        environment = _environment(planted, upstream, directory, form)
        gateway = Gateway(directory / "gateway", {}, road=road, environment=environment)
        bed = cls(planted, gateway, environment, ("--store", f"sqlite:{directory / 'gateway' / 'outlast.db'}"))
        bed.closing.callback(upstream.kill)
        return bed

    def client(self, name: str, server: str, **fields: Any) -> RawClient:
        """A client with a token of its own, and a cookie and a query that it should not have sent."""
        url = f"{self.gateway.url(server)}?{self.query(name)}"
        return RawClient(url, extra_headers=self.headers(name), tls=self.tls, **fields)

    def headers(self, name: str) -> dict[str, str]:
        """The credentials that a client sends with every request."""
        return {
            "authorization": f"Bearer {self.planted.plant(f'token of {name}')}",
            "cookie": f"session={self.planted.plant(f'cookie of {name}')}",
        }

    def query(self, name: str) -> str:
        """What a client should not have sent behind the `?`."""
        plant = self.planted.plant
        return f"token={plant(f'query of {name}')}&access_token={plant(f'access token in the query of {name}')}"

    def hear(self, source: str, text: str) -> None:
        """Keep what was said."""
        self.said[source] = self.said.get(source, "") + text

    async def ask_operations(self, token: str) -> None:
        """Ask everything that is served beside MCP."""
        assert self.gateway.ready_line is not None
        for path in OPERATIONS:
            headers = {"authorization": f"Bearer {token}"}
            client = RawClient(self.gateway.ready_line.url + path, extra_headers=headers, tls=self.tls)
            answer = await client.whole("GET")
            self.hear(f"GET {path}", f"{answer.headers} {answer.body.decode()}")

    async def look_at_processes(self) -> None:
        """Read the arguments of the gateway, and the environment of a program that it has started."""
        await self.client("ada", "local").open_session()
        pid = self.gateway.process.pid
        self.hear("arguments of the gateway", _of_process(pid, "cmdline"))
        for child in _children(pid):
            self.hear("environment of a child", _of_process(child, "environ"))
            self.hear("there are children", "yes")

    def run_command(self, *arguments: str, **changes: str) -> int:
        """Run another command on the same configuration, but for changes; give its exit code."""
        ran = subprocess.run(
            [sys.executable, "-m", "outlast", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.environment, **changes},
            capture_output=True,
            text=True,
            timeout=STOP_SECONDS,
            check=False,
        )
        self.hear(f"outlast {arguments[0]}", ran.stdout + ran.stderr)
        return ran.returncode

    async def stop(self) -> None:
        """Stop the gateway, and keep all it has said."""
        assert await self.gateway.stop() == 0
        self.hear("logs", self.gateway.stderr)
        self.hear("stdout", self.gateway.process.stdout)

    def close(self) -> None:
        """Kill what is left."""
        self.gateway.kill()
        self.closing.close()


def _environment(planted: Planted, upstream: Upstream, directory: Path, form: str) -> dict[str, str]:
    key = planted.plant("encryption key") + "A" * 13  # 43 characters of base64url
    servers = {
        "web": f"{upstream.url}?key={planted.plant('query of an upstream')}",
        "gone": f"http://127.0.0.1:1/mcp?key={planted.plant('query of an upstream that is away')}",
        "local": stdio_target(Journal(directory)),
        "broken": f"stdio:sh -c 'exit 3' --token {planted.plant('argument of a program')}",
    }
    return {
        "OUTLAST_SERVERS": "\n".join(f"{name}={target}" for name, target in servers.items()),
        "OUTLAST_SERVER_HEADERS": f"web: Authorization: Bearer {planted.plant('header for an upstream')}",
        "OUTLAST_SERVER_ENVIRONMENT": f"local: WIKI={planted.plant('variable for a program')}",
        "OUTLAST_CLIENT_TOKENS": f"ada={planted.plant('token of ada')},eve={planted.plant('token of eve')}",
        "OUTLAST_OPERATORS_TOKEN": planted.plant("token of operators"),
        "SESSION_ENCRYPTION_KEY": key,
        "WIKI_API_KEY": planted.plant("variable of the gateway"),
        "OUTLAST_LOG_LEVEL": "debug",
        "OUTLAST_LOG_FORMAT": form,
        "OUTLAST_ACCESS_LOG": "all",
        "OUTLAST_RESTORE_WAIT_SECONDS": "1",  # for servers that are not there
    }


def _of_process(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def _children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found
