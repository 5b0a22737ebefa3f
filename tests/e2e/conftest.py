"""Fixtures of the end-to-end tests.

Every scenario runs on each road through the gateway: "hot" (HTTP/1.1 on httptools) and "hypercorn" (the same
handlers under the ASGI app); those marked `one_road` run on the first alone. While writing one, E2E_ROADS=direct runs
it against the upstream server itself: a scenario that fails there is wrong, whatever the gateway does.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.bed import Bed, LastingUpstreams, SharedBed, SharedBeds
from tests.persistence.redis_servers import RedisServer, running

ROADS = os.environ.get("E2E_ROADS", "hot,hypercorn").split(",")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "one_road: run on the hot road only, since nothing depends on which it is")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run whatever asks for a road on all of them, one road after the other."""
    if "road" in metafunc.fixturenames:
        on_one = metafunc.definition.get_closest_marker("one_road") is not None
        metafunc.parametrize("road", ["hot"] if on_one else ROADS, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one warning pass that is not ours to avoid: the SDK's client leaves its HTTP library's generators open.

    Measured with mcp 2.3 on trio: every closed event stream warns so, without a gateway, too.
    """
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:Async generator 'http(x|core)2._:ResourceWarning"))


@pytest.fixture(scope="session")
def _lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LastingUpstreams]:
    upstreams = LastingUpstreams(tmp_path_factory.mktemp("upstreams"))
    gc.collect()
    gc.freeze()  # every SDK client collects garbage when it closes: 100 ms with what imports have left, else 5
    try:
        upstreams.start()
        yield upstreams
    finally:
        upstreams.close()


@pytest.fixture
def bed(road: str, tmp_path: Path, _lasting: LastingUpstreams) -> Iterator[Bed]:
    """A bed of the test's own, for what is killed and restarted."""
    bed = Bed(tmp_path, road, _lasting)
    try:
        yield bed
    finally:
        bed.close()


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server of the test's own, to be killed and started again."""
    server = RedisServer()
    with running(server):
        yield server


@pytest.fixture(scope="session")
def _shared_beds(tmp_path_factory: pytest.TempPathFactory, _lasting: LastingUpstreams) -> Iterator[SharedBeds]:
    beds = SharedBeds(tmp_path_factory.mktemp("shared"), _lasting)
    try:
        yield beds
    finally:
        beds.close()


@pytest.fixture
def shared(road: str, _shared_beds: SharedBeds) -> Iterator[SharedBed]:
    """The bed of all tests that leave it as it is; a traceback in the gateway fails the test that caused it."""
    bed = _shared_beds.on(road)
    yield bed
    if bed.gateway is not None:
        bed.gateway.assert_is_well()
