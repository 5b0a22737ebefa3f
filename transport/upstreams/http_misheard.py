"""What came on a call's stream in place of a message, over all connections of the stream.

Only whole events get here: one that a connection was cut in the middle of is dropped by the parser, its id moves no
cursor, and the next connection is told all of it. So what is half a message here was written as one, by the server or
by what is between, and whoever asks again is not told the rest of it. It may have been the answer, which nothing
follows, or something beside it, which the answer does.

Which of the two shows in time: if nothing readable follows for `torn_seconds_max`, it was the answer. That another
connection takes the stream over proves neither. Mostly it is our own look that does (`http_following.py`), a few
seconds behind half an answer, and what the server has to say again it says first thing on that connection. So the
doubt goes along with the call, and runs from the half answer on; but it ends no call while no connection is open.

A call that is still running, after its server wrote half an object of something else and then was silent for so long,
is ended wrongly. The other choice leaves each call whose answer is broken to the session's own deadline, an hour of
silence, and then tells of a timeout: its client waits in vain for what it could have looked at itself. Both end in an
error that says that the call may have been carried out; a server that lets hear of its call, as by progress, ends
neither way.
"""

from __future__ import annotations

import trio


class Misheard:
    """About one call. A message refutes it."""

    __slots__ = ("_is_watched", "_tears", "torn", "why")

    def __init__(self) -> None:
        self.why = ""  # the newest thing that was heard is none; "": it is one
        self.torn = False  # ... and may have been the answer
        self._tears = 0  # behind something readable
        self._is_watched = False

    def note(self, why: str, *, torn: bool) -> None:
        """Take note of something that is no message."""
        self._tears += torn and not self.torn
        self.why, self.torn = why, torn

    def refute(self) -> None:
        """Take note of a message, or that it does not matter any more."""
        self.why, self.torn = "", False

    def begins_watch(self) -> bool:
        """Whether to begin to wait for something readable: once at a time."""
        begins = self.torn and not self._is_watched
        self._is_watched = self._is_watched or begins
        return begins

    async def stays_torn(self, seconds: float) -> bool:
        """Wait for something readable to follow, for so long at most; say whether nothing did. Cancellation: safe."""
        while self.torn:
            tears = self._tears
            await trio.sleep(seconds)
            if self._tears == tears:
                break
        self._is_watched = self.torn
        return self.torn
