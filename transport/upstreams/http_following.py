"""Following: one event stream of an upstream, asked for by GET until it ends, and asked for again while it is silent.

A server that replays what was missed and then goes on live may lose, for whoever resumes, what is said between the two:
it is stored, and never sent (the Python SDK says so of itself, the TypeScript SDK has the same window). So a resumed
stream that stays silent is asked for once more behind its last event, beside the one that is open. A GET runs nothing,
so that costs the server a look into its store. Both begin behind the same event, and once one of them has said
something the other is dropped, in the same instant: nothing is heard twice.

What servers make of the second GET decides what comes of the first:

- it replays and ends (Python SDK): the first goes on;
- 409, since a stream has one reader (TypeScript SDK): the first is given up, and the next GET takes its place;
- a stream that stays open: it takes the place of the first, as the newer one of two;
- any other refusal: the first goes on, and there is no further look;
- no head in time, or an error that may pass: the first goes on, and is looked at again later.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

from transport.upstreams.http_jobs import GetJob
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_response import ResponseHead
from transport.upstreams.http_streams import EventStream

_CONFLICT = 409
_HELD_SECONDS = 10.0  # a server that keeps a stream open for so long knows what it is a stream of


@attrs.frozen
class Asking:
    """How connections of a stream are opened and closed."""

    begin: Callable[[EventStream], GetJob]  # sends the GET for a stream, behind its cursor
    end: Callable[[GetJob], None]  # forgets it, and closes its connection; twice is fine
    describe: Callable[[ResponseHead, bytes], str]  # says what came in place of a stream


class Following:
    """Follows one stream of an upstream, over as many connections as it takes."""

    def __init__(self, stream: EventStream, asking: Asking, limits: HttpLimits, *, looks_max: float) -> None:
        """Args:
        stream: what has been heard so far.
        looks_max: how often a resumed connection is looked at while it stays silent.
        """
        self.stream = stream
        self._asking = asking
        self._limits = limits
        self._looks_max = looks_max
        self._looks = 0  # in a row that brought no message
        self._may_look = True
        self._heard_nothing = False  # on the last connection
        self._gave_up = False  # the last connection, for the next one
        self._failures = 0  # in a row
        self._silent_since = trio.current_time()

    async def until_end(self) -> GetJob:
        """Ask for the stream, and pass on what it says until its connection ends.

        Returns:
          the GET that ended last; `stream` is then what it was about.

        Cancellation: the connections are closed.
        """
        if not self._gave_up:
            self._looks, self._may_look = 0, True
        self._gave_up = False
        began = trio.current_time()
        self.stream = self.stream.again(in_turn=self._heard_nothing)
        is_resumed = bool(self.stream.ask_behind)
        get = self._asking.begin(self.stream)
        try:
            while not get.ended.is_set():
                messages = get.stream.messages
                with trio.move_on_after(self._look_pause_seconds() if is_resumed else math.inf):
                    await get.ended.wait()
                if get.stream.messages > messages:
                    self._looks = 0
                elif get.opened and not (get.stream.settled or get.ended.is_set()):
                    get = await self._look_again(get)
        finally:
            self._asking.end(get)
        self._take_stock(get, trio.current_time() - began)
        return get

    def _take_stock(self, get: GetJob, seconds: float) -> None:
        self.stream = get.stream
        self._heard_nothing = not (get.stream.messages or self._gave_up)
        if get.stream.events or (get.opened and (self._gave_up or seconds >= _HELD_SECONDS)):
            self._silent_since = trio.current_time()
        self._failures = 0 if get.opened else self._failures + 1

    async def until_settled(self) -> str:
        """Ask for the stream until the answer was on it.

        Returns:
          why it is of no use to ask any more; "": it is settled.

        Cancellation: the connections are closed.
        """
        while True:
            get = await self.until_end()
            if self.stream.settled:
                return ""
            # It was told, and is behind the cursor now: there will be no other. Unless we have ended the connection
            # ourselves, whose server may have more to say.
            if self.stream.torn and not self._gave_up:
                return self.stream.unreadable
            if why := self._why_no_more(get):
                return why
            await self.pause(get)

    async def pause(self, get: GetJob) -> None:
        """Wait for as long as the upstream wants to be left alone; longer with each failure in a row."""
        seconds = self.stream.retry_seconds(self._limits.retry_seconds_max)
        if not get.opened:
            is_refused = get.refusal is not None
            seconds = max(seconds, self._limits.backoff_seconds(self._failures, is_refused=is_refused))
        await trio.sleep(seconds)

    def _why_no_more(self, get: GetJob) -> str:
        if get.refusal is not None and not get.stream.may_take_turns:
            return self._asking.describe(get.refusal, get.body)
        if self._failures > self._limits.resume_tries_max:
            return get.detail or (self._asking.describe(get.head, get.body) if get.head is not None else "no answer")
        silent_seconds = trio.current_time() - self._silent_since
        if silent_seconds > self._limits.resume_silence_seconds_max:
            return f"nothing new on it for {silent_seconds:.0f} s"
        return ""

    # ---- looking again ----

    async def _look_again(self, get: GetJob) -> GetJob:
        """Ask for the stream a second time. Returns the connection that goes on; the other is closed."""
        self._looks += 1
        look = self._asking.begin(get.stream.again())
        get.rival, look.rival = look, get
        kept = get
        try:
            with trio.move_on_after(self._limits.look_again_seconds_max):
                await look.ended.wait()
            kept = self._kept_of(get, look)
        finally:
            get.rival = look.rival = None
            self._asking.end(look if kept is get else get)
        return kept

    def _kept_of(self, get: GetJob, look: GetJob) -> GetJob:
        if look.abandoned:  # the first has spoken
            return get
        if look.stream.events:
            self._looks = 0 if look.stream.messages else self._looks
            return look
        if look.opened:
            return get if look.ended.is_set() and not get.ended.is_set() else look
        if look.head is not None and look.head.status == _CONFLICT:
            self._gave_up = True
            get.abandon()
        elif look.refusal is not None:
            self._may_look = False
        return get

    def _look_pause_seconds(self) -> float:
        if not self._may_look or self._looks >= self._looks_max:
            return math.inf
        return self._limits.look_pause_seconds(self._looks)
