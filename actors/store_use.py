"""Whose sessions a store holds: a runtime's, or those of servers on the MCP SDK that keep their events with us.

Both write records of their own fields. Whoever opened the other's store would read them wrongly, take every client's
session for lost, and remove them as expired. So each looks before it claims the store: a claim is a write, and ends
the owner that runs there. One session tells, since a store that has any was refused to the other kind.
"""

from __future__ import annotations

from persistence.store import Store, StoreInvalid

EVENT_STORE_SERVER_ID = "mcp-sdk-events"  # the server id of the SDK servers' sessions, and of no others


async def check_sessions(store: Store) -> None:
    """See whether a store is fit for a runtime's sessions. Reads only.

    Raises:
      StoreInvalid: it is an event store's.
      StoreUnavailable
    """
    if await _first_server_id(store) == EVENT_STORE_SERVER_ID:
        raise StoreInvalid(
            f"{store.url} holds the events of servers on the MCP SDK (DurableEventStore), not a gateway's sessions:"
            " choose another, it was not touched"
        )


async def check_events(store: Store) -> None:
    """See whether a store is fit for the events of SDK servers. Reads only.

    Raises:
      StoreInvalid: it is a gateway's or an application's.
      StoreUnavailable
    """
    if await _first_server_id(store) not in (None, EVENT_STORE_SERVER_ID):
        raise StoreInvalid(
            f"{store.url} holds the sessions of a gateway or an application, not the events of servers on the MCP SDK:"
            " name another, it was not touched"
        )


async def _first_server_id(store: Store) -> str | None:
    headers, _ = await store.scan(limit=1)
    return headers[0].server_id if headers else None
