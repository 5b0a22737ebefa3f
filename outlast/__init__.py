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

from typing import TYPE_CHECKING, Any

from outlast.shadowing import check_rooms

check_rooms()

from actors.event_log import CursorLost  # noqa: E402 - the check must come first
from actors.handle import CommandRejected, Event, SessionHandle, SessionUnavailable  # noqa: E402
from actors.ids import ANONYMOUS, InvalidEventId, Principal  # noqa: E402
from actors.jsonrpc import Message, RequestFailed  # noqa: E402
from actors.link import (  # noqa: E402
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
from actors.registry import Draining, SessionNotFound, TooManySessions  # noqa: E402
from actors.runtime import Runtime, RuntimeOptions, open_runtime, run_runtime  # noqa: E402
from actors.state import Limits, SessionState  # noqa: E402

if TYPE_CHECKING:
    from outlast.serving import Serving, serve
    from outlast.settings import Settings

__version__ = "0.1.0"

_LAZY = {"serve": "outlast.serving", "Serving": "outlast.serving", "Settings": "outlast.settings"}


def __getattr__(name: str) -> Any:
    """Import the gateway when it is asked for: who embeds the runtime need not load a web server."""
    if name not in _LAZY:
        raise AttributeError(f"module 'outlast' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


__all__ = [
    "ANONYMOUS",
    "About",
    "CommandRejected",
    "Connect",
    "ConnectFailed",
    "ConnectRejected",
    "CursorLost",
    "Draining",
    "Established",
    "Event",
    "Failure",
    "Inbox",
    "InvalidEventId",
    "Limits",
    "Link",
    "LinkLost",
    "Message",
    "Principal",
    "RequestFailed",
    "Runtime",
    "RuntimeOptions",
    "Serving",
    "SessionHandle",
    "SessionNotFound",
    "SessionState",
    "SessionUnavailable",
    "Settings",
    "TooManySessions",
    "open_runtime",
    "run_runtime",
    "serve",
]
