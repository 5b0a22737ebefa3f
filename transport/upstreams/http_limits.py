"""The bounds of Streamable HTTP links, and what such a link counts."""

from __future__ import annotations

import math
import random

import attrs

from transport.upstreams.http_connection import BODY_BYTES_MAX


@attrs.frozen
class HttpLimits:
    """Bounds of one upstream's links."""

    call_silence_seconds_max: float = 3900.0  # a little more than the session waits: it is the one to choose
    post_seconds_max: float = 60.0
    listen_silence_seconds_max: float = 3600.0  # then the stream is asked for again; dead peers are noticed by TCP
    # A link that comes back asks for the upstream's stream before it sends anything else, and waits for no more than
    # its head. Servers that hold the head back until there is an event (old ones) cost a client that long, once.
    listen_head_seconds_max: float = 1.0
    # Of the stream of HTTP+SSE, whose end is the end of the session: servers need not say anything on it for days.
    sse_silence_seconds_max: float = math.inf
    # Behind what looks like half an answer nothing readable may come for so long; then it was the answer.
    torn_seconds_max: float = 30.0
    cancelled_seconds_max: float = 30.0  # an upstream may answer a cancelled call, or just end its stream
    body_bytes_max: int = BODY_BYTES_MAX
    probe_seconds_max: float = 10.0
    reopen_seconds_max: float = 30.0  # each answer of a re-initialization
    resume_tries_max: int = 5  # refused connections and errors in a row
    resume_silence_seconds_max: float = 300.0  # python servers give an empty stream, again and again, for a lost cursor
    # A resumed stream that stays silent is asked for again after these pauses. What a server may lose of it is said in
    # the instant of resuming, so the first look comes soon; later ones find what fell into the instant of a look.
    look_first_seconds: float = 2.0
    look_seconds_max: float = 60.0
    look_again_seconds_max: float = 5.0  # for the head of the second GET, and what it has to say
    listen_looks_max: int = 3  # of the upstream's own stream, which is silent for good reason
    parting_seconds_max: float = 2.0  # what is in flight when a session is lost; less than messages wait for a link
    retry_seconds_max: float = 60.0  # a longer `retry` of the upstream is shortened
    backoff_seconds_max: float = 30.0
    # For the upstream's own stream, where it does not let us in: somebody has to set that right, which takes longer,
    # and thousands of sessions may ask.
    refused_seconds_max: float = 60.0
    # Of an answer without a session that its client has not taken yet; then the server is read no further. Sessions
    # need no such bound: what they are told is in their log, and a slow client reads it from there.
    held_bytes: int = 256 * 1024

    def backoff_seconds(self, failures: int, *, is_refused: bool = False) -> float:
        """Double the pause with each failure; random, so that a thousand links do not come back at once."""
        most_seconds = self.refused_seconds_max if is_refused else self.backoff_seconds_max
        ceiling = min(most_seconds, 2.0 ** min(failures, 16))
        return ceiling * random.uniform(0.5, 1.0)

    def look_pause_seconds(self, looks: int) -> float:
        """The same for a silent stream, with each look that has brought nothing."""
        ceiling = min(self.look_seconds_max, self.look_first_seconds * 2.0 ** min(looks, 16))
        return ceiling * random.uniform(0.5, 1.0)


@attrs.frozen
class LinkStatistics:
    """What a link did not pass on."""

    malformed: int
    stray: int  # answers to nothing that was asked
