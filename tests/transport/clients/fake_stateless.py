"""A server that is asked without sessions, under the test's control."""

from __future__ import annotations

import trio

from actors import jsonrpc
from actors.jsonrpc import Message
from transport import modern
from transport.modern import ModernRequest
from transport.upstreams.era import Era, EraKnowledge, EraUnknown, Verdict
from transport.upstreams.stateless import Answer, NoAnswer, ServerUnavailable, StatelessCall


class FakeStateless:
    """Implements `transport.upstreams.stateless.StatelessUpstream`. Answers echo the params, but for "hold"."""

    def __init__(self, era: Era | None = Era.MODERN) -> None:
        self.era = EraKnowledge("fake", self._ask)
        self.true_era = era  # None: cannot be asked
        self.asked = 0  # for its era
        self.down = ""
        self.requests: list[ModernRequest] = []
        self.ways: list[StatelessCall] = []
        self.cancelled: list[object] = []  # ids of requests that were given up before their answer
        self.ends: dict[str, Answer | NoAnswer] = {}  # by method: instead of the echo

    async def _ask(self) -> Verdict:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.true_era is None:
            raise EraUnknown("it is down")
        return Verdict(self.true_era, sure=True)

    async def send(self, request: ModernRequest) -> StatelessCall:
        if self.down:
            raise ServerUnavailable(self.down)
        way = StatelessCall()
        self.requests.append(request)
        self.ways.append(way)
        answered = request.message.method not in ("hold", modern.LISTEN)

        def on_cancel() -> None:
            if not answered:
                self.cancelled.append(request.id)

        way.bind(on_cancel)
        if answered:
            echo = Answer(jsonrpc.result(request.id, {"resultType": "complete"}), 200)
            way.finish(self.ends.get(request.message.method, echo))
        return way

    def say(self, method: str, params: object = None, *, way: int = -1) -> None:
        """Say something on the way of a request."""
        self.ways[way].put(jsonrpc.notification(method, params).raw)

    def answer(self, message: Message, status: int = 200, *, way: int = -1) -> None:
        self.ways[way].finish(Answer(message, status))
