"""What is said to, in and by a session: commands, events, effects, outcomes. Closed unions of frozen records.

Commands are imperative: somebody asks. Events are in the past tense: they happened, and are folded into the state.
Effects are what the shell is to do. `ticket` numbers one thing somebody waits for; the shell knows who.

An event is *hard* when somebody may come to rely on it: it must be durable before any later effect leaves (the output
gate). The others are soft: they ride along with the next commit, and a crash may forget them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, ClassVar

import attrs

from actors.jsonrpc import Message, RequestId
from actors.link import About, Established, Failure
from actors.state import Ask, Call, Handshake, LinkPhase, Post, SetupChange

# ---- commands: from the client's side ------------------------------------------------------------


@attrs.frozen
class Create:
    """Begin to exist without a handshake (embedding)."""

    ticket: int


@attrs.frozen
class SendRequest:
    """Pass a client's request on, and its answer back. The first one of a session with a handshake opens it."""

    ticket: int
    message: Message
    label: str = ""
    setup: SetupChange | None = None
    opens: bool = False  # this request is the handshake


@attrs.frozen
class SendNotification:
    """Pass a client's notification on."""

    ticket: int
    message: Message
    cancels: RequestId | None = None  # it withdraws this request
    confirms: bool = False  # it confirms the handshake


@attrs.frozen
class SendAnswer:
    """Pass on a client's answer to a request of the upstream."""

    ticket: int
    message: Message


@attrs.frozen
class Emit:
    """Log a message of the application's own on the standalone stream (embedding)."""

    ticket: int
    message: Message


@attrs.frozen
class Update:
    """Replace the application's values."""

    ticket: int
    values: Mapping[str, Any]
    encoded_bytes: int  # how large they are in the snapshot


@attrs.frozen
class Listen:
    """Somebody reads the standalone stream now: let the upstream speak unasked."""

    ticket: int


@attrs.frozen
class NoteShown:
    """The standalone stream was sent to a client up to this offset."""

    offset: int


@attrs.frozen
class Look:
    """Be there, and change nothing: answered once the session is in memory."""

    ticket: int


@attrs.frozen
class Close:
    """End the session for good, here and upstream."""

    ticket: int
    reason: str  # client | expired | admin | why it was uninitialized


# ---- commands: from the runtime and the link -----------------------------------------------------


@attrs.frozen
class Recovered:
    """The state was loaded from the store: settle what the former incarnation left open."""


@attrs.frozen
class ConnectNow:
    """Open the link if it is not, and say how that went (restoring at start-up)."""

    ticket: int


@attrs.frozen
class LinkUp:
    established: Established


@attrs.frozen
class LinkDown:
    detail: str


@attrs.frozen
class ConnectRetried:
    """Opening the link failed for now; the shell goes on trying while somebody waits."""

    detail: str


@attrs.frozen
class ConnectGivenUp:
    """Nobody waits for the link any more, and opening it kept failing."""


@attrs.frozen
class ConnectRefused:
    """The upstream refuses this session for good."""

    reason: str
    detail: str


@attrs.frozen
class Receive:
    message: Message
    about: RequestId | About
    cursor: str = ""
    upstream_session_id: str = ""  # what the link knows when the opening answer arrives


@attrs.frozen
class MoveCursor:
    about: RequestId | About
    cursor: str


@attrs.frozen
class Delivered:
    ticket: int


@attrs.frozen
class Refused:
    ticket: int
    failure: Failure
    detail: str


@attrs.frozen
class Overdue:
    """Time has passed for what waits under this ticket: choose what that means."""

    ticket: int


@attrs.frozen
class Abandon:
    """Mark the session uninitialized for a reason of our own (a crash loop)."""

    reason: str
    detail: str


Command = (
    Create
    | SendRequest
    | SendNotification
    | SendAnswer
    | Emit
    | Update
    | Listen
    | Look
    | NoteShown
    | Close
    | Recovered
    | ConnectNow
    | LinkUp
    | LinkDown
    | ConnectRetried
    | ConnectGivenUp
    | ConnectRefused
    | Receive
    | MoveCursor
    | Delivered
    | Refused
    | Overdue
    | Abandon
)

# ---- events --------------------------------------------------------------------------------------


@attrs.frozen
class Created:
    hard: ClassVar[bool] = True


@attrs.frozen
class Opened:
    hard: ClassVar[bool] = True
    handshake: Handshake


@attrs.frozen
class ClientReady:
    hard: ClassVar[bool] = True


@attrs.frozen
class Reinitialized:
    """The upstream had forgotten the session and accepted the kept handshake again."""

    hard: ClassVar[bool] = True
    upstream_session_id: str


@attrs.frozen
class LinkChanged:
    hard: ClassVar[bool] = False
    phase: LinkPhase
    detail: str = ""


@attrs.frozen
class ConnectAwaited:
    """Somebody waits for the link (or, with no tickets, nobody any more)."""

    hard: ClassVar[bool] = False
    tickets: tuple[int, ...]


@attrs.frozen
class ListeningStarted:
    hard: ClassVar[bool] = False


