"""What is said to, in and by a session: commands, events, effects, outcomes. Closed unions of frozen records.

Commands are imperative: somebody asks. Events are in the past tense: they happened, and are folded into the state.
Effects are what the shell is to do. `ticket` numbers one thing somebody waits for; the shell knows who.

An event is *hard* when somebody may come to rely on it: it must be durable before any later effect leaves (the output
gate). The others are soft: they ride along with the next commit, and a crash may forget them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from actors.jsonrpc import Message, RequestId
from actors.link import About, Established, Failure
from actors.outcomes import Accepted, Answered, NotDone, Outcome, Problem, Said, Streaming, Withdrawn
from actors.state import NOTHING, Ask, Call, Handshake, LinkPhase, Post, SetupChange

# All of a session's language is said under this module's name; outcomes have a file of their own for its length.
__all__ = ["Accepted", "Answered", "NotDone", "Outcome", "Problem", "Said", "Streaming", "Withdrawn"]


# ---- commands: from the client's side ------------------------------------------------------------


class Create(Said, frozen=True, gc=False):
    """Begin to exist without a handshake (embedding)."""

    ticket: int


class SendRequest(Said, frozen=True, gc=False):
    """Pass a client's request on, and its answer back. The first one of a session with a handshake opens it."""

    ticket: int
    message: Message
    label: str = ""
    setup: SetupChange | None = None
    opens: bool = False  # this request is the handshake
    on_standalone: bool = False  # its answer goes on the session's own stream, however soon it comes
    own: bool = False  # it is for us to answer: see own_tools.py


class SendNotification(Said, frozen=True, gc=False):
    """Pass a client's notification on."""

    ticket: int
    message: Message
    cancels: RequestId | None = None  # it withdraws this request
    confirms: bool = False  # it confirms the handshake


class SendAnswer(Said, frozen=True, gc=False):
    """Pass on a client's answer to a request of the upstream."""

    ticket: int
    message: Message


class SendBatch(Said, frozen=True, gc=False):
    """Pass on the messages of one batch, in order; the answers to its requests share one stream, which ends with the
    last of them."""

    ticket: int
    items: tuple[SendRequest | SendNotification | SendAnswer, ...]  # under tickets of their own, which nobody waits for
    refusals: tuple[Message, ...] = ()  # error answers to what is no message


class Emit(Said, frozen=True, gc=False):
    """Log a message of the application's own on the standalone stream (embedding)."""

    ticket: int
    message: Message


class Update(Said, frozen=True, gc=False):
    """Replace the application's values."""

    ticket: int
    values: Mapping[str, Any]
    encoded_bytes: int  # how large they are in the snapshot


class Listen(Said, frozen=True, gc=False):
    """Somebody reads the standalone stream now: let the upstream speak unasked."""

    ticket: int


class NoteShown(Said, frozen=True, gc=False):
    """The standalone stream was sent to a client up to this offset."""

    offset: int


class Look(Said, frozen=True, gc=False):
    """Be there, and change nothing: answered once the session is in memory."""

    ticket: int


class Close(Said, frozen=True, gc=False):
    """End the session for good, here and upstream."""

    ticket: int
    reason: str  # client | expired | admin | why it was uninitialized


# ---- commands: from operators ---------------------------------------------------------------------


class UpdateMetadata(Said, frozen=True, gc=False):
    """Change what people have noted about the session: tags to put on and take off, values to set and to forget."""

    ticket: int
    add_tags: tuple[str, ...] = ()
    remove_tags: tuple[str, ...] = ()
    values: Mapping[str, Any] = NOTHING
    forget: tuple[str, ...] = ()


class Reinitialize(Said, frozen=True, gc=False):
    """Drop the upstream's session and do the kept handshake again, whatever the upstream still knows."""

    ticket: int


# ---- commands: from the runtime and the link -----------------------------------------------------


class Recovered(Said, frozen=True, gc=False):
    """The state was loaded from the store: settle what the former incarnation left open."""


class ConnectNow(Said, frozen=True, gc=False):
    """Open the link if it is not, and say how that went (restoring at start-up)."""

    ticket: int


class LinkUp(Said, frozen=True, gc=False):
    established: Established


class LinkDown(Said, frozen=True, gc=False):
    detail: str


class ConnectRetried(Said, frozen=True, gc=False):
    """Opening the link failed for now; the shell goes on trying while somebody waits."""

    detail: str


class ConnectGivenUp(Said, frozen=True, gc=False):
    """Nobody waits for the link any more, and opening it kept failing."""


class ConnectRefused(Said, frozen=True, gc=False):
    """The upstream refuses this session for good."""

    reason: str
    detail: str


class Receive(Said, frozen=True, gc=False):
    message: Message
    about: RequestId | About
    cursor: str = ""
    upstream_session_id: str = ""  # what the link knows when the opening answer arrives


class ReceivePing(Said, frozen=True, gc=False):
    """The other side asks whether anybody is there."""

    receive: Receive
    read_streams: frozenset[int]  # those that somebody reads now
    awaited: frozenset[int]  # the tickets under which somebody waits now


class MoveCursor(Said, frozen=True, gc=False):
    about: RequestId | About
    cursor: str


class Delivered(Said, frozen=True, gc=False):
    ticket: int


class Refused(Said, frozen=True, gc=False):
    ticket: int
    failure: Failure
    detail: str


class Overdue(Said, frozen=True, gc=False):
    """Time has passed for what waits under this ticket: choose what that means."""

    ticket: int


class Abandon(Said, frozen=True, gc=False):
    """Mark the session uninitialized for a reason of our own (a crash loop)."""

    reason: str
    detail: str


