"""Sessions whose time is over: gone for their clients, and for the server behind the gateway."""

from __future__ import annotations

import re
import time

import pytest
import trio

from tests.e2e.bed import Bed
from tests.e2e.raw_client import RawClient
from tests.e2e.tap import Tap
from tests.e2e.waiting import wait_until

pytestmark = pytest.mark.one_road  # it is the upstream's side that counts

TTL_SECONDS = 2.0
SETTINGS = {"SESSION_TTL": str(TTL_SECONDS), "OUTLAST_RESIDENT_SESSIONS_MAX": "1"}
_SESSION_ID = re.compile(rb"mcp-session-id: ([^\r]+)\r\n", re.IGNORECASE)


def ended(tap: Tap) -> list[bytes]:
    """The sessions that the server was told to end."""
    return [name for head in tap.heads() if head.startswith(b"DELETE") for name in _SESSION_ID.findall(head)]


def named(tap: Tap) -> list[bytes]:
    """The sessions that the server was spoken to in, in the order of their beginning."""
    return list(dict.fromkeys(_SESSION_ID.findall(b"".join(tap.heads()))))


async def test_session_that_expires_at_rest_is_ended_at_its_server_and_not_its_neighbour(bed: Bed) -> None:
    """Method: two sessions and a kill, behind which a gateway that holds one in memory brings the younger back alone.
    The older one's client comes when its time is over; the younger one, at work all the while, is the control."""
    async with trio.open_nursery() as nursery:
        tap = Tap(bed.lasting.plain.url)
        await tap.open(nursery)
        gateway = await bed.gateway(environment=SETTINGS, plain=tap.url)
        older, younger = RawClient(gateway.url()), RawClient(gateway.url())
        await older.open_session()
        await older.call("counter")
        await younger.open_session()
        await younger.call("counter")
        older_there, younger_there = named(tap)
        gateway.kill()
        await gateway.start()
        over = time.time() + TTL_SECONDS
        while time.time() < over:
            await younger.call("counter")
        assert ended(tap) == []
        assert (await older.post_whole(older.request("ping"))).status == 404
        await wait_until("the server has been told", lambda: ended(tap) == [older_there])
        assert (await younger.post_whole(younger.request("ping"))).status == 200
        assert younger_there not in ended(tap)
        nursery.cancel_scope.cancel()
