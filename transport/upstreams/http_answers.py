"""What an upstream's HTTP status means for the message that it answers, and of the upstream itself. No I/O.

Servers disagree about nearly every status here; each rule names who does it.
"""

from __future__ import annotations

import re

from actors.jsonrpc import InvalidMessage, Kind, Message, RequestId, parse
from actors.link import Failure
from transport.upstreams.breaker import Breaker
from transport.upstreams.concealment import Concealment
from transport.upstreams.handshake import InvalidTerms, read_terms, with_id
from transport.upstreams.http_response import ResponseHead

_METHOD_NOT_FOUND = re.compile(rb'"code"\s*:\s*-32601\b')
# "Session not found" (python, TypeScript), "No valid session ID provided" (npm server-everything, with 400), "Session
# has been terminated" (python). A complaint about the protocol version must not match.
_SESSION_LOST = re.compile(
    rb"session[^.\n]{0,60}(not found|not valid|terminated|expired|invalid|unknown|closed|does not exist|lost)"
    rb"|(invalid|unknown|expired|terminated|no such|no valid|not found|missing)[^.\n]{0,30}session",
    re.IGNORECASE,
)
_EXCERPT_BYTES = 200  # or as many characters
_HEADER_SAFE = re.compile(r"[\x21-\x7e]{1,1024}")  # MCP: visible ASCII; as long as any header we would send


def session_is_lost(status: int, body: bytes) -> bool:
    """Whether this status, in answer to a request that named a session, says that the session is gone.

    404 is what the protocol asks for. 400, 410 and 503 are used for it in the field, and mean it if they say so. A
    404 that carries "method not found" is about the method (the mapping of the modern era).
    """
    if status == 404:
        return not _METHOD_NOT_FOUND.search(body)
    return status in (400, 410, 503) and bool(_SESSION_LOST.search(body[:4096]))


def says_session_is_lost(body: bytes) -> bool:
    """Whether a body speaks of a lost session, where the status alone may mean something else."""
    return bool(_SESSION_LOST.search(body[:4096]))


def failure_of(status: int) -> Failure:
    """What may be done about a message that was answered with this status and no JSON-RPC answer.

    502 and 504 come from a proxy that had passed the message on: whether it was run is not known.
    """
    if status in (429, 503):
        return Failure.NOT_SENT
    if status in (502, 504):
        return Failure.OUTCOME_UNKNOWN
    return Failure.REFUSED


def may_pass(status: int) -> bool:
    """Whether a GET that was answered so may succeed later. 409: the server has not noticed yet that its former
    stream to us is dead."""
    return status in (408, 409, 425, 429) or (status >= 500 and status != 501)


def note_life(breaker: Breaker, head: ResponseHead, body: bytes, concealment: Concealment) -> None:
    """Tell the breaker whether an answer says that the server is away, or is a sign of life.

    A proxy in its place says so, or it says it itself; but a lost session that is told with 503 is a sign of life.
    """
    if head.status in (502, 503, 504) and not says_session_is_lost(body):
        breaker.failed(describe(head, body, concealment))
    else:
        breaker.succeeded()


def describe(head: ResponseHead, body: bytes, concealment: Concealment) -> str:
    """Say what came, short enough for an error message, and without what we had shown the upstream."""
    excerpt = concealment.excerpt(body, _EXCERPT_BYTES)
    retry_after = concealment.hide(head.text(b"retry-after"))
    detail = f"HTTP {head.status}" + (f", retry after {retry_after}" if retry_after else "")
    if 300 <= head.status < 400:
        detail += " (redirects are not followed)"
    return f"{detail}: {excerpt}" if excerpt else detail


def session_named(head: ResponseHead) -> str:
    """Give the session id that an answer to a handshake brings; "" if it brings none.

    Raises:
      InvalidTerms: it is not one that could be sent back.
    """
    session_id = head.text(b"mcp-session-id")
    if session_id and not _HEADER_SAFE.fullmatch(session_id):
        raise InvalidTerms("the upstream's session id is not visible ASCII, or too long")
    return session_id


def read_names(head: ResponseHead, answer: Message) -> tuple[str, str]:
    """Give the session id and the protocol version that the answer to a handshake names; "" for what it does not.

    Raises:
      InvalidTerms: the id is not one that could be sent back.
    """
    session_id = session_named(head)
    try:
        version = read_terms(answer.raw).protocol_version
    except InvalidTerms:
        version = ""  # the session passes the answer on, and its client judges it
    return session_id, version if _HEADER_SAFE.fullmatch(version) else ""


def answer_to(request_id: RequestId, message: Message) -> Message | None:
    """Give the message as the answer to this request; None if it is not.

    An error without an id answers the request whose response it is: servers that fail early do not know the id yet.
    """
    if message.kind is not Kind.RESPONSE:
        return None
    if message.id == request_id and type(message.id) is type(request_id):
        return message
    if message.id is None and message.is_error:
        return parse(with_id(message.raw, request_id))
    return None


def error_answer(request_id: RequestId, body: bytes) -> Message | None:
    """Find the JSON-RPC error for this request in the body of a 4xx or 5xx answer."""
    try:
        message = parse(body)
    except InvalidMessage:
        return _error_without_id(request_id, body)
    return answer_to(request_id, message) if message.is_error else None


def _error_without_id(request_id: RequestId, body: bytes) -> Message | None:
    """Some servers leave the id out where they should say null."""
    if b'"error"' not in body[:_EXCERPT_BYTES] and b'"jsonrpc"' not in body[:_EXCERPT_BYTES]:
        return None
    try:
        message = parse(with_id(body, request_id))
    except (ValueError, InvalidMessage):
        return None
    return message if message.is_error else None
