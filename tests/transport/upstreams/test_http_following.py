"""Resumed streams that stay silent are asked for again: nothing is lost in a server's window, and nothing heard twice.

The upstream is `StoringUpstream`, all times are virtual. A call is posted, its stream ends at once behind event 1, and
is resumed 0.1 s later. Looks come after 1 to 2 s of silence, then 2 to 4, 4 to 8, ... 30 to 60.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from actors import jsonrpc
from actors.jsonrpc import Message
from actors.link import Failure
from tests.transport.upstreams.bed import ANSWER, CALL, TICKET, Bed, bed, handshake
from tests.transport.upstreams.recording_inbox import CursorMoved, Received, Refused
from tests.transport.upstreams.storing_upstream import Second, StoringUpstream
from transport.upstreams.http_jobs import GetJob
from transport.upstreams.http_limits import HttpLimits
from transport.upstreams.http_link import StreamableHttpLink

PROGRESS = jsonrpc.notification("notifications/progress", {"progressToken": 1, "progress": 1})
CHANGED = jsonrpc.notification("notifications/tools/list_changed")
NO_LOOKS = HttpLimits(look_first_seconds=math.inf, look_seconds_max=math.inf)
SDKS = [Second.REPLAYS_AND_ENDS, Second.CONFLICTS]


@asynccontextmanager
async def calling(
    upstream: StoringUpstream, limits: HttpLimits | None = None
) -> AsyncIterator[tuple[Bed, StreamableHttpLink]]:
    """Make the call, and wait until its stream is resumed."""
    async with bed(upstream.script, limits=limits, patience_seconds=7200) as bench:
        link = await bench.open_session()
        link.send(CALL, TICKET)
        await trio.sleep(0.2)
        assert len(upstream.gets) == 1
        yield bench, link


def heard(bench: Bed) -> list[Message]:
    return [entry.message for entry in bench.inbox.entries if isinstance(entry, Received)][1:]


def refused(bench: Bed) -> list[Failure]:
    return [entry.failure for entry in bench.inbox.entries if isinstance(entry, Refused)]


# ---- what is lost in the window ----


@pytest.mark.parametrize("second", [*SDKS, Second.TAKES_OVER, Second.HEARS_AS_WELL])
async def test_answer_that_fell_into_the_window_is_heard_with_the_first_look(
    second: Second, autojump_clock: MockClock
) -> None:
    upstream = StoringUpstream(second)
    upstream.said_at[1] = [PROGRESS.raw, ANSWER.raw]
    async with calling(upstream) as (bench, _):
        await trio.sleep(5)
        assert heard(bench) == [PROGRESS, ANSWER]
        assert upstream.gets[1][0] - upstream.gets[0][0] <= 2.1
        assert {cursor for _, cursor in upstream.gets} == {"1"}, "each is asked for behind the last event"
        assert upstream.calls == 1
        await trio.sleep(600)
        assert len(upstream.gets) <= 3
        assert heard(bench) == [PROGRESS, ANSWER]


@pytest.mark.parametrize("second", SDKS)
async def test_without_looks_it_is_never_heard(second: Second, autojump_clock: MockClock) -> None:
    upstream = StoringUpstream(second)
    upstream.said_at[1] = [ANSWER.raw]
    async with calling(upstream, NO_LOOKS) as (bench, _):
        await trio.sleep(3000)
        assert heard(bench) == []
        assert len(upstream.gets) == 1


@pytest.mark.parametrize("second", SDKS)
async def test_what_falls_into_the_window_of_a_look_is_heard_with_the_next(
    second: Second, autojump_clock: MockClock
) -> None:
    upstream = StoringUpstream(second)
    upstream.said_at = {1: [PROGRESS.raw], 3: [ANSWER.raw]}
    async with calling(upstream) as (bench, _):
        await trio.sleep(60)
        assert heard(bench) == [PROGRESS, ANSWER]


async def test_what_fell_into_the_window_of_a_stream_that_ended_is_heard_all_the_same(
    autojump_clock: MockClock,
) -> None:
    """The id with which the server went on live is behind what it had lost by then."""
    upstream = StoringUpstream()
    upstream.closes_after_seconds = 0.5
    upstream.said_at[1] = [ANSWER.raw]
    async with calling(upstream) as (bench, _):
        await trio.sleep(10)
        assert heard(bench) == [ANSWER]


async def test_id_that_a_resumed_stream_begins_with_is_not_kept(autojump_clock: MockClock) -> None:
    """Else a gateway that is restarted now would go on behind what was lost."""
    upstream = StoringUpstream()
    async with calling(upstream) as (bench, _):
        await trio.sleep(1)
        await upstream.say(PROGRESS)
        await trio.sleep(1)
        moves = [entry for entry in bench.inbox.entries if isinstance(entry, CursorMoved)]
        assert moves == [CursorMoved(1, "1"), CursorMoved(1, "")], "the second is a sign of life"
        assert bench.inbox.entries[-1] == Received(PROGRESS, about=1, cursor="3")


async def test_server_that_forgets_old_events_is_asked_behind_its_newest(autojump_clock: MockClock) -> None:
    upstream = StoringUpstream()
    upstream.closes_after_seconds = 0.5
    async with calling(upstream) as (bench, _):
        upstream.forgets_before = 2
        await trio.sleep(30)
        await upstream.say(ANSWER)
        await trio.sleep(5)
        assert heard(bench)[-1:] == [ANSWER]
        assert refused(bench) == []


# ---- servers that are merely slow ----


async def test_slow_server_keeps_its_stream_and_is_looked_at_ever_more_rarely(autojump_clock: MockClock) -> None:
    upstream = StoringUpstream()
    async with calling(upstream) as (bench, _):
        await trio.sleep(1800)
        assert upstream.open_streams == 1
        # after at least 1, 3, 7, 15, 31, 61, 91, ... s: 5 looks, then one every 30 s at the most
        assert 1800 / 60 <= len(upstream.gets) <= 6 + 1800 / 30
        await upstream.say(ANSWER)
        await trio.sleep(1)
        assert heard(bench) == [ANSWER]
        assert refused(bench) == []


async def test_server_that_allows_one_reader_is_slow_for_as_long_as_it_likes(autojump_clock: MockClock) -> None:
    upstream = StoringUpstream(Second.CONFLICTS)
    async with calling(upstream) as (bench, _):
        await trio.sleep(1800)
        assert upstream.conflicts > 20
        assert len(upstream.gets) <= 2 * (6 + 1800 / 30), "each replaced stream is one GET more"
        assert upstream.open_streams == 1
        await upstream.say(ANSWER)
        await trio.sleep(60)
        assert heard(bench) == [ANSWER]


async def test_server_that_speaks_is_not_looked_at(autojump_clock: MockClock) -> None:
    upstream = StoringUpstream()
    async with calling(upstream) as (bench, _):
        for _ in range(100):
            await upstream.say(PROGRESS)
            await trio.sleep(0.9)
        assert len(upstream.gets) == 1
        assert heard(bench) == [PROGRESS] * 100


@pytest.mark.parametrize("status", [405, 400, 404])
async def test_refused_look_is_the_last_and_the_stream_goes_on(status: int, autojump_clock: MockClock) -> None:
    upstream = StoringUpstream(refusal=status)
    async with calling(upstream) as (bench, _):
        await trio.sleep(1800)
        assert len(upstream.gets) == 2
        await upstream.say(ANSWER)
        await trio.sleep(1)
        assert heard(bench) == [ANSWER]
        assert refused(bench) == []


@pytest.mark.parametrize("status", [503, 500, 429])
async def test_look_that_fails_for_now_costs_nothing(status: int, autojump_clock: MockClock) -> None:
    upstream = StoringUpstream(refusal=status)
    async with calling(upstream) as (bench, _):
        await trio.sleep(300)
        assert len(upstream.gets) > 5
        await upstream.say(ANSWER)
        await trio.sleep(1)
        assert heard(bench) == [ANSWER]


async def test_look_without_a_head_leaves_the_stream_as_it_is(autojump_clock: MockClock) -> None:
    upstream = StoringUpstream(Second.HAS_NO_HEAD)
    async with calling(upstream) as (bench, _):
        await trio.sleep(4)
        assert len(upstream.gets) == 2
        await upstream.say(PROGRESS)  # while the look is under way
        await trio.sleep(60)
        await upstream.say(ANSWER)
        await trio.sleep(10)
        assert heard(bench) == [PROGRESS, ANSWER]


# ---- nothing twice ----


@pytest.mark.parametrize("pause_seconds", [0.5, 1.3, 1.9, 2.5, 4.1])
@pytest.mark.parametrize("second", list(Second))
async def test_nothing_is_heard_twice_whenever_it_is_said(
    second: Second, pause_seconds: float, autojump_clock: MockClock
) -> None:
    """Every second event falls into a window, the others are said live, before, during and behind looks."""
    upstream = StoringUpstream(second)
    events = [
        jsonrpc.notification("notifications/progress", {"progressToken": 1, "progress": number}) for number in range(20)
    ]
    upstream.said_at = {number: [event.raw] for number, event in enumerate(events[::2], start=1)}
    async with calling(upstream) as (bench, _):
        for event in events[1::2]:
            await trio.sleep(pause_seconds)
            await upstream.say(event)
        await trio.sleep(300)
        told = heard(bench)
        assert len({message.raw for message in told}) == len(told)
        assert {event.raw for event in events[1::2]} <= {message.raw for message in told}


async def test_without_rivals_both_streams_are_heard(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def passed_on(get: GetJob, data: bytes) -> None:
        get._listener.stream_data(get, get.stream, data)

    monkeypatch.setattr(GetJob, "stream_data", passed_on)
    upstream = StoringUpstream(Second.HEARS_AS_WELL)
    async with calling(upstream) as (bench, _):
        await trio.sleep(2.2)
        assert upstream.open_streams == 2
        await upstream.say(PROGRESS)
        await trio.sleep(1)
        assert heard(bench) == [PROGRESS, PROGRESS]


# ---- the end ----


async def test_id_of_an_answered_call_may_be_given_to_the_next(autojump_clock: MockClock) -> None:
    """The stream of the first is open for some seconds after its answer."""
    upstream = StoringUpstream()
    async with calling(upstream) as (bench, link):
        await upstream.say(ANSWER)
        await trio.sleep(0.1)
        link.send(CALL, TICKET + 1)
        await trio.sleep(30)
        await upstream.say(ANSWER)
        await trio.sleep(30)
        assert heard(bench) == [ANSWER, ANSWER]
        link.cancel(1, "nothing is left of it")


async def test_cancelled_call_is_followed_for_a_while_only(autojump_clock: MockClock) -> None:
    upstream = StoringUpstream()
    async with calling(upstream) as (bench, link):
        link.cancel(1, "enough")
        await trio.sleep(31)
        looks = len(upstream.gets)
        assert upstream.open_streams == 0
        await trio.sleep(600)
        assert len(upstream.gets) == looks
        assert heard(bench) == []


async def test_closed_link_follows_nothing(autojump_clock: MockClock) -> None:
    upstream = StoringUpstream()
    async with calling(upstream) as (_, link):
        link.close(end_session=False)
        await trio.sleep(600)
        assert len(upstream.gets) == 1
        assert upstream.open_streams == 0


# ---- the upstream's own stream ----


@pytest.mark.parametrize("second", SDKS)
async def test_own_stream_is_looked_at_a_few_times_behind_its_cursor(second: Second, autojump_clock: MockClock) -> None:
    upstream = StoringUpstream(second)
    upstream.said_at[1] = [CHANGED.raw]
    upstream._store(b"")
    async with bed(upstream.script, patience_seconds=7200) as bench:
        link = await bench.open_link(handshake=handshake(), standalone_cursor="1", listening=True)
        link.listen()
        await trio.sleep(5)
        assert [entry.message for entry in bench.inbox.entries if isinstance(entry, Received)] == [CHANGED]
        await trio.sleep(3000)
        looks = len(upstream.gets)
        assert looks <= 2 + 2 * 4
        await trio.sleep(500)
        assert len(upstream.gets) == looks, "it is silent for good reason"
        await upstream.say(CHANGED)
        await trio.sleep(1)
        assert [entry.message for entry in bench.inbox.entries if isinstance(entry, Received)] == [CHANGED, CHANGED]


async def test_own_stream_without_a_cursor_is_not_looked_at(autojump_clock: MockClock) -> None:
    upstream = StoringUpstream()
    async with bed(upstream.script) as bench:
        link = await bench.open_session()
        link.listen()
        await trio.sleep(600)
        assert len(upstream.gets) == 1


# ---- half an answer ----

TORN = b'{"jsonrpc":"2.0","id":1,"result":'


async def test_half_an_answer_with_which_a_resumed_stream_ends_ends_its_call(autojump_clock: MockClock) -> None:
    """It is behind the cursor: whoever asks again is told nothing, for as long as they like."""
    upstream = StoringUpstream()
    upstream.closes_after_seconds = 0.5
    upstream.said_at[1] = [TORN]
    async with calling(upstream) as (bench, _):
        await trio.sleep(10)
        assert refused(bench) == [Failure.UNREADABLE]
        asked = len(upstream.gets)
        await trio.sleep(600)
        assert len(upstream.gets) == asked


# Those that leave the call on a connection that stays open. Replaced: by the look that takes over, or by the next GET
# after one that was refused since a stream has one reader.
STAYING = [Second.REPLAYS_AND_ENDS, Second.CONFLICTS, Second.TAKES_OVER, Second.HEARS_AS_WELL]
REPLACED = [Second.CONFLICTS, Second.TAKES_OVER]
TORN_SECONDS_MAX = HttpLimits().torn_seconds_max


@pytest.mark.parametrize("second", STAYING)
async def test_half_an_answer_ends_its_call_in_time_whichever_connection_took_the_stream_over(
    second: Second, autojump_clock: MockClock
) -> None:
    upstream = StoringUpstream(second)
    async with calling(upstream) as (bench, _):
        await upstream.say(replace(ANSWER, raw=TORN))
        await trio.sleep(TORN_SECONDS_MAX - 1)
        assert len(upstream.gets) >= 2
        assert refused(bench) == []
        await trio.sleep(10)
        assert refused(bench) == [Failure.UNREADABLE]
        asked = len(upstream.gets)
        await trio.sleep(600)
        assert len(upstream.gets) == asked, "nobody follows it any more"
        assert refused(bench) == [Failure.UNREADABLE]


@pytest.mark.parametrize("second", REPLACED)
async def test_control_without_the_bound_it_waits(second: Second, autojump_clock: MockClock) -> None:
    upstream = StoringUpstream(second)
    async with calling(upstream, HttpLimits(torn_seconds_max=math.inf)) as (bench, _):
        await upstream.say(replace(ANSWER, raw=TORN))
        await trio.sleep(3000)
        assert refused(bench) == []


@pytest.mark.parametrize("second", STAYING)
@pytest.mark.parametrize("news", [PROGRESS, ANSWER])
async def test_half_an_answer_behind_which_something_readable_comes_ends_nothing(
    second: Second, news: Message, autojump_clock: MockClock
) -> None:
    """On whichever connection: twenty seconds later there have been some looks."""
    upstream = StoringUpstream(second)
    async with calling(upstream) as (bench, _):
        await upstream.say(replace(ANSWER, raw=TORN))
        await trio.sleep(20)
        assert len(upstream.gets) >= 2
        await upstream.say(news)
        await trio.sleep(600)
        if news is not ANSWER:
            await upstream.say(ANSWER)
            await trio.sleep(1)
        assert heard(bench)[-1:] == [ANSWER]
        assert refused(bench) == []


async def test_what_was_torn_again_is_doubted_again(autojump_clock: MockClock) -> None:
    """Torn at 0 s, refuted at 20 s, torn again at 25 s: over at 55 s at the earliest, at 60 s at the latest."""
    upstream = StoringUpstream(Second.TAKES_OVER)
    async with calling(upstream) as (bench, _):
        await upstream.say(replace(ANSWER, raw=TORN))
        await trio.sleep(20)
        await upstream.say(PROGRESS)
        await trio.sleep(5)
        await upstream.say(replace(ANSWER, raw=TORN))
        await trio.sleep(29)
        assert refused(bench) == []
        await trio.sleep(7)
        assert refused(bench) == [Failure.UNREADABLE]


async def test_while_nobody_is_there_to_say_more_the_doubt_waits(autojump_clock: MockClock) -> None:
    """The server wants to be left alone for a minute, and allows one reader: our look costs us the connection. What it
    said meanwhile is heard when it is back."""
    upstream = StoringUpstream(Second.CONFLICTS)
    upstream.retry_ms = 60_000
    async with calling(upstream) as (bench, _):
        await upstream.say(replace(ANSWER, raw=TORN))
        await trio.sleep(10)
        assert upstream.open_streams == 0
        upstream._store(ANSWER.raw)
        await trio.sleep(90)
        assert heard(bench) == [ANSWER]
        assert refused(bench) == []


async def test_event_that_was_cut_in_the_middle_is_told_again_and_is_no_half_answer(autojump_clock: MockClock) -> None:
    upstream = StoringUpstream(Second.CONFLICTS)
    upstream.cuts_next_event = True
    async with calling(upstream) as (bench, link):
        await upstream.say(ANSWER)
        await trio.sleep(30)
        assert heard(bench) == [ANSWER]
        assert refused(bench) == []
        assert link.statistics().malformed == 0
