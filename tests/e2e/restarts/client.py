"""A client of the matrix: it does what MCP tells clients to do when things break, and writes down what it is told.

What all transports have in common is here: what can be asked, and how what comes is noted. How it travels is a
subclass' matter (`streamable_client.py`, `sse_client.py`, `socket_client.py`). Nothing here raises for what a gateway
does wrong: that is written down for the judge. Waits have deadlines, and what did not come in time is silence.
"""

from __future__ import annotations

import abc
import functools
import json
from collections.abc import Collection
from typing import Any

import trio

from tests.e2e.raw_client import LATEST, Json
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.transcript import Asked, Due, Ending, Kind, Transcript
from tests.e2e.upstream_server import HOLD
from tests.e2e.waiting import wait_until

CAPABILITIES: Json = {"sampling": {}, "elicitation": {}, "roots": {"listChanged": True}}
TOOLS_CHANGED = "notifications/tools/list_changed"

_NUDGE_SECONDS = 0.3  # between attempts to hear anything at all on a stream that was only just opened


class Client(abc.ABC):
    """One client, one session, one transcript."""

    def __init__(self, nursery: trio.Nursery, stage: Stage, transcript: Transcript, *, revision: str = LATEST) -> None:
        self.transcript = transcript
        self._nursery = nursery
        self._stage = stage
        self._revision = revision
        self.listens = False
        self._last_id = 0
        self._questions: list[Json] = []  # what the server asked of us
        self._told: list[Json] = []  # what it told outside of calls
        self._progress: list[Json] = []  # what it told of calls

    # ---- what can be asked ----

    async def open(self) -> None:
        """Do the handshake."""
        await self.ended(self.handshake())
        await self.confirm()

    @abc.abstractmethod
    def handshake(self, *, held: bool = False) -> Asked:
        """Ask for a session, a new one if there is one already."""

    async def confirm(self) -> None:
        """Tell that the handshake is done."""
        await self.tell("initialized", "notifications/initialized")

    def ask(self, name: str, method: str, params: Json | None = None, *, held: bool = False) -> Asked:
        """Ask for something. `held`: the server waits for the stage before it does anything about it."""
        meta = {"_meta": {HOLD: self._stage.key}} if held else {}
        return self._start(Asked(name), self.request(method, {**(params or {}), **meta}))

    def call(self, tool: str, *, held: bool = False, name: str = "", **arguments: object) -> Asked:
        """Call a tool. `held`: it is counted, and waits for the stage."""
        asked = Asked(name or tool, key=self._stage.key if held else "")
        return self._start(asked, self.tool_call(tool, asked, held=held, **arguments))

    async def ended(self, *asked: Asked) -> None:
        """Wait until all these have ended."""
        for each in asked:
            has_ended = functools.partial(bool, each.endings)
            await wait_until(f"{each.name} ended", has_ended, seconds=self._stage.patience_seconds)

    async def works(self) -> None:
        """Ask for something of which nothing depends on what was before; once more if that ends in doubt.

        The loss of the server may be noticed just then, and what is answered afterwards comes from its successor.
        """
        for _ in range(2):
            call = self.call("echo", text="goes on")
            await self.ended(call)
            if not call.is_in_doubt:
                return

    async def tell(self, name: str, method: str, params: Json | None = None) -> None:
        """Send a notification and wait until it is accepted."""
        message = {"jsonrpc": "2.0", "method": method, **({} if params is None else {"params": params})}
        await self.ended(self._start(Asked(name), message))

    async def reply(self, question: Json, result: Json) -> None:
        """Answer a question of the server. It may be gone with the fault: any end will do."""
        message = {"jsonrpc": "2.0", "id": question["id"], "result": result}
        await self.ended(self._start(Asked("reply", due=Due.END), message))

    async def cancel(self, asked: Asked) -> None:
        """Withdraw a call."""
        asked.cancelled = True
        await self.tell("cancel", "notifications/cancelled", {"requestId": asked.request_id, "reason": "tried"})

    @abc.abstractmethod
    def batch(self, *calls: tuple[str, Json]) -> list[Asked]:
        """Call several tools in one message; `held` among the arguments holds a call."""

    @abc.abstractmethod
    def delete(self) -> Asked:
        """End the session."""

    @abc.abstractmethod
    def listen(self) -> None:
        """Open the session's own stream, and keep it open from now on."""

    @abc.abstractmethod
    async def replay(self, asked: Asked) -> None:
        """Have the events of a stream sent again, and note in what they differ from what was heard."""

    # ---- what is heard ----

    async def listening(self) -> None:
        """Open the session's own stream, and wait until what the server says comes through."""
        self.listen()
        while not self._count(TOOLS_CHANGED):
            await self.ended(self.call("change_tools"))
            with trio.move_on_after(_NUDGE_SECONDS):
                await self.told(TOOLS_CHANGED)

    @abc.abstractmethod
    async def connected(self) -> None:
        """Wait until the session's own stream is open, again if need be."""

    async def told(self, method: str, *, beyond: int = 0) -> None:
        """Wait until the server has told something outside of calls more often than `beyond`."""
        await wait_until(f"{method} was told", lambda: self._count(method) > beyond)

    async def told_once_more(self, method: str, tool: str, **arguments: str) -> None:
        """Call a tool that has the server tell something, and wait for that: once, and no more."""
        before = self._count(method)
        call = self.call(tool, held=False, name=tool, **arguments)
        await self.ended(call)
        if call.is_in_doubt:  # the loss of the server was noticed just then
            await self.ended(self.call(tool, held=False, name=tool, **arguments))
        await self.told(method, beyond=before)
        await self.works()  # what would come twice has come by now
        if self._count(method) > before + 1:
            self.transcript.wrong.append(f"{method} was told {self._count(method) - before} times")

    async def question(self, method: str) -> Json:
        """Wait for what the server asks of its client."""

        def asked() -> list[Json]:
            return [question for question in self._questions if question["method"] == method]

        await wait_until(f"{method} was asked", lambda: bool(asked()))
        return asked()[-1]

    async def progress(self, count: int) -> None:
        """Wait until the server has told so much of calls."""
        await wait_until("progress was told", lambda: len(self._progress) >= count)

    def _count(self, method: str) -> int:
        return sum(message["method"] == method for message in self._told)

    # ---- for subclasses ----

    @abc.abstractmethod
    async def _converse(self, asked: Asked, message: Json) -> None:
        """Send a message and stay with it until it has ended."""

    def _start(self, asked: Asked, message: Json) -> Asked:
        self._begin(asked, message)
        self._nursery.start_soon(self._converse, asked, message)
        return asked

    def _begin(self, asked: Asked, message: Json) -> None:
        if "method" in message:
            asked.request_id = message.get("id")
        asked.listening = self.listens
        asked.after = self._stage.over.is_set()
        self.transcript.asked.append(asked)

    def request(self, method: str, params: Json) -> Json:
        """Make a request with a new id."""
        self._last_id += 1
        return {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}

    def tool_call(self, tool: str, asked: Asked, *, held: bool, **arguments: object) -> Json:
        """Make a tools/call request that asks for progress under its own id."""
        if held:
            arguments |= {"key": asked.key, "hold": self._stage.key}
        message = self.request("tools/call", {"name": tool, "arguments": arguments})
        message["params"]["_meta"] = {"progressToken": message["id"]}
        return message

    def handshake_request(self, *, held: bool) -> Json:
        """Make the request that opens a session."""
        info = {"name": "matrix-client", "version": "1.0"}
        params: Json = {"protocolVersion": self._revision, "capabilities": CAPABILITIES, "clientInfo": info}
        if held:
            params["_meta"] = {HOLD: self._stage.key}
        return self.request("initialize", params)

    def _end(self, asked: Asked, message: Json) -> None:
        """Note the answer that has come."""
        if "error" in message:
            error = message["error"]
            asked.endings.append(Ending(Kind.ERROR, self._as_always(error), error["code"]))
        else:
            asked.endings.append(Ending(Kind.ANSWER, self._as_always(message["result"])))

    def _note(self, message: Json, calls: Collection[Asked] = ()) -> None:
        """Note what is no answer. `calls`: whose stream it came on; none for the session's own.

        Over stdio nothing tells which call a message is about, and a gateway may send it on any stream that is open:
        what counts for a call is what names it.
        """
        if "id" in message:
            self._questions.append(message)
        about = [asked for asked in calls if self._is_about(message, asked)]
        (self._progress if about else self._told).append(message)
        for asked in about:
            asked.heard.append(self._as_always({"method": message["method"], "params": message["params"]}))

    def _is_about(self, message: Json, asked: Asked) -> bool:
        token = message.get("params", {}).get("progressToken")
        if token is not None:
            return bool(token == asked.request_id)
        return bool(asked.key) and asked.key in json.dumps(message)

    def _as_always(self, content: Any) -> str:
        """Give what is the same in every run: without the run's own key, and without ids."""
        if isinstance(content, dict) and isinstance(params := content.get("params"), dict):
            content = {**content, "params": {name: params[name] for name in params if name != "progressToken"}}
        return json.dumps(content, sort_keys=True).replace(self._stage.key, "KEY")
