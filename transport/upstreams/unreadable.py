"""What an upstream says that is no JSON-RPC message: logged with bounds, and never the silent end of a call.

MCP lets nothing but messages pass (2025-11-25, basic/transports, stdio: a server MUST NOT write anything else to its
stdout), and servers print banners and debug output all the same. The SDKs' clients log such a line and go on, even
where it was an answer: its call then waits for its timeout. Here a call ends at once if what came names it
(`actors.jsonrpc.misanswered_id`). What names nothing could be anything: it is counted, logged and left.

An excerpt is logged of plain text alone, which is what a program says to whoever runs it, as on stderr. What looks like
JSON may be half an answer, and answers are their client's.
"""

from __future__ import annotations

from typing import Any

from actors.jsonrpc import InvalidMessage
from transport.upstreams.concealment import Concealment
from transport.upstreams.thinning import is_power_of_two

_EXCERPT_BYTES = 200
_SHOWN_BYTES = 100
_JSON_BEGINS = (b"{", b"[", b'"')


def log_unreadable(
    log: Any, raw: bytes, why: InvalidMessage, count: int, event: str = "upstream_message_malformed", **facts: object
) -> None:
    """Log something that is no message, if it is the 1st, 2nd, 4th, 8th, ... of its link.

    Args:
      facts: what else the line is to say.
    """
    if not is_power_of_two(count):
        return
    if not raw.lstrip().startswith(_JSON_BEGINS):
        facts["excerpt"] = raw[:_EXCERPT_BYTES].decode("utf-8", "replace")
    log.warning(event, count=count, why=why.reason, size_bytes=len(raw), **facts)


def is_torn_answer(raw: bytes) -> bool:
    """Whether this, which is no JSON, looks like a part of an answer: an object that names no method."""
    return raw.lstrip().startswith(b"{") and b'"method"' not in raw


def describe_unreadable(why: str, document: bytes = b"", concealment: Concealment = Concealment()) -> str:
    """Say to whoever called what came of that.

    Args:
      why: "": it is a message, and answers something else.
      document: what came, where it came to that call alone; only its beginning is said.
      concealment: what may not be said of the document.
    """
    why = why or "it answers something else"
    begins = repr(concealment.excerpt(document, _SHOWN_BYTES)) if document else ""
    excerpt = f", it begins with {begins}" if begins else ""
    return f"what the server answered is no JSON-RPC answer ({why}{excerpt}); it may have been carried out"
