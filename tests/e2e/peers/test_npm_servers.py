"""Servers from npm, on the TypeScript SDK, asked directly and through the gateway: the answers are the same bytes.

server-everything is asked over both of its transports: over stdio it has one stream, over Streamable HTTP the
streams themselves are compared, message by message.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.peers import scenarios
from tests.e2e.peers.peers_bed import PeersBed
from tests.e2e.peers.talk import Scenario

_EVERYTHING = (
    scenarios.everything_lists,
    scenarios.everything_tools,
    scenarios.everything_questions,
    scenarios.everything_updates,
    scenarios.everything_tasks,
)


@pytest.mark.parametrize("server", ["everything", "everything_http"])
@pytest.mark.parametrize("scenario", _EVERYTHING, ids=lambda scenario: scenario.__name__.removeprefix("everything_"))
async def test_everything_is_heard_as_it_is(npm_bed: PeersBed, server: str, scenario: Scenario) -> None:
    await npm_bed.compare(server, scenario, together=True)


async def test_memory_server_is_heard_as_it_is(npm_bed: PeersBed) -> None:
    await npm_bed.compare("memory", scenarios.memory)


async def test_filesystem_server_is_heard_as_it_is(npm_bed: PeersBed) -> None:
    folder = Path(npm_bed.commands["filesystem"][-1])
    await npm_bed.compare("filesystem", scenarios.filesystem(folder))
