"""OwnTools: a tool that the gateway offers among those of the servers behind it, and answers itself.

It is added to the server's own list of tools, on its last page, whose other tools keep their bytes. A call to it is a
call like any other (it is counted, kept in the history, and becomes a stream if it takes long), but it goes nowhere:
so it works while the server is away, which is when somebody asks.

A server that has a tool of that name keeps it: calls go there, and ours is not offered, from the moment on in which
that is known (`note_taken`): by a list that a client asked for, if nobody has looked before.

Where there is none, this costs a session nothing but a look at None in each turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import attrs
import msgspec
import structlog
from msgspec.structs import replace

from actors import jsonrpc
from actors import messages as say
from actors.jsonrpc import Kind, Message
from actors.state import SessionState

log = structlog.get_logger("outlast.own_tools")

LIST = "tools/list"
CALL = "tools/call"


@attrs.frozen
class Explanation:
    """What a tool answers."""

    text: str
    facts: Mapping[str, object]


# Gives the answer for a server and a session that talks to it; None: asked without a session.
Explain = Callable[[str, SessionState | None], Awaitable[Explanation]]


class _Named(msgspec.Struct, gc=False):
    name: str = ""


_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_names = msgspec.json.Decoder(list[_Named]).decode


class OwnTools:
    """The one tool of ours, for all servers of a gateway."""

    def __init__(self, name: str, description: str, explain: Explain) -> None:
        """
        Args:
          name: what it is called.
          description: what it is for, in the words that a model reads.
          explain: makes its answers.
        """
        self.name = name
        self.taken: set[str] = set()  # servers that have a tool of that name; as many as there are servers
        self.explain = explain
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
        hints = {"readOnlyHint": True, "openWorldHint": False}
        self._tool = _encode({"name": name, "description": description, "inputSchema": schema, "annotations": hints})

    # ---- sessions ----

    def prepared(self, state: SessionState, command: say.Command) -> say.Command:
        """Give a session's command as it is to be decided: calls that are ours marked, lists with our tool."""
        match command:
            case say.SendRequest():
                return self._marked(state, command)
            case say.SendBatch():
                return replace(command, items=tuple([self._marked_item(state, item) for item in command.items]))
            case say.Receive(message=message) if message.kind is Kind.RESPONSE and message.id is not None:
                call = state.calls.get(message.id)
                if call is not None and call.method == LIST:
                    return replace(command, message=self.listed(state.server_id, message))
        return command

    def _marked_item(
        self, state: SessionState, item: say.SendRequest | say.SendNotification | say.SendAnswer
    ) -> say.SendRequest | say.SendNotification | say.SendAnswer:
        return self._marked(state, item) if isinstance(item, say.SendRequest) else item

    def _marked(self, state: SessionState, command: say.SendRequest) -> say.SendRequest:
        return replace(command, own=True) if self.answers(state.server_id, command.label) else command

    # ---- any request ----

    def answers(self, server_id: str, tool: str) -> bool:
        """Whether a call of this tool is ours to answer."""
        return tool == self.name and server_id not in self.taken

    def listed(self, server_id: str, answer: Message) -> Message:
        """Give a server's list of tools with ours on it, if this is its last page and the name is not taken.

        What is no list of tools, an error for instance, is given as it came.
        """
        if answer.is_error:
            return answer
        try:
            fields = _decode_fields(answer.raw)
            result = _decode_fields(fields["result"])
            tools = bytes(result["tools"]).strip()
            names = {tool.name for tool in _decode_names(tools)}
        except (msgspec.MsgspecError, KeyError):
            return answer
        if self.name in names:
            self.note_taken(server_id)
        if server_id in self.taken or bytes(result.get("nextCursor", msgspec.Raw(b"null"))) != b"null":
            return answer
        separator = b"," if names else b""
        result["tools"] = msgspec.Raw(tools[:-1].rstrip() + separator + self._tool + b"]")
        fields["result"] = msgspec.Raw(_encode(result))
        return Message(answer.kind, answer.id, answer.method, _encode(fields))

    def note_taken(self, server_id: str) -> None:
        """Note that a server has a tool of the name of ours: it keeps it, and ours is not offered there."""
        if server_id not in self.taken:
            self.taken.add(server_id)
            log.error("a server has a tool of the name of ours: ours is not offered", server=server_id, tool=self.name)

    async def answer(self, request: Message, server_id: str, state: SessionState | None) -> Message:
        """Answer a call. Cancellation: safe.

        Args:
          state: of the session that asks; None: there is none (2026-07-28).
        """
        assert request.id is not None
        try:
            explanation = await self.explain(server_id, state)
        except Exception as error:
            log.exception("the tool failed", tool=self.name)
            return jsonrpc.error(request.id, jsonrpc.INTERNAL_ERROR, f"the tool failed: {type(error).__name__}")
        content = [{"type": "text", "text": explanation.text}]
        result: dict[str, object] = {"content": content, "structuredContent": explanation.facts, "isError": False}
        if state is None:  # that revision has results say that they are whole (2026-07-28, basic, Results)
            result["resultType"] = "complete"
        return jsonrpc.result(request.id, result)

    async def answer_to(self, request: Message, state: SessionState, tell: Callable[[say.Command], None]) -> None:
        """Answer a call of a session, as if its server had.

        Args:
          tell: takes the answer, for the session's next turn.
        """
        answer = await self.answer(request, state.server_id, state)
        assert request.id is not None
        tell(say.Receive(answer, request.id))
