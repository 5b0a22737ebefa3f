"""Fixtures of the tests with published peers; and which of them there are without Node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.peers.installing import node_modules, python_peers, why_no_node
from tests.e2e.peers.peers_bed import GATEWAY_ROADS, EverythingServer, PeersBed, npm_commands, python_commands

_WHY_NO_NODE = why_no_node()

# Not collected rather than skipped: the summary says so in a line of its own, whatever else is printed.
collect_ignore_glob = ["test_npm_*.py"] if _WHY_NO_NODE else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out, and why."""
    if _WHY_NO_NODE:
        terminalreporter.write_line(f"tests with peers from npm were not collected: {_WHY_NO_NODE}", yellow=True)


@pytest.fixture(scope="session")
def _python_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeersBed]:
    directory = tmp_path_factory.mktemp("python-peers")
    bed = PeersBed(directory, GATEWAY_ROADS, python_commands(python_peers(), directory))
    try:
        bed.start()
        yield bed
    finally:
        bed.close()


@pytest.fixture(scope="session")
def _npm_bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeersBed]:
    directory = tmp_path_factory.mktemp("npm-peers")
    packages = node_modules()
    everything = EverythingServer(packages)
    everything.start()
    bed = PeersBed(directory, GATEWAY_ROADS, npm_commands(packages, directory), {"everything_http": everything.url})
    try:
        bed.start()
        yield bed
    finally:
        bed.close()
        everything.close()


@pytest.fixture
def python_bed(_python_bed: PeersBed) -> PeersBed:
    """Servers from PyPI, and gateways in front of them."""
    return _python_bed


@pytest.fixture
def npm_bed(_npm_bed: PeersBed) -> PeersBed:
    """Servers from npm, and gateways in front of them."""
    return _npm_bed
