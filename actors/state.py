"""SessionState: all that is known of one session, and nothing of how it runs.

Frozen: a turn makes a new state (`actors/evolve.py`), so a state handed to the writer stays what it was. Most fields
are kept in the session's snapshot; those under "while it lives" are forgotten by a restart and begin empty
(`actors/snapshots.py` decides which, in one place).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from actors.ids import ANONYMOUS, Principal, SessionId
from actors.jsonrpc import Message, RequestId
from persistence.shown import shown_id

# Most of a session's mappings are empty most of the time: one empty mapping serves them all. None is ever changed
# in place.
NOTHING: Mapping[Any, Any] = {}


def _nothing() -> Mapping[Any, Any]:
    return NOTHING


# While a message waits for the link it is looked at this often: an answer within the client's patience either way.
RETRY_EVERY_SECONDS = 0.25


@attrs.frozen
class Limits:
    """The bounds of one session. Whoever reaches one gets the named answer."""

    calls_in_flight_max: int = 32  # more: `Outcome` OVERLOADED
    posts_in_flight_max: int = 64  # notifications and answers not yet with the upstream; more: OVERLOADED
    asks_max: int = 64  # requests of the upstream that the client has not answered; more: answered with an error
    tasks_max: int = 64  # live tasks that hold a session; more: the oldest holds it no longer
    task_seconds_max: float = 24 * 3600.0  # a task about which nothing is heard holds it no longer than this
    setup_max: int = 256  # kept set-up messages (log level, subscriptions); more: the oldest is forgotten
    setup_bytes_max: int = 256 * 1024  # these messages together, and their keys; more: REFUSED, before it is sent
    events_per_session_max: int = 1000  # logged events kept for replay; older ones are trimmed
    events_bytes_max: int = 16 * 1024 * 1024  # their bodies together; older ones are trimmed, the newest always stays
    event_bytes_max: int = 16 * 1024 * 1024  # of one; an answer or question that is larger becomes an error
    streams_kept_max: int = 32  # ended streams whose events can still be replayed; at least `calls_in_flight_max`
    values_bytes_max: int = 256 * 1024  # the application's key-value map, encoded; more: REFUSED
    metadata_bytes_max: int = 16 * 1024  # what clients and operators note about it, encoded; more: REFUSED
    tags_max: int = 32  # more: REFUSED
    call_history_max: int = 200  # calls of tools that can be looked up; older ones are trimmed; 0: none are noted
    call_history_bytes_max: int = 1024 * 1024  # their records together; older ones are trimmed
    call_history_contents: bool = False  # record arguments and results, too: they may hold secrets
    call_history_content_bytes_max: int = 4096  # of the arguments or the result of one call; the rest is cut off
    answer_json_within_seconds: float = 0.25  # a call still unanswered becomes a stream
    promise_within_seconds: float = 0.02  # a call still unanswered whose answer goes on the standalone stream is kept
    link_wait_seconds: float = 5.0  # a message waits this long for the upstream; then UNAVAILABLE
    call_seconds_max: float = 3600.0  # silence (no answer, no message about it) after which a call is given up
    call_total_seconds_max: float = (
        24 * 3600.0
    )  # from its start, however much progress is told (MCP, lifecycle, Timeouts)
    opening_seconds_max: float = 30.0  # an opening request unanswered for this long is given up
    cancel_grace_seconds: float = 5.0  # a cancelled call whose upstream stays silent ends after this
    first_look_seconds: float = attrs.field(init=False)  # what was sent is looked at after this, and then as need be

    @first_look_seconds.default
    def _first_look_seconds(self) -> float:
        """Give the sooner of two: answers may be given long, but what could not be sent is tried again soon."""
        return min(self.answer_json_within_seconds, RETRY_EVERY_SECONDS)

    def __attrs_post_init__(self) -> None:
        # All calls in flight may end in one turn (the upstream is lost): none of their streams may be forgotten before
        # its reader had a chance to be given the answer.
        if self.streams_kept_max < self.calls_in_flight_max:
            raise ValueError(
                f"streams_kept_max is {self.streams_kept_max}, less than calls_in_flight_max,"
                f" {self.calls_in_flight_max}: raise the first, or lower the second"
            )


@attrs.frozen
class SetupChange:
    """What a successful request means for re-initialization: keep it, to be sent again, or forget the kept one."""

    key: str  # one kept message per key, e.g. "logging/setLevel" or "resources/subscribe file:///a"
    keep: bool


@attrs.frozen
class Handshake:
    """The opening exchange, as the client made it: replayed to an upstream that has forgotten the session."""

    request: bytes = attrs.field(repr=False)  # the raw opening request
    result: bytes = attrs.field(repr=False)  # the raw answer the client got (the whole message)
    upstream_session_id: str = attrs.field(repr=False)  # the upstream's own name for the session; "" where it has none
    ready: bool = False  # the client has confirmed (MCP: notifications/initialized)


@attrs.frozen
class Stream:
    """One of the session's event streams: the standalone one (id 0), or that of one client request."""

    id: int
    request_id: RequestId | None
    next_offset: int = 1
    ended: bool = False
    former_epochs: tuple[tuple[int, int], ...] = ()  # (epoch, last offset under it), oldest first: see epochs.py

    @property
    def last_offset(self) -> int:
        return self.next_offset - 1


