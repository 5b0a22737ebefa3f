"""The matrix's client over WebSocket: what it says and hears goes over one connection.

In `mcp.outlast.v1` it comes back with its session's id and that of the last event it has, and takes the gateway at its
word about what it does not hear (docs/protocol.md, "WebSocket"): when all is there that was kept, a request which is
neither answered nor in progress is not going to be. In `mcp` it has nothing but the session's id, from the upgrade.
Nothing confirms a notification: a ping behind it tells that it was not refused.
"""

from __future__ import annotations

import contextlib
import functools
import json
from typing import ClassVar
from urllib.parse import urlencode

import trio
import trio_websocket

from tests.e2e.gateway import Gateway
from tests.e2e.raw_client import LATEST, Json, RawClient
from tests.e2e.raw_client import ConnectionBroken as HttpConnectionBroken
from tests.e2e.restarts.one_stream_client import RETRY_SECONDS, Event, OneStreamClient
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.streamable_client import refusal
from tests.e2e.restarts.transcript import Asked, Due, Ending, Kind, Transcript
from tests.e2e.socket_client import PLAIN, WITH_IDS, SocketClient, connect
from tests.e2e.waiting import wait_until

_SESSION_GONE = 4404
_BROKEN = 1006
_LATER = frozenset({1012, 1013})  # the gateway stops; the store or the upstream is away
_COME_BACK = _LATER | {_BROKEN}


