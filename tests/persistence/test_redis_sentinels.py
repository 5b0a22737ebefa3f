"""Who is asked for the primary, whose word counts, and what is said when nobody can tell: sentinels that say what the
test wants.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from persistence.redis_nodes import Declined
from persistence.redis_sentinels import Sentinels
from persistence.redis_url import Endpoint, read_redis_url
from persistence.store import StoreInvalid, StoreUnavailable

UNKNOWN = Declined("ERR", "No such master with that name")
NO_SENTINEL = Declined("ERR", "unknown command 'SENTINEL', with args beginning with: 'MASTER' 'm'")


def names(port: int, epoch: int = 0, silence_ms: int = 30_000) -> list[object]:
    """What a sentinel answers that takes this one for the primary."""
    facts = [b"name", b"m", b"config-epoch", b"%d" % epoch, b"down-after-milliseconds", b"%d" % silence_ms]
    return [facts, [b"10.0.0.1", b"%d" % port]]


@attrs.define(eq=False)
class FakeSentinel:
    """Answers two questions at a time, or takes its time to fail."""

    name: str
    world: World
    said: list[object] = attrs.field(factory=lambda: names(1))
    down: bool = False
    seconds_to_fail: float = 0.0
    asked: int = 0
    waiting: list[object] = attrs.field(factory=list)
    opened: int = 1

    def send(self, commands: Sequence[tuple[bytes | str | int | float, ...]]) -> None:
        self.asked += 1
        assert [words[0] for words in commands] == ["SENTINEL"] * 2
        if self.down:
            self.world.now += self.seconds_to_fail
            raise StoreUnavailable(f"{self.name}: Connection refused")
        self.waiting = list(self.said)

    def receive(self) -> object:
        return self.waiting.pop(0)

    def close(self) -> None:
        self.waiting.clear()


class World:
    """Three sentinels, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.a, self.b, self.c = (FakeSentinel(name, self) for name in ("a:1", "b:2", "c:3"))
        place = read_redis_url("redis+sentinel://a:1,b:2,c:3/0?service=m")
        by_name = {one.name: one for one in (self.a, self.b, self.c)}
        self.sentinels = Sentinels(place, lambda endpoint: by_name[str(endpoint)], lambda: self.now)


def test_the_newest_appointment_counts_whoever_says_so() -> None:
    world = World()
    assert world.sentinels.primary() == Endpoint("10.0.0.1", 1)
    world.b.said = names(2, epoch=1)
    assert world.sentinels.primary() == Endpoint("10.0.0.1", 2)
    world.a.said = world.c.said = names(3, epoch=2)
    assert world.sentinels.primary() == Endpoint("10.0.0.1", 3)
    assert world.sentinels.troubles() == []


def test_those_that_are_down_are_passed_over_and_named() -> None:
    world = World()
    world.a.down = world.c.down = True
    assert world.sentinels.primary() == Endpoint("10.0.0.1", 1)
    assert world.sentinels.troubles() == ["a:1: Connection refused", "c:3: Connection refused"]
    world.a.down = world.c.down = False
    world.sentinels.primary()
    assert world.sentinels.troubles() == []


def test_one_that_costs_time_is_left_alone_for_a_while() -> None:
    world = World()
    world.a.down, world.a.seconds_to_fail = True, 0.5
    for _ in range(290):  # 29 s, and it would be asked again after 30
        world.sentinels.primary()
        world.now += 0.1
    assert (world.a.asked, world.b.asked) == (1, 290)
    world.now += 2
    world.sentinels.primary()
    assert world.a.asked == 2


def test_when_no_other_answers_those_are_asked_too_that_were_left_alone() -> None:
    world = World()
    world.a.down, world.a.seconds_to_fail = True, 0.5
    world.sentinels.primary()
    world.a.down, world.b.down, world.c.down = False, True, True
    assert world.sentinels.primary() == Endpoint("10.0.0.1", 1)


def test_one_that_does_not_know_is_passed_over() -> None:
    world = World()
    world.a.said, world.b.said = [UNKNOWN, None], [NO_SENTINEL, NO_SENTINEL]
    assert world.sentinels.primary() == Endpoint("10.0.0.1", 1)
    first, second = world.sentinels.troubles()
    assert first == 'a:1: it watches no service "m": give its name in the URL, ?service=NAME'
    assert second.startswith("b:2: it is a Redis server, and no sentinel")


def test_one_that_replaces_a_primary_too_soon_is_told_of() -> None:
    world = World()
    world.b.said = names(1, silence_ms=499)
    world.c.said = names(1, silence_ms=500)
    assert world.sentinels.primary() == Endpoint("10.0.0.1", 1)
    [trouble] = world.sentinels.troubles()
    assert trouble == "b:2: it replaces a primary after 499 ms: set down-after-milliseconds to 500 or more"


def test_none_that_answers_is_an_outage_and_all_are_named() -> None:
    world = World()
    world.a.down = world.b.down = world.c.down = True
    with pytest.raises(StoreUnavailable, match="no sentinel can be asked: start one, or name others") as caught:
        world.sentinels.primary()
    assert all(name in str(caught.value) for name in ("a:1", "b:2", "c:3"))


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ([UNKNOWN, None], 'watches no service "m"'),
        ([NO_SENTINEL, NO_SENTINEL], "or say redis://"),
        ([Declined("NOPERM", "no permissions to run")] * 2, "NOPERM no permissions to run"),
        ([[b"name", b"m"], None], "names no primary"),
        ([[b"name", b"m"], [b"", b"x"]], "names no primary"),
        ([b"odd", b"odd"], "names no primary"),
        ([[[b"odd"], b"odd"], [b"10.0.0.1", b"1"]], "names no primary"),
        ([[b"name", b"m"], [b"10.0.0.1", b"1"]], "names no primary"),
    ],
)
def test_what_cannot_be_is_a_mistake_in_the_url_and_later_an_outage(said: list[object], what: str) -> None:
    for found_before, expected in ((False, StoreInvalid), (True, StoreUnavailable)):
        world = World()
        if found_before:
            world.sentinels.primary()
        world.a.said = world.b.said = said
        world.c.down = True
        with pytest.raises(expected, match=what) as caught:
            world.sentinels.primary()
        assert type(caught.value) is expected
        assert "Connection refused" in str(caught.value)
