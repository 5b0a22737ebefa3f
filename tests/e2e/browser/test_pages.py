"""What web pages may do with the gateway, as a real browser decides it (requirements 57 and 58).

Method: Chromium shows a page that tries everything a page can try, under names that are all of this machine, and
reports what it could do and read. What it did behind a refusal is seen where it would have arrived, at the servers.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import trio

from tests.e2e.bed import Bed
from tests.e2e.browser.chromium import browsing
from tests.e2e.browser.page_server import PageServer
from tests.e2e.gateway import Gateway
from tests.e2e.modern_server import MODULE as MODERN
from tests.e2e.upstream import Upstream

Json = dict[str, Any]

TOKEN = "a-token-for-pages-alone"
ALLOWED, EVIL, REBOUND, REPORTS = "app.example", "evil.example", "rebound.example", "reports.example"
HOSTS = dict.fromkeys((ALLOWED, EVIL, REBOUND, REPORTS), "127.0.0.1")
EVERYTHING = ("initialize", "confirm", "call", "stream", "end", "ended", "modern", "stranger")
SECONDS_MAX = 60.0  # a browser takes two to start, and more on a busy machine
REFUSED = {"error": "TypeError", "words": "TypeError: Failed to fetch"}


@asynccontextmanager
async def page_server() -> AsyncIterator[PageServer]:
    async with trio.open_nursery() as nursery:
        server = PageServer()
        await server.open(nursery)
        yield server
        nursery.cancel_scope.cancel()


async def shown(server: PageServer, host: str, profile: Path, *steps: str, gateway: str = "", token: str = "") -> Json:
    """Let a browser show the page of a host; give the page's report."""
    report_url = f"http://{REPORTS}:{server.port}/report"
    query = urlencode({"steps": ",".join(steps), "gateway": gateway, "token": token, "report": report_url})
    with browsing(f"http://{host}:{server.port}/page?{query}", profile, HOSTS) as browser:
        try:
            report: Json = await server.report(seconds=SECONDS_MAX)
        except trio.TooSlowError:
            raise AssertionError(f"no report of {host}: {browser.stderr}") from None
    assert report.pop("origin") == f"http://{host}:{server.port}"
    return report


async def test_a_page_of_an_allowed_origin_does_all_that_a_program_does(bed: Bed, tmp_path: Path) -> None:
    modern = Upstream(tmp_path / "modern", module=MODERN)
    await modern.start()
    try:
        async with page_server() as server:
            settings = {
                "OUTLAST_ALLOWED_ORIGINS": f"http://{ALLOWED}:{server.port}",
                "OUTLAST_CLIENT_TOKENS": f"page={TOKEN}",
            }
            gateway = await bed.gateway(environment=settings, plain=bed.lasting.plain.target, modern=modern.target)
            url = f"http://{gateway.address}"
            there = await shown(
                server, ALLOWED, tmp_path / "profile", *EVERYTHING, gateway=f"{url}/servers/plain", token=TOKEN
            )
    finally:
        modern.kill()
    live, resumed = there["stream"]["live"], there["stream"]["resumed"]
    assert (live["status"], resumed["status"], len(live["ids"])) == (200, 200, 2), there["stream"]
    assert resumed["ids"] == live["ids"][1:], "what came after the first event, and nothing else"
    statuses = {name: step["status"] for name, step in there.items() if name != "stream"}
    assert statuses == {
        "initialize": 200,
        "confirm": 202,
        "call": 200,
        "end": 200,
        "ended": 404,
        "modern": 200,
        "stranger": 401,
    }
    assert len(there["initialize"]["sessionId"]) == 32, "the page may read the header"
    assert "from a page" in there["call"]["body"]
    assert json.loads(there["modern"]["body"])["result"]["content"][0]["text"] == "eu"
    assert there["stranger"]["headers"]["www-authenticate"].startswith("Bearer")