Command = (
    Create
    | SendRequest
    | SendNotification
    | SendAnswer
    | SendBatch
    | Emit
    | Update
    | Listen
    | Look
    | NoteShown
    | Close
    | UpdateMetadata
    | Reinitialize
    | Recovered
    | ConnectNow
    | LinkUp
    | LinkDown
    | ConnectRetried
    | ConnectGivenUp
    | ConnectRefused
    | Receive
    | ReceivePing
    | MoveCursor
    | Delivered
    | Refused
    | Overdue
    | Abandon
)

# ---- events --------------------------------------------------------------------------------------


class Created(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True


class Opened(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True
    handshake: Handshake


class ClientReady(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True


class Reinitialized(Said, frozen=True, gc=False):
    """The upstream had forgotten the session and accepted the kept handshake again."""

    hard: ClassVar[bool] = True
    upstream_session_id: str


class LinkChanged(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    phase: LinkPhase
    detail: str = ""


class ConnectAwaited(Said, frozen=True, gc=False):
    """Somebody waits for the link (or, with no tickets, nobody any more)."""

    hard: ClassVar[bool] = False
    tickets: tuple[int, ...]


class ListeningStarted(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False


class CallStarted(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    call: Call
    tool: bool


class CallChanged(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    call: Call


class CallPromised(Said, frozen=True, gc=False):
    """The call's answer, or an error in its place, will come on the session's own stream, whatever happens to us."""

    hard: ClassVar[bool] = True
    call: Call


# How a call ended. `error`: its client was told of one; `cancelled`: by its client; `interrupted`: it may have been
# carried out, and its answer is lost. Literals, since the value of an enumeration's member costs half a record's time.
Ending = Literal["ok", "error", "cancelled", "interrupted", "timeout"]


class CallEnded(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    request_id: RequestId
    failed: bool
    at_unix_s: float
    ending: Ending = "ok"
    code: int = 0  # of the JSON-RPC error, where it is one
    answer: Message | None = None  # what the client gets, where it gets something


class PostChanged(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    post: Post


class PostEnded(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    ticket: int


class AskOpened(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False  # its message is logged in the same turn, and that is hard
    ask: Ask


class AskClosed(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    client_id: RequestId


class AsksWithdrawn(Said, frozen=True, gc=False):
    """The upstream incarnation that asked is gone."""

    hard: ClassVar[bool] = True


class TaskHeard(Said, frozen=True, gc=False):
    """A task of the other side was made, or goes on, or (until is 0) has ended."""

    hard: ClassVar[bool] = False
    task_id: str
    until_unix_s: float


class SetupKept(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True
    key: str
    raw: bytes


class SetupDropped(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True
    key: str


class StreamOpened(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True
    stream: int
    request_id: RequestId | None


class MessageLogged(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True
    stream: int
    offset: int
    sequence: int
    at_unix_s: float
    body: bytes


class StreamEnded(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True
    stream: int


class CursorMoved(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    cursor: str


class Shown(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    offset: int


class ValuesChanged(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True
    values: Mapping[str, Any]


class MetadataChanged(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = True
    metadata: Mapping[str, Any]


class ReinitializationBegun(Said, frozen=True, gc=False):
    """The next link is to begin anew; a failure that the session had is forgiven until it is seen again."""

    hard: ClassVar[bool] = True


class Touched(Said, frozen=True, gc=False):
    hard: ClassVar[bool] = False
    at_unix_s: float


class Failed(Said, frozen=True, gc=False):
    """The session could not be restored, or came apart: it is uninitialized from now on."""

    hard: ClassVar[bool] = True
    reason: str
    detail: str
    at_unix_s: float


class Closed(Said, frozen=True, gc=False):
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
    | CallPromised
    | CallEnded
    | PostChanged
    | PostEnded
    | AskOpened
    | AskClosed
    | AsksWithdrawn
    | TaskHeard
    | SetupKept
    | SetupDropped
    | StreamOpened
    | MessageLogged
    | StreamEnded
    | CursorMoved
    | Shown
    | ValuesChanged
    | MetadataChanged
    | ReinitializationBegun
    | Touched
    | Failed
    | Closed
)

# ---- effects -------------------------------------------------------------------------------------


class Reply(Said, frozen=True, gc=False):
    """Tell whoever waits under `ticket`."""

    ticket: int
    outcome: Outcome


class SendUpstream(Said, frozen=True, gc=False):
    message: Message
    ticket: int


class AnswerOurselves(Said, frozen=True, gc=False):
    """Answer a request that is not for the other side; the answer comes back as if it had."""

    message: Message


class CancelUpstream(Said, frozen=True, gc=False):
    """Tell the upstream that an answer is not wanted any more."""

    request_id: RequestId
    reason: str


class Watch(Said, frozen=True, gc=False):
    """Say `Overdue` about this ticket after a while."""

    ticket: int
    seconds: float


class OpenLink(Said, frozen=True, gc=False):
    """Open the link, and go on trying while somebody waits."""


class ListenUpstream(Said, frozen=True, gc=False):
    """Let the upstream speak unasked."""


class CloseLink(Said, frozen=True, gc=False):
    end_session: bool


class Bury(Said, frozen=True, gc=False):
    """Remove the session from the store; when that is durable, tell whoever waits, and end the actor."""

    ticket: int
    reason: str


class Discard(Said, frozen=True, gc=False):
    """End the actor without a trace: the session never came to exist."""


Effect = (
    Reply
    | SendUpstream
    | AnswerOurselves
    | CancelUpstream
    | Watch
    | OpenLink
    | ListenUpstream
    | CloseLink
    | Bury
    | Discard
)
