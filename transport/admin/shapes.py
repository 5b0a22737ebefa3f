"""What the administration is told and tells, as types: requests are checked by them, answers made of them, and the
OpenAPI document describes them. One source for all three.

Times are Unix time in seconds. A session's id is never told: `reference` names it (`actors/ids.py` says why), `id` is
its beginning.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from actors.administration import RECORDS_MAX
from actors.listing import PLACE_PATTERN

_WHOLE = 2**53  # the largest whole number that every reader of JSON keeps

Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
UnixSeconds = Annotated[float, Meta(ge=0, le=1e12)]
Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
MetadataName = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
MetadataValue = (
    Annotated[str, Meta(max_length=1024)]
    | Annotated[int, Meta(ge=-_WHOLE, le=_WHOLE)]
    | Annotated[float, Meta(ge=-_WHOLE, le=_WHOLE)]  # 620.0 is an integer to JSON Schema
    | bool
)


class Shape(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An answer, or a part of one."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A request's parameters, or its body: what is not known is refused, since misspelt it would be lost in silence."""


# ---- asked ----


class ListQuery(Asked, frozen=True, kw_only=True):
    """Which sessions, in which order. Not given is UNSET: None would let a text "null" pass for not given."""

    server: Name | UnsetType = UNSET
    state: Literal["initialized", "uninitialized"] | UnsetType = UNSET
    reason: Annotated[Name, Meta(description="why it is uninitialized")] | UnsetType = UNSET
    subject: Annotated[str, Meta(max_length=256, description="of its principal; reads records")] | UnsetType = UNSET
    tag: Annotated[Tag, Meta(description="reads records")] | UnsetType = UNSET
    text: (
        Annotated[str, Meta(min_length=1, max_length=32, description="what its short id or its reference begins with")]
        | UnsetType
    ) = UNSET
    idle_seconds_min: Annotated[float, Meta(ge=0, le=1e12)] | UnsetType = UNSET
    idle_seconds_max: Annotated[float, Meta(ge=0, le=1e12)] | UnsetType = UNSET
    created_from: Annotated[UnixSeconds, Meta(description="reads records")] | UnsetType = UNSET
    created_until: Annotated[UnixSeconds, Meta(description="reads records")] | UnsetType = UNSET
    order: Literal["last_active", "-last_active", "expires", "-expires", "revision", "-revision"] = "-last_active"
    records: Annotated[bool, Meta(description="whether to read the record of each session shown")] = False
    limit: Annotated[int, Meta(ge=1, le=RECORDS_MAX)] = 50
    cursor: (
        Annotated[str, Meta(pattern=PLACE_PATTERN, description="`next` of the former page, same filter")] | UnsetType
    ) = UNSET


class HistoryQuery(Asked, frozen=True, kw_only=True):
    before: Annotated[int, Meta(ge=1, le=_WHOLE, description="`next` of the former page")] | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class NoQuery(Asked, frozen=True, kw_only=True):
    pass


class MetadataChange(Asked, frozen=True, kw_only=True):
    """What to note about a session; all of it is done, or nothing."""

    add_tags: Annotated[tuple[Tag, ...], Meta(max_length=32)] = ()
    remove_tags: Annotated[tuple[Tag, ...], Meta(max_length=32)] = ()
    set: Annotated[dict[MetadataName, MetadataValue], Meta(max_length=32)] = {}
    forget: Annotated[tuple[MetadataName, ...], Meta(max_length=32)] = ()


# ---- told ----


class RecordSummary(Shape, frozen=True, kw_only=True):
    """What the list tells of a session whose record was read."""

    created: float
    subject: str
    tags: list[str]
    requests: int
    tool_calls: int
    errors: int


class SessionSummary(Shape, frozen=True, kw_only=True):
    reference: str
    id: str  # its beginning
    server: str
    state: Literal["initialized", "uninitialized"]
    reason: str  # why it is uninitialized
    revision: int
    last_active: float
    expires: float | None  # null: it does not
    resident: bool  # in memory
    record: RecordSummary | None


class SessionList(Shape, frozen=True, kw_only=True):
    sessions: list[SessionSummary]
    next: str | None  # the cursor of the next page; null: that was all
    examined: int  # records that were read
    cut_short: bool  # the bound on records was reached before the page was full: go on with `next`


class PrincipalShown(Shape, frozen=True, kw_only=True):
    issuer: str
    client: str
    subject: str


class CallInProgress(Shape, frozen=True, kw_only=True):
    method: str
    tool: str
    started: float


class LinkShown(Shape, frozen=True, kw_only=True):
    phase: Literal["down", "connecting", "up"]
    detail: str


class SessionDetails(Shape, frozen=True, kw_only=True):
    """What the record tells, without what may be a secret."""

    created: float
    principal: PrincipalShown
    client_transport: str
    upstream_transport: str
    tags: list[str]
    requests: int
    tool_calls: int
    errors: int
    failure_detail: str
    listening: bool
    link: LinkShown
    calls: list[CallInProgress]
    questions: int  # of the upstream that its client has not answered
    streams: int  # that can be replayed
    setup: list[str]  # which messages are kept for a re-initialization
    metadata: dict[str, Any]
    context: dict[str, Any]
    values: dict[str, Any]


class SessionShown(SessionSummary, frozen=True, kw_only=True):
    details: SessionDetails | None  # null: the record cannot be read
    unreadable: str  # why


class PastCall(Shape, frozen=True, kw_only=True):
    number: int
    tool: str
    started: float
    seconds: float
    outcome: str
    code: int  # of the JSON-RPC error; 0: none
    arguments: str | None  # how long they were, where they are recorded: they may hold any secret
    result: str | None


class History(Shape, frozen=True, kw_only=True):
    calls: list[PastCall]  # newest first
    next: int | None


class ToolShown(Shape, frozen=True, kw_only=True):
    server: str
    tool: str
    calls: int
    errors: int
    error_rate: float
    mean_seconds: float
    p50_seconds: float
    p95_seconds: float


class SessionCounts(Shape, frozen=True, kw_only=True):
    known: int
    active: int
    resident: int
    uninitialized: int
    ended: int
    turned_away: int
    mean_seconds: float


class CallCounts(Shape, frozen=True, kw_only=True):
    requests: int
    errors: int
    error_rate: float
    p50_seconds: float  # of tool calls
    p95_seconds: float


class Closed(Shape, frozen=True, kw_only=True):
    """A session has ended. Upstream: told; sent on a link that was open; nothing (it keeps none); not told."""

    upstream: Literal["told", "sent", "nothing", "not_told"]
    detail: str  # why it was not told


class StoreShown(Shape, frozen=True, kw_only=True):
    lag_seconds: float  # the age of the oldest fact that is not durable
    backlog_rows: int
    commits: int
    outage_seconds: float
    facts_at_risk: int  # that would be lost now, while the store is away


class UpstreamShown(Shape, frozen=True, kw_only=True):
    server: str
    transport: str
    state: str
    since: float
    last_error: str
    refuses_credentials: bool  # it is there, and does not let the gateway in


class AnalyticsShown(Shape, frozen=True, kw_only=True):
    """What sessions are used for: figures of calls since the process started."""

    at: float
    sessions: SessionCounts
    calls: CallCounts
    tools: list[ToolShown]  # most used first
    store: StoreShown
    upstreams: list[UpstreamShown]