async def test_a_page_of_an_allowed_origin_may_use_what_sends_no_headers(bed: Bed, tmp_path: Path) -> None:
    """WebSocket and EventSource, which can present no token, and the probes."""
    async with page_server() as server:
        settings = {"OUTLAST_ALLOWED_ORIGINS": f"http://{ALLOWED}:{server.port}"}
        gateway = await bed.gateway(environment=settings, plain=bed.lasting.plain.target)
        url = f"http://{gateway.address}"
        there = await shown(server, ALLOWED, tmp_path / "profile", "socket", "eventSource", "operations", gateway=url)
    assert there["socket"]["protocol"] == "mcp"
    assert "result" in json.loads(there["socket"]["data"])
    assert there["eventSource"]["endpoint"].startswith("/messages?session_id=")
    assert there["operations"]["status"] == 200


EVERY_TRY = ("initialize", "call", "end", "simple", "operations", "socket", "eventSource")


async def test_a_page_of_another_origin_is_refused_and_nothing_it_sends_arrives(bed: Bed, tmp_path: Path) -> None:
    upstream = await bed.upstream()
    async with page_server() as server:
        settings = {"OUTLAST_ALLOWED_ORIGINS": f"http://{ALLOWED}:{server.port}"}
        gateway = await bed.gateway(environment=settings, plain=upstream.target)
        there = await shown(server, EVIL, tmp_path / "profile", *EVERY_TRY, gateway=f"http://{gateway.address}")
    assert {name: there[name] for name in ("initialize", "call", "end", "operations")} == dict.fromkeys(
        ("initialize", "call", "end", "operations"), REFUSED
    )
    assert there["simple"] == {"status": 0, "type": "opaque", "body": "", "headers": {}}, "it went out, and was refused"
    assert there["socket"] == {"code": 1006}
    assert there["eventSource"] == {"failed": True}
    assert seen(upstream) == []


async def test_a_page_whose_name_was_bound_to_us_is_refused(bed: Bed, tmp_path: Path) -> None:
    """To the browser this is one origin, so it asks nobody: the name in the Host header is all there is to go by."""
    upstream = await bed.upstream()
    async with page_server() as server:
        settings = {"OUTLAST_ALLOWED_ORIGINS": f"http://{ALLOWED}:{server.port}"}
        gateway = await bed.gateway(environment=settings, plain=upstream.target)
        server.bound_anew_to = address_of(gateway)
        there = await shown(server, REBOUND, tmp_path / "profile", *EVERY_TRY)
    assert {name: step["status"] for name, step in there.items() if "status" in step} == {
        "initialize": 421,
        "call": 421,
        "end": 421,
        "simple": 421,
        "operations": 421,
    }
    assert there["initialize"]["sessionId"] == ""
    assert there["socket"] == {"code": 1006}
    assert there["eventSource"] == {"failed": True}
    assert seen(upstream) == []


async def test_control_without_the_guard_such_pages_open_sessions(bed: Bed, tmp_path: Path) -> None:
    upstream = await bed.upstream()
    async with page_server() as server:
        settings = {"OUTLAST_ALLOWED_ORIGINS": "*", "OUTLAST_ALLOWED_HOSTS": "*"}
        gateway = await bed.gateway(environment=settings, plain=upstream.target)
        server.bound_anew_to = address_of(gateway)
        for host, url in ((EVIL, f"http://{gateway.address}"), (REBOUND, "")):
            there = await shown(
                server, host, tmp_path / host, "initialize", "call", "socket", "eventSource", gateway=url
            )
            assert (there["initialize"]["status"], there["call"]["status"]) == (200, 200)
            assert len(there["initialize"]["sessionId"]) == 32
            assert "result" in there["socket"]["data"]
            assert "endpoint" in there["eventSource"]
    assert "initialize" in seen(upstream)


def seen(upstream: Upstream) -> list[str]:
    """The methods that the upstream was asked."""
    return [str(entry["saw"]) for entry in upstream.journal.entries() if "saw" in entry]


def address_of(gateway: Gateway) -> tuple[str, int]:
    host, _, port = gateway.address.partition(":")
    return host, int(port)
