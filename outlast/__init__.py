"""Outlast: sessions that outlast restarts, crashes and deploys.

The session runtime, as a nursery API::

    async with outlast.open_runtime("sqlite:./data/outlast.db", connect=my_connect) as runtime:
        session = await runtime.create(server_id="linear")
        reply = await session.request("tools/call", {"name": "search", "arguments": {}})

    runtime = await nursery.start(outlast.run_runtime, "sqlite:./data/outlast.db")

and the MCP gateway built on it: ``await nursery.start(outlast.serve, settings)``, or `outlast serve` on the command
line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from outlast.shadowing import check_rooms

check_rooms()

if TYPE_CHECKING:
    from actors import jsonrpc
    from actors.analytics import AnalyticsReport, ToolUsage
    from actors.answering import AnsweringLink, connect_to
    from actors.call_history import CallPage, CallRecord
    from actors.event_log import CursorLost
    from actors.handle import CommandRejected, Event, OutcomeUnknown, SessionHandle, SessionUnavailable
    from actors.ids import ANONYMOUS, InvalidEventId, Principal
    from actors.jsonrpc import Message, RequestFailed
    from actors.keeping import Unkeepable
    from actors.link import (
        About,
        Connect,
        ConnectFailed,
        ConnectRejected,
        Established,
        Failure,
        Inbox,
        Link,
        LinkLost,
    )
    from actors.registry import Draining, SessionNotFound, TooManySessions
    from actors.runtime import Runtime, RuntimeOptions, open_runtime, run_runtime
    from actors.state import Limits, SessionState
    from outlast.at_rest import record_codec
    from outlast.event_store import DurableEventStore, EventLimits, SessionEvents
    from outlast.exporting import Exported, export_sessions
    from outlast.importing import Imported, import_sessions
    from outlast.serving import Serving, serve
    from outlast.settings import Settings
    from persistence.codec import Codec
    from persistence.document import DocumentInvalid
    from persistence.key_ring import KeyRing
    from persistence.store import (
        FenceLost,
        StoreBroken,
        StoreDamaged,
        StoreError,
        StoreFull,
        StoreInUse,
        StoreInvalid,
        StoreUnavailable,
        StoreUrlInvalid,
    )

__version__ = "0.1.0"

_ROOMS = {
    "actors.analytics": ("AnalyticsReport", "ToolUsage"),
    "actors.answering": ("AnsweringLink", "connect_to"),
    "actors.call_history": ("CallPage", "CallRecord"),
    "actors.event_log": ("CursorLost",),
    "actors.handle": ("CommandRejected", "Event", "OutcomeUnknown", "SessionHandle", "SessionUnavailable"),
    "actors.ids": ("ANONYMOUS", "InvalidEventId", "Principal"),
    "actors.jsonrpc": ("Message", "RequestFailed"),
    "actors.keeping": ("Unkeepable",),
    "actors.link": (
        *("About", "Connect", "ConnectFailed", "ConnectRejected", "Established"),
        *("Failure", "Inbox", "Link", "LinkLost"),
    ),
    "actors.registry": ("Draining", "SessionNotFound", "TooManySessions"),
    "actors.runtime": ("Runtime", "RuntimeOptions", "open_runtime", "run_runtime"),
    "actors.state": ("Limits", "SessionState"),
    "outlast.at_rest": ("record_codec",),
    "outlast.exporting": ("Exported", "export_sessions"),
    "outlast.importing": ("Imported", "import_sessions"),
    "outlast.event_store": ("DurableEventStore", "EventLimits", "SessionEvents"),  # needs the extra outlast[mcp]
    "outlast.serving": ("Serving", "serve"),
    "outlast.settings": ("Settings",),
    "persistence.codec": ("Codec",),
    "persistence.document": ("DocumentInvalid",),
    "persistence.key_ring": ("KeyRing",),
    "persistence.store": (
        *("FenceLost", "StoreBroken", "StoreDamaged", "StoreError", "StoreFull", "StoreInUse", "StoreInvalid"),
        *("StoreUnavailable", "StoreUrlInvalid"),
    ),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: the command line starts in half the time, and who embeds the runtime
    does not load a web server."""
    if name == "jsonrpc":
        return import_module("actors.jsonrpc")
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'outlast' has no attribute {name!r}")
    value = getattr(import_module(_ROOM_OF[name]), name)
    globals()[name] = value
    return value


__all__ = [
    "ANONYMOUS",
    "About",
    "AnalyticsReport",
    "AnsweringLink",
    "CallPage",
    "CallRecord",
    "Codec",
    "CommandRejected",
    "Connect",
    "ConnectFailed",
    "ConnectRejected",
    "CursorLost",
    "DocumentInvalid",
    "Draining",
    "DurableEventStore",
    "Established",
    "Event",
    "EventLimits",
    "Exported",
    "Failure",
    "FenceLost",
    "Imported",
    "Inbox",
    "InvalidEventId",
    "KeyRing",
    "Limits",
    "Link",
    "LinkLost",
    "Message",
    "OutcomeUnknown",
    "Principal",
    "RequestFailed",
    "Runtime",
    "RuntimeOptions",
    "Serving",
    "SessionEvents",
    "SessionHandle",
    "SessionNotFound",
    "SessionState",
    "SessionUnavailable",
    "Settings",
    "StoreBroken",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StoreInvalid",
    "StoreUnavailable",
    "StoreUrlInvalid",
    "TooManySessions",
    "ToolUsage",
    "Unkeepable",
    "connect_to",
    "export_sessions",
    "import_sessions",
    "jsonrpc",
    "open_runtime",
    "record_codec",
    "run_runtime",
    "serve",
]
