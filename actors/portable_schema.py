"""The portable form of a session: the fields of one line of the document, under the names that people know.

Those of the first design documents of this product (`id`, `serverId`, `createdAt`, `lastActivity`, `isInitialized`,
`clientTransportType`, `transportCapabilities`, `metrics`, `config`, ...), and beside them what it takes to go on with
the session elsewhere. Reading checks types and ranges here, once; what fields mean together is checked by
`actors/portable_session.py`. A field that is not listed is refused: a misspelt one would be lost in silence. Pure.

A name that was ever written stays; a new field gets a default.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

COUNT_MAX = 2**63 - 1  # what a store's column holds
HISTORY_CALLS_MAX = 2**51  # more were never made; and twice as many can be counted by every store

Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Seconds = Annotated[float, Meta(ge=0)]
Id = Annotated[int, Meta(ge=-COUNT_MAX, le=COUNT_MAX)] | str
# MCP 2025-11-25, transports, Session Management, rule 1: visible ASCII only.
VisibleId = Annotated[str, Meta(pattern="^[!-~]+$", max_length=1024)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, rename="camel"):
    """What all parts have in common."""


class Base64(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"base64": "$base64"}):
    """Bytes that are no UTF-8 text."""

    base64: str


Text = str | Base64  # bytes, as text where they are text: JSON stays readable, and is kept to the byte


class TransportCapabilities(Part, frozen=True):
    """How the session is reached, and how it reaches its server."""

    client_transport: str | UnsetType = UNSET
    upstream_transport: str | UnsetType = UNSET


class PortableMetrics(Part, frozen=True, omit_defaults=False):
    """What was counted."""

    requests: Count = 0
    tool_calls: Count = 0
    errors: Count = 0


class Config(Part, frozen=True):
    """What the session was opened with. `url` and `headers` belong to the gateway's configuration: read, not kept."""

    server_id: str | UnsetType = UNSET
    ttl_seconds: Seconds | UnsetType | None = UNSET  # null: it never expires
    url: str | None = None
    headers: dict[str, Any] | None = None


class PortableFailure(Part, frozen=True):
    """Why the session is uninitialized."""

    reason: str
    detail: str = ""
    failed_at: float = 0.0


class PortablePrincipal(Part, frozen=True):
    """Who opened it."""

    issuer: str = ""
    client: str = ""
    subject: str = ""


class PortableHandshake(Part, frozen=True):
    """The opening exchange."""

    request: Text
    result: Text
    upstream_session_id: str = ""
    ready: bool = False


class PortableSetup(Part, frozen=True):
    """A kept set-up message."""

    key: str
    message: Text


class PortableStream(Part, frozen=True):
    """One of the session's event streams."""

    id: Count
    request_id: Id | None = None
    next_offset: Annotated[int, Meta(ge=1, le=COUNT_MAX)] = 1
    ended: bool = False
    former_epochs: tuple[tuple[Count, Count], ...] = ()  # (epoch, last offset under it), oldest first: see epochs.py


class PortableSetupChange(Part, frozen=True):
    """What a call means for re-initialization."""

    key: str
    keep: bool


class PortableCall(Part, frozen=True):
    """A call without an answer, which has become a stream."""

    id: Id
    method: str
    stream: Count
    label: str = ""
    started_at: float = 0.0
    cancelled_at: float = 0.0
    setup: PortableSetupChange | None = None
    upstream_cursor: str = ""


class PortableAsk(Part, frozen=True):
    """A question of the upstream without an answer."""

    client_id: Id
    upstream_id: Id
    method: str
    stream: Count
    withdrawn: bool = False


class PortableEntry(Part, frozen=True):
    """One kept event."""

    sequence: Annotated[int, Meta(ge=1, le=COUNT_MAX)]
    stream: Count
    offset: Annotated[int, Meta(ge=1, le=COUNT_MAX)]
    at: float
    message: Text


class PortableLog(Part, frozen=True):
    """The event log. The epoch is part of every event id: ids stay good where it stays."""

    epoch: Count | UnsetType = UNSET
    next_sequence: Annotated[int, Meta(ge=1, le=COUNT_MAX)] = 1
    trimmed_through: Count = 0
    entries: tuple[PortableEntry, ...] = ()
    segments: tuple[tuple[Count, Count], ...] = ()  # (last sequence, bytes) of what is kept: see log_bounds.py


class PortableHistoryCall(Part, frozen=True):
    """A tool call that has ended. Arguments and results are there only where they were recorded, as JSON texts."""

    tool: str
    started_at: Seconds
    seconds: float
    outcome: str = "ok"
    code: Annotated[int, Meta(ge=-COUNT_MAX, le=COUNT_MAX)] = 0
    arguments: str | None = None
    result: str | None = None


class PortableHistoryPage(Part, frozen=True):
    """Calls that were kept by one commit. Calls have numbers: the page says that of its last one."""

    last: Annotated[int, Meta(ge=1, le=HISTORY_CALLS_MAX)]
    at: float
    calls: tuple[PortableHistoryCall, ...]


class PortableHistory(Part, frozen=True):
    """The call history."""

    next_number: Annotated[int, Meta(ge=1, le=HISTORY_CALLS_MAX)] = 1
    trimmed_through: Count = 0
    pages: tuple[PortableHistoryPage, ...] = ()
    segments: tuple[tuple[Count, Count], ...] = ()  # (last number, bytes) of what is kept: see log_bounds.py


class PortableSession(Part, frozen=True, kw_only=True):
    """One session. Times are Unix time in seconds."""

    id: VisibleId
    server_id: str | UnsetType = UNSET
    created_at: Seconds | UnsetType = UNSET
    last_activity: Seconds | UnsetType = UNSET
    expires_at: Seconds | UnsetType = UNSET  # read where `config.ttlSeconds` is missing; follows from it otherwise
    is_initialized: bool | UnsetType = UNSET
    client_transport_type: str | UnsetType = UNSET
    transport_capabilities: TransportCapabilities = TransportCapabilities()
    metrics: PortableMetrics = PortableMetrics()
    config: Config = Config()
    values: Any = UNSET
    state: Any = UNSET  # another name of `values`; one of them
    context: Any = UNSET
    metadata: Any = UNSET
    tool_history: Any = UNSET  # read, not kept
    opened: bool = True
    failure: PortableFailure | None = None
    principal: PortablePrincipal = PortablePrincipal()
    revision: Count = 1
    handshake: PortableHandshake | UnsetType | None = UNSET  # null: there never was one
    setup: tuple[PortableSetup, ...] = ()
    calls: tuple[PortableCall, ...] = ()
    asks: tuple[PortableAsk, ...] = ()
    standalone_cursor: str = ""
    shown_offset: Count = 0
    listening: bool = False
    streams: tuple[PortableStream, ...] | UnsetType = UNSET
    next_stream: Annotated[int, Meta(ge=1, le=COUNT_MAX)] = 1
    history: PortableHistory | None = None  # of tool calls
    log: PortableLog = PortableLog()  # last: it is the long part of the line


decode_session = msgspec.json.Decoder(PortableSession).decode
encode_session = msgspec.json.Encoder().encode
