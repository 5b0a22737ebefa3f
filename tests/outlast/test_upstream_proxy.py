"""The forward proxy as settings: where it comes from, what is reached past it, what starts are refused or advised."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from outlast.advice import advice
from outlast.doctor import examine
from outlast.endings import StartRefused
from outlast.finding import Finding, State
from outlast.preflight import check_start
from outlast.settings import Settings, facts
from outlast.sources import load_settings
from outlast.upstream_proxy import proxy_of
from tests.outlast.test_doctor import settings_of, surroundings
from tests.transport.upstreams.fake_proxy import FakeProxy

URL = "http://ada:hunter2@proxy.example:3128"


def test_the_proxy_and_its_exceptions_come_from_the_environment() -> None:
    settings = load_settings(
        environment={
            "OUTLAST_UPSTREAM_PROXY": URL,
            "OUTLAST_UPSTREAM_PROXY_EXCEPT": "wiki.corp, .corp.example, 10.0.0.0/8",
        }
    )
    proxy = proxy_of(settings)
    assert proxy is not None
    assert str(proxy) == "http://proxy.example:3128"
    carried = [host for host in ("mcp.example", "wiki.corp", "a.corp.example", "10.1.1.1") if proxy.carries(host)]
    assert carried == ["mcp.example"]
    assert "hunter2" not in f"{settings!r} {proxy!r}"
    assert "proxy.example" in repr(settings)  # it is left out, not everything is


def test_a_proxy_s_password_has_no_flag() -> None:
    """Every user of the machine reads flags."""
    assert facts()["upstream_proxy"].flag == ""


def test_the_usual_variables_are_not_read() -> None:
    usual = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "NO_PROXY"), URL)
    assert proxy_of(load_settings(environment=usual)) is None


def test_exceptions_without_a_proxy_are_refused() -> None:
    with pytest.raises(StartRefused, match="upstream_proxy_except: without upstream_proxy"):
        check_start(Settings(upstream_proxy_except=("wiki.corp",)))


def test_a_password_in_a_file_that_others_may_read_is_advised_against(tmp_path: Path) -> None:
    config = tmp_path / "outlast.toml"
    config.write_text("")
    config.chmod(0o644)
    assert any("chmod 600" in line for line in advice(Settings(upstream_proxy=URL), config, {}))
    assert advice(Settings(upstream_proxy="http://proxy.example:3128"), config, {}) == []


async def doctor_s_finding(place: Path, proxy: str) -> Finding | None:
    settings = settings_of(place, OUTLAST_UPSTREAM_PROXY=proxy)
    return next((one for one in await examine(settings, surroundings()) if one.about == "forward proxy"), None)


async def test_the_doctor_says_whether_the_proxy_takes_connections(tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        proxy = FakeProxy()
        await nursery.start(proxy.run)
        found = await doctor_s_finding(tmp_path, f"http://ada:hunter2@{proxy.address}")
        assert found is not None
        assert (found.state, found.said) == (State.HEALTHY, f"http://{proxy.address} takes connections")
        nursery.cancel_scope.cancel()
    found = await doctor_s_finding(tmp_path, f"http://ada:hunter2@{proxy.address}")
    assert found is not None
    assert (found.state, found.said) == (State.DOWN, f"http://{proxy.address}: Connection refused")
    assert await doctor_s_finding(tmp_path, "") is None
