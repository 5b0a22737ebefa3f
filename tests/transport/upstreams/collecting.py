"""What a request without a session brought, over whatever wire it went."""

from __future__ import annotations

import trio

from transport.upstreams.stateless import Answer, NoAnswer, StatelessCall

DEADLINE_SECONDS = 10.0


async def collected(way: StatelessCall) -> tuple[list[bytes], Answer | NoAnswer]:
    """Take all that comes back, up to the end; give it and the end."""
    messages: list[bytes] = []
    with trio.fail_after(DEADLINE_SECONDS):
        while way.end is None:
            await way.wait()
            messages += way.take()
    messages += way.take()
    way.cancel()
    return messages, way.end