class Call(msgspec.Struct, frozen=True):
    """A client's request that has no answer yet."""

    ticket: int
    request_id: RequestId
    method: str
    label: str  # what is counted, e.g. the tool's name; "" for what is not
    message: Message | None  # to send (again) while that is safe; None after a restart
    started_unix_s: float
    setup: SetupChange | None = None
    sent: bool = False
    sent_unix_s: float = 0.0  # when; the client's patience counts from here
    resent: bool = False  # sent a second time, after the upstream had lost the session
    stream: int | None = None  # set once the call has become a stream, or is to be answered on the standalone one
    cancelled_unix_s: float = 0.0  # when the client cancelled it; 0: it did not
    heard_unix_s: float = 0.0  # when the upstream last said something about it
    upstream_cursor: str = ""  # the upstream's last event id on this call's stream
    on_standalone: bool = False  # its answer goes on the session's own stream; not kept: `stream` says so by then
    own: bool = False  # we answer it, whatever becomes of the link; not kept: after a restart nobody does


class Post(msgspec.Struct, frozen=True):
    """A notification or an answer of the client that the upstream does not have yet."""

    ticket: int
    message: Message
    started_unix_s: float
    sent: bool = False
    resent: bool = False


@attrs.frozen
class Ask:
    """A request of the upstream that the client has not answered yet."""

    client_id: RequestId  # the id the client knows
    upstream_id: RequestId  # differs only if an older request with that id was still open
    method: str
    stream: int
    withdrawn: bool = False  # its upstream incarnation is gone: a late answer is dropped, the id not used again


@attrs.frozen
class LogState:
    """Where the session's event log stands."""

    epoch: int  # part of every event id: a log that may have lost events continues under a new one
    next_sequence: int = 1
    trimmed_through: int = 0
    segments: tuple[tuple[int, int], ...] = ()  # (last sequence, bytes) of what is kept, oldest first: log_bounds.py


class Metrics(msgspec.Struct, frozen=True, gc=False):
    requests: int = 0
    tool_calls: int = 0
    errors: int = 0


class LinkPhase(enum.Enum):
    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """One session. Units: `_unix_s` is wall clock.

    A msgspec.Struct, as calls and posts are, where records elsewhere are attrs classes: each event makes a new state
    of thirty fields, and `msgspec.structs.replace` does that in 0.3 microseconds, `attrs.evolve` in 7 to 15
    (measured), twice for every call.
    """

    session_id: SessionId
    revision: int = 0  # events folded so far
    server_id: str
    principal: Principal = ANONYMOUS
    created_unix_s: float
    last_active_unix_s: float
    ttl_seconds: float  # from the last activity
    opened: bool = False  # it exists for its client: created (embedding), or the handshake has succeeded
    failure: str = ""  # why it is uninitialized
    failure_detail: str = ""
    failed_unix_s: float = 0.0
    client_transport: str = "embedded"
    upstream_transport: str = "embedded"
    handshake: Handshake | None = None
    setup: Mapping[str, bytes] = msgspec.field(
        default_factory=_nothing
    )  # raw messages, re-applied after a re-initialization
    streams: Mapping[int, Stream] = msgspec.field(default_factory=_nothing)
    next_stream: int = 1
    log: LogState
    calls: Mapping[RequestId, Call] = msgspec.field(default_factory=_nothing)
    asks: Mapping[RequestId, Ask] = msgspec.field(default_factory=_nothing)  # by the id the client knows
    standalone_cursor: str = ""  # the upstream's last event id on its own stream
    metrics: Metrics = Metrics()
    values: Mapping[str, Any] = msgspec.field(default_factory=_nothing)  # the application's
    context: Mapping[str, Any] = msgspec.field(default_factory=_nothing)  # who and what it runs for; set at creation
    metadata: Mapping[str, Any] = msgspec.field(default_factory=_nothing)  # user_agent, origin, tags, ...
    shown_offset: int = 0  # how far the standalone stream was sent to some client: where one without a cursor begins
    listening: bool = False  # the client has read its standalone stream: the upstream may speak unasked
    # while it lives
    connect_tickets: tuple[int, ...] = ()  # who waits to hear whether the link could be opened
    link_detail: str = ""  # why the link could not be opened, when it could not
    posts: Mapping[int, Post] = msgspec.field(default_factory=_nothing)  # by ticket
    tasks: Mapping[str, float] = msgspec.field(
        default_factory=_nothing
    )  # that the other side works on, by id: until when (Unix time) they hold the session
    link: LinkPhase = LinkPhase.DOWN
    begin_anew: bool = False  # the next link repeats the handshake, even if the upstream still knows the session
    closed: bool = False

    def __repr__(self) -> str:
        """Say which session, and nothing of what is kept for it."""
        shown = f"{shown_id(self.session_id)}… of {self.server_id!r} at revision {self.revision}"
        return f"<SessionState {shown}, {len(self.calls)} calls{', ' + self.failure if self.failure else ''}>"

    @property
    def initialized(self) -> bool:
        """The session is in force: opened, and not failed."""
        return self.opened and not self.failure

    @property
    def expires_unix_s(self) -> float:
        return self.last_active_unix_s + self.ttl_seconds

    @property
    def busy(self) -> bool:
        """Somebody waits for an answer, on one side or the other."""
        return bool(self.calls or self.posts)
