"""The bed: upstream servers and gateways of one test, gone without a trace when it ends.

A `Bed` belongs to one test, which may kill and restart what it starts. The `SharedBed` is started once for all
tests that leave it as it is, and so are the lasting upstreams: an interpreter with the SDK takes a second to
start.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.e2e.gateway import Gateway
from tests.e2e.journal import Journal
from tests.e2e.raw_client import RawClient
from tests.e2e.upstream import Upstream, stdio_target

DIRECT = "direct"  # no gateway: shows, while a scenario is written, that the scenario itself is right

TIME_TARGET = f"stdio:{sys.executable} -m mcp_server_time --local-timezone UTC"  # a published server


class LastingUpstreams:
    """One HTTP upstream of each kind, for every test that does not kill it."""

    def __init__(self, directory: Path) -> None:
        self.plain = Upstream(directory / "plain")
        self.resumable = Upstream(directory / "resumable", event_store=True)
        self.json = Upstream(directory / "json", json_answers=True)

    @property
    def by_name(self) -> Mapping[str, Upstream]:
        return {"plain": self.plain, "resumable": self.resumable, "json": self.json}

    def start(self) -> None:
        """Start all of them and wait until they serve."""
        for upstream in self.by_name.values():
            upstream.start_blocking()

    def close(self) -> None:
        """Kill all of them."""
        for upstream in self.by_name.values():
            upstream.kill()


class Bed:
    """What one test starts."""

    def __init__(self, directory: Path, road: str, lasting: LastingUpstreams) -> None:
        self.lasting = lasting
        self._directory = directory
        self._road = road
        self._upstreams: list[Upstream] = []
        self._gateways: list[Gateway] = []

    @property
    def journal(self) -> Journal:
        """For stdio servers, which are started by the gateway."""
        return Journal(self._directory)

    @property
    def stdio(self) -> str:
        """The target of the test server over stdio."""
        return stdio_target(self.journal)

    async def upstream(
        self, *, event_store: bool = False, json_answers: bool = False, sse: bool = False, flags: Sequence[str] = ()
    ) -> Upstream:
        """Start an upstream server with a journal of its own."""
        directory = self._directory / f"upstream-{len(self._upstreams)}"
        upstream = Upstream(directory, event_store=event_store, json_answers=json_answers, sse=sse, flags=flags)
        self._upstreams.append(upstream)
        await upstream.start()
        return upstream

    async def gateway(
        self,
        *,
        store: str = "",
        weakened: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **servers: str,
    ) -> Gateway:
        """Start a gateway in front of the targets, by name."""
        directory = self._directory / f"gateway-{len(self._gateways)}"
        gateway = Gateway(directory, servers, road=self._road, store=store, weakened=weakened, environment=environment)
        self._gateways.append(gateway)
        await gateway.start()
        return gateway

    def close(self) -> None:
        """Kill everything that is left; fail if a gateway ended by itself or wrote a traceback."""
        try:
            for gateway in self._gateways:
                print(gateway.stderr)  # shown with a test that failed
                gateway.assert_is_well()
        finally:
            for gateway in self._gateways:
                gateway.kill()
            for upstream in self._upstreams:
                upstream.kill()


class SharedBed:
    """The lasting upstreams, and on a gateway's road one gateway in front of them and of stdio servers."""

    def __init__(self, directory: Path, road: str, lasting: LastingUpstreams) -> None:
        self._lasting = lasting
        self._stdio_journal = Journal(directory)
        self.gateway: Gateway | None = None
        if road != DIRECT:
            servers = {name: upstream.target for name, upstream in lasting.by_name.items()}
            servers |= {"stdio": stdio_target(self._stdio_journal), "time": TIME_TARGET}
            self.gateway = Gateway(directory / "gateway", servers, road=road)

    def start(self) -> None:
        """Start the gateway and wait until it serves."""
        if self.gateway is not None:
            self.gateway.start_blocking()

    def close(self) -> None:
        """Kill the gateway."""
        if self.gateway is not None:
            self.gateway.kill()

    def url(self, server: str) -> str:
        """The endpoint under test for one kind of upstream."""
        if self.gateway is not None:
            return self.gateway.url(server)
        if server not in self._lasting.by_name:
            pytest.skip("there is no HTTP endpoint without a gateway")
        return self._lasting.by_name[server].url

    def direct_url(self, server: str) -> str:
        """The endpoint of one kind of HTTP upstream itself."""
        return self._lasting.by_name[server].url

    def journal(self, server: str) -> Journal:
        """What happened at one kind of upstream."""
        return self._stdio_journal if server == "stdio" else self._lasting.by_name[server].journal

    async def open_session(self, server: str, *, protocol_version: str = "2025-11-25") -> RawClient:
        """Open a session with the bare client."""
        client = RawClient(self.url(server), protocol_version=protocol_version)
        await client.open_session()
        return client


class SharedBeds:
    """The shared bed of each road, started when it is first asked for: files of tests change from road to road."""

    def __init__(self, directory: Path, lasting: LastingUpstreams) -> None:
        self._directory = directory
        self._lasting = lasting
        self._beds: dict[str, SharedBed] = {}

    def on(self, road: str) -> SharedBed:
        """Give the bed of one road, at work."""
        if road not in self._beds:
            bed = self._beds[road] = SharedBed(self._directory / road, road, self._lasting)
            bed.start()
        return self._beds[road]

    def close(self) -> None:
        """Kill what is at work."""
        for bed in self._beds.values():
            bed.close()