@attrs.frozen
class CallStarted:
    hard: ClassVar[bool] = False
    call: Call
    tool: bool


@attrs.frozen
class CallChanged:
    hard: ClassVar[bool] = False
    call: Call


@attrs.frozen
class CallEnded:
    hard: ClassVar[bool] = False
    request_id: RequestId
    failed: bool
    at_unix_s: float


@attrs.frozen
class PostChanged:
    hard: ClassVar[bool] = False
    post: Post


@attrs.frozen
class PostEnded:
    hard: ClassVar[bool] = False
    ticket: int


@attrs.frozen
class AskOpened:
    hard: ClassVar[bool] = False  # its message is logged in the same turn, and that is hard
    ask: Ask


@attrs.frozen
class AskClosed:
    hard: ClassVar[bool] = False
    client_id: RequestId


@attrs.frozen
class AsksWithdrawn:
    """The upstream incarnation that asked is gone."""

    hard: ClassVar[bool] = True


@attrs.frozen
class SetupKept:
    hard: ClassVar[bool] = True
    key: str
    raw: bytes


@attrs.frozen
class SetupDropped:
    hard: ClassVar[bool] = True
    key: str


@attrs.frozen
class StreamOpened:
    hard: ClassVar[bool] = True
    stream: int
    request_id: RequestId | None


@attrs.frozen
class MessageLogged:
    hard: ClassVar[bool] = True
    stream: int
    offset: int
    sequence: int
    at_unix_s: float
    body: bytes


@attrs.frozen
class StreamEnded:
    hard: ClassVar[bool] = True
    stream: int


@attrs.frozen
class CursorMoved:
    hard: ClassVar[bool] = False
    cursor: str


@attrs.frozen
class Shown:
    hard: ClassVar[bool] = False
    offset: int


@attrs.frozen
class ValuesChanged:
    hard: ClassVar[bool] = True
    values: Mapping[str, Any]


@attrs.frozen
class Touched:
    hard: ClassVar[bool] = False
    at_unix_s: float


@attrs.frozen
class Failed:
    """The session could not be restored, or came apart: it is uninitialized from now on."""

    hard: ClassVar[bool] = True
    reason: str
    detail: str
    at_unix_s: float


@attrs.frozen
class Closed:
    hard: ClassVar[bool] = True
    reason: str


Event = (
    Created
    | Opened
    | ClientReady
    | Reinitialized
    | LinkChanged
    | ConnectAwaited
    | ListeningStarted
    | CallStarted
    | CallChanged
    | CallEnded
    | PostChanged
    | PostEnded
    | AskOpened
    | AskClosed
    | AsksWithdrawn
    | SetupKept
    | SetupDropped
    | StreamOpened
    | MessageLogged
    | StreamEnded
    | CursorMoved
    | Shown
    | ValuesChanged
    | Touched
    | Failed
    | Closed
)

# ---- outcomes: what a ticket comes to ------------------------------------------------------------


class Problem(enum.Enum):
    """Why something was not done, by who acts: most can simply be tried again later."""

    UNAVAILABLE = "unavailable"  # the upstream or the store is not there now; nothing was run
    OVERLOADED = "overloaded"  # a bound of this session is reached; nothing was run
    DUPLICATE = "duplicate"  # a request with this id is in flight
    UNINITIALIZED = "uninitialized"  # the session cannot go on; open a new one
    REFUSED = "refused"  # the upstream, or a rule, says no
    LOST = "lost"  # it may have been run; the answer is lost


@attrs.frozen
class Answered:
    """The answer to a request, to be passed on as it is."""

    message: Message


@attrs.frozen
class Streaming:
    """The call has become a stream: read it from its start."""

    stream: int


@attrs.frozen
class Accepted:
    """Done, and nothing to say."""


@attrs.frozen
class Withdrawn:
    """The client cancelled its request, and there will be no answer."""


@attrs.frozen
class NotDone:
    problem: Problem
    detail: str


Outcome = Answered | Streaming | Accepted | Withdrawn | NotDone

# ---- effects -------------------------------------------------------------------------------------


@attrs.frozen
class Reply:
    """Tell whoever waits under `ticket`."""

    ticket: int
    outcome: Outcome


@attrs.frozen
class SendUpstream:
    message: Message
    ticket: int


@attrs.frozen
class CancelUpstream:
    """Tell the upstream that an answer is not wanted any more."""

    request_id: RequestId
    reason: str


@attrs.frozen
class Watch:
    """Say `Overdue` about this ticket after a while."""

    ticket: int
    seconds: float


@attrs.frozen
class OpenLink:
    """Open the link, and go on trying while somebody waits."""


@attrs.frozen
class ListenUpstream:
    """Let the upstream speak unasked."""


@attrs.frozen
class CloseLink:
    end_session: bool


@attrs.frozen
class Bury:
    """Remove the session from the store; when that is durable, tell whoever waits, and end the actor."""

    ticket: int
    reason: str


@attrs.frozen
class Discard:
    """End the actor without a trace: the session never came to exist."""


Effect = Reply | SendUpstream | CancelUpstream | Watch | OpenLink | ListenUpstream | CloseLink | Bury | Discard