class WebSocketClient(OneStreamClient):
    """One client of one endpoint."""

    WITHOUT: ClassVar[frozenset[str]] = frozenset({"batch"})  # a message has no array

    def __init__(
        self,
        nursery: trio.Nursery,
        stage: Stage,
        transcript: Transcript,
        *,
        gateway: Gateway,
        revision: str = LATEST,
        keeps_ids: bool = True,
    ) -> None:
        """Make a client.

        Args:
          keeps_ids: it offers `mcp.outlast.v1`; else it speaks `mcp`, in which nothing has an id, and nothing tells it
            that a request was lost in the instant before a crash.
        """
        super().__init__(nursery, stage, transcript, revision=revision, keeps_ids=keeps_ids)
        self._gateway = gateway
        self._peer: SocketClient | None = None
        self._cursor = ""
        self._is_gone = False
        self._on_earlier: set[object] = set()  # ids of requests that may have been lost with an earlier connection
        self._sent: set[object] = set()  # ids of requests that went over the present one
        self._settled_by = ""  # the event with which all is there that was kept
        self._unconfirmed: list[Asked] = []
        self._has_broken = False  # the connection before

    def delete(self) -> Asked:
        """End the session, over HTTP: no frame says so."""
        asked = Asked("delete", due=Due.END)
        self._begin(asked, {})
        self._nursery.start_soon(self._delete, asked)
        return asked

    async def _delete(self, asked: Asked) -> None:
        try:
            answer = await RawClient(self._gateway.url(), self.session_id).delete()
        except HttpConnectionBroken as broken:
            asked.endings.append(Ending(Kind.BROKEN, str(broken)))
            return
        if answer.status == 200:
            asked.endings.append(Ending(Kind.ANSWER))
        else:
            asked.endings.append(refusal(answer.status, answer.body))

    def _forget_place(self) -> None:
        self._peer, self._cursor, self._is_gone = None, "", False
        self._sent.clear()
        self._on_earlier.clear()

    def _go_back_to(self, event_id: str) -> None:
        self._cursor = event_id

    # ---- what it says ----

    async def _try(self, asked: Asked, message: Json) -> bool:
        await wait_until("there is a connection", lambda: self._peer is not None or self._is_gone)
        if self._peer is None:
            asked.endings.append(Ending(Kind.DENIED, "4404"))
            return True
        if asked.request_id is not None:
            self._sent.add(asked.request_id)
        else:
            self._unconfirmed.append(asked)
        with contextlib.suppress(trio_websocket.ConnectionClosed):  # whether it arrived is told when that is back
            await self._peer.say(message)
        if asked.request_id is None:
            await self._confirmed(asked)
            return bool(asked.endings)
        return True

    async def _confirmed(self, told: Asked) -> None:
        """Wait until something that was said later is answered: what was told before has been taken, or refused.

        Told after the fault, and refused for now, it has no end yet: it is to be told again.
        """
        barrier = Asked("barrier", after=told.after)
        message = self.request("ping", {})
        barrier.request_id = message["id"]
        await self._converse(barrier, message)
        await wait_until(f"a ping behind {told.name} ended", functools.partial(bool, barrier.endings))
        if told in self._unconfirmed:
            self._unconfirmed.remove(told)
            kind = barrier.endings[0].kind
            told.endings.append(Ending(kind if kind in (Kind.BROKEN, Kind.DENIED) else Kind.ANSWER))

    # ---- what it hears ----

    async def _stay(self, scope: trio.CancelScope, opening: Asked) -> None:
        with scope:
            while not self._is_gone:
                self._connection = trio.CancelScope()
                is_later = False
                with self._connection:
                    is_later = await self._connect()
                self._disconnect()
                if not (opening.is_answered or is_later):
                    _end(opening, Kind.BROKEN, "the connection broke before the session was open")
                    return
                await trio.sleep(RETRY_SECONDS)

    def _disconnect(self) -> None:
        self.is_connected, self._peer = False, None
        self._on_earlier |= self._sent
        self._sent.clear()

    async def _connect(self) -> bool:
        """Connect, and hear what is said until the connection ends; give whether it was told to come back later."""
        place = {"session_id": self.session_id, "last_event_id": self._cursor}
        query = urlencode({name: value for name, value in place.items() if value})
        subprotocol = WITH_IDS if self.keeps_ids else PLAIN
        try:
            async with connect(self._gateway, query=query, subprotocols=(subprotocol,)) as peer:
                return await self._hear(peer) in _LATER
        except* trio_websocket.ConnectionRejected as rejected:
            self._note_rejections(rejected)
            is_later = True
        except* (OSError, trio_websocket.HandshakeError, trio_websocket.ConnectionClosed):
            is_later = False  # it is still being started
        return is_later

    def _note_rejections(self, rejected: BaseExceptionGroup[trio_websocket.ConnectionRejected]) -> None:
        for error in rejected.exceptions:
            assert isinstance(error, trio_websocket.ConnectionRejected)
            if error.status_code != 503:
                self.transcript.wrong.append(f"its connection was answered with {error.status_code}")

    async def _hear(self, peer: SocketClient) -> int:
        self._peer = peer
        self.is_connected = not self.session_id  # one that comes back is told first where things stand
        if self.session_id and not self.keeps_ids:
            self._begin_return(has_broken=self._has_broken)
        self.session_id = self.session_id or peer.session_id
        try:
            while True:
                frame = json.loads(await peer.connection.get_message())
                await trio.lowlevel.checkpoint_if_cancelled()  # it may be of a session that was given up meanwhile
                self._take_frame(frame)
        except trio_websocket.ConnectionClosed as closed:
            code = 1006 if closed.reason is None else closed.reason.code
            self._is_gone = code == _SESSION_GONE
            self._has_broken = code == _BROKEN
            if self._is_gone:
                self._lose_session(f"{code} to its last event id")
            elif code not in _COME_BACK:
                self.transcript.wrong.append(f"its connection was closed with {code}")
            return code

    def _take_frame(self, frame: Json) -> None:
        if not self.keeps_ids:
            is_refusal = "method" not in frame and frame["id"] is None
            (self._take_refusal if is_refusal else self._take_nameless)(frame)
        elif "session_id" in frame:
            self._take_greeting(frame)
        elif "event_id" in frame:
            self._cursor = frame["event_id"]
            self._take_event(Event(frame["event_id"], frame["message"]), frame["event_id"])
            self._settle(frame["event_id"])
        elif frame["message"].get("id", "") is None:
            self._take_refusal(frame["message"])
        else:
            self._take_message(frame["message"])

    def _take_greeting(self, greeting: Json) -> None:
        if self.session_id not in ("", greeting["session_id"]):
            self.transcript.wrong.append("it came back to another session")
        if self._cursor not in ("", greeting["event_id"]):
            self.transcript.wrong.append(f"it came back with {self._cursor}, and is told {greeting['event_id']}")
        self.session_id, self._cursor = greeting["session_id"], greeting["event_id"]
        self._on_earlier.difference_update(greeting["in_progress"])
        self._settled_by = greeting["last_event_id"]
        self.is_connected = True
        self._settle(greeting["event_id"])

    def _settle(self, event_id: str) -> None:
        """All that was kept is there: what went over earlier connections and has no answer by now gets none."""
        if event_id != self._settled_by:
            return
        for request_id in self._on_earlier:
            asked, _ = self._requests[request_id]
            if not asked.endings:
                _end(asked, Kind.BROKEN, "it is neither answered nor in progress")
        self._on_earlier.clear()

    def _take_refusal(self, message: Json) -> None:
        """Note what became of something that has no id: the oldest of which nothing is known is meant."""
        if not self._unconfirmed:
            self.transcript.wrong.append(f"a refusal of nothing that was said: {message}")
            return
        told = self._unconfirmed.pop(0)
        if not self._may_be_tried_again(told, message):
            self._end(told, message)


def _end(asked: Asked, kind: Kind, text: str) -> None:
    if not asked.endings:
        asked.endings.append(Ending(kind, text))
