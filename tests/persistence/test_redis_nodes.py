"""Where calls go, and what becomes of them when a server fails: with servers that say what the test wants."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import pytest

from persistence.codec import Codec
from persistence.records import Batch, Fence
from persistence.redis_asking import RedisAsker
from persistence.redis_commits import RedisCommits
from persistence.redis_nodes import Call, Declined, Nodes
from persistence.redis_records import slot_of
from persistence.redis_url import Endpoint, RedisPlace
from persistence.store import StoreError, StoreFull, StoreInvalid, StoreReplaced, StoreUnavailable
from tests.persistence.making import snapshot

A, B = Endpoint("a", 1), Endpoint("b", 2)
Words = tuple[bytes | str | int | float, ...]


@attrs.define(eq=False)
class FakeServer:
    """One server: answers from a list, or with what it was asked."""

    answers: list[object] = attrs.field(factory=list)
    asked: list[Words] = attrs.field(factory=list)
    slots: list[object] = attrs.field(factory=list)
    down: bool = False
    waiting: list[Words] = attrs.field(factory=list)
    closed: int = 0
    opened: int = 1

    def send(self, commands: Sequence[Words]) -> None:
        if self.down:
            raise StoreUnavailable("down")
        self.waiting += commands

    def receive(self) -> object:
        words = self.waiting.pop(0)
        if words == ("CLUSTER", "SLOTS"):
            return self.slots
        self.asked.append(words)
        answer = self.answers.pop(0) if self.answers else words
        if isinstance(answer, StoreUnavailable):
            raise answer
        return answer

    def close(self) -> None:
        self.closed += 1
        self.waiting.clear()


@attrs.define
class World:
    """The servers, and a clock."""

    first: FakeServer = attrs.field(factory=FakeServer)
    a: FakeServer = attrs.field(factory=FakeServer)
    b: FakeServer = attrs.field(factory=FakeServer)
    now: float = 0.0

    def nodes(self) -> Nodes:
        return Nodes(lambda endpoint: {None: self.first, A: self.a, B: self.b}[endpoint], lambda: self.now)

    def cluster(self) -> Nodes:
        """All slots up to that of "k" are a's, those beyond are b's."""
        self.divide(slot_of("k"))
        nodes = self.nodes()
        nodes.use_cluster()
        return nodes

    def divide(self, last_of_a: int) -> None:
        for server in (self.first, self.a, self.b):
            server.slots = [[0, last_of_a, [b"a", 1, b"id"]], [last_of_a + 1, 16383, [b"b", 2, b"id"]]]


def call(key: str) -> Call:
    return Call(key, ("GET", key))


BEYOND = next(key for key in map(str, range(99)) if slot_of(key) > slot_of("k"))


def test_slots_are_those_of_the_protocol() -> None:
    assert slot_of("123456789") == 0x31C3
    assert slot_of("rr:{p017}:lease") == slot_of("p017") == slot_of("x{p017}y")
    assert slot_of("{}x") != slot_of("")


def test_calls_of_one_server_come_back_in_order() -> None:
    world = World()
    assert world.nodes().ask([call("x"), call("y")]) == [("GET", "x"), ("GET", "y")]


def test_calls_go_to_who_has_their_slot_and_come_back_in_order() -> None:
    world = World()
    answers = world.cluster().ask([call(BEYOND), call("k"), call(BEYOND)])
    assert answers == [("GET", BEYOND), ("GET", "k"), ("GET", BEYOND)]
    assert (len(world.a.asked), len(world.b.asked)) == (1, 2)


def test_one_key_is_chosen_for_each_server() -> None:
    world = World()
    nodes = world.cluster()
    assert nodes.one_for_each(["k", BEYOND, "k"]) == ["k", BEYOND]
    assert len(world.nodes().one_for_each(["k", BEYOND])) == 1


def test_a_call_that_was_declined_unread_goes_where_the_slot_went() -> None:
    world = World()
    nodes = world.cluster()
    nodes.ask([call("k")])
    world.divide(0)
    world.a.answers = [Declined("MOVED", "1 b:2")]
    assert nodes.ask([call("k"), call(BEYOND)]) == [("GET", "k"), ("GET", BEYOND)]
    assert world.b.asked == [("GET", BEYOND), ("GET", "k")]  # and the other one not twice


def test_a_lost_answer_closes_all_and_is_not_asked_for_again() -> None:
    world = World()
    nodes = world.cluster()
    world.a.answers = [StoreUnavailable("silent")]
    with pytest.raises(StoreUnavailable, match="silent"):
        nodes.ask([call("k"), call(BEYOND)])
    assert len(world.a.asked) == 1
    assert min(world.a.closed, world.b.closed) >= 1
    assert world.b.waiting == []  # an answer that nobody read would be the next one's


def test_after_a_failure_others_are_told_at_once_and_one_tries_again_later() -> None:
    world = World()
    nodes = world.nodes()
    world.first.down = True
    with pytest.raises(StoreUnavailable):
        nodes.ask([call("x")])
    world.first.down = False
    with pytest.raises(StoreUnavailable, match="down"):
        nodes.ask([call("x")])
    assert world.first.asked == []
    world.now += 0.3
    assert nodes.ask([call("x")]) == [("GET", "x")]


def test_a_cluster_whose_first_server_has_gone_is_asked_through_the_others() -> None:
    world = World()
    nodes = world.cluster()
    nodes.ask([call("k"), call(BEYOND)])
    world.first.down = world.a.down = True
    with pytest.raises(StoreUnavailable):
        nodes.ask([call("k")])
    world.now += 0.3
    world.divide(-1)  # b has taken over
    assert nodes.ask([call("k")]) == [("GET", "k")]


def test_replicas_are_counted_on_every_server_that_wrote() -> None:
    world = World()
    nodes = world.cluster()
    world.a.answers, world.b.answers = [b"ok", 2], [b"ok", 1]
    with pytest.raises(StoreUnavailable, match="1 of 2 replicas"):
        nodes.ask([call("k"), call(BEYOND)], replicas=2)
    world.now += 0.3
    world.a.answers, world.b.answers = [b"ok", 2], [b"ok", 3]
    assert nodes.ask([call("k"), call(BEYOND)], replicas=2) == [b"ok", b"ok"]
    assert [words[0] for words in world.a.asked] == ["GET", "WAIT"] * 2


def test_a_refusal_is_told_before_that_replicas_are_missing() -> None:
    world = World()
    world.first.answers = [[b"fenced", b"at", b"other"], 0]
    assert world.nodes().ask([call("k")], replicas=1) == [[b"fenced", b"at", b"other"]]


def test_connections_are_counted_also_to_servers_that_are_known_no_more() -> None:
    world = World()
    nodes = world.cluster()
    nodes.ask([call("k"), call(BEYOND)])
    before = nodes.opened
    world.divide(-1)  # all is b's
    world.a.answers = [Declined("MOVED", "1 b:2")]
    nodes.ask([call("k")])
    assert nodes.opened == before


# With sentinels


@attrs.define
class FakeSeeker:
    """Names who the test says, and counts how often it was asked."""

    world: World
    named: Endpoint | StoreError = A
    asked: int = 0
    seconds_to_fail: float = 0.0

    def primary(self) -> Endpoint:
        self.asked += 1
        if isinstance(self.named, StoreError):
            self.world.now += self.seconds_to_fail
            raise self.named
        return self.named

    def troubles(self) -> Sequence[str]:
        return ()

    def close(self) -> None: ...


PRIMARY: list[object] = [b"master", 7, []]


def watched() -> tuple[World, FakeSeeker, Nodes]:
    """A is in charge, B is another."""
    world = World()
    seeker = FakeSeeker(world)
    channels = {A: world.a, B: world.b}
    return world, seeker, Nodes(lambda endpoint: channels[endpoint or A], lambda: world.now, seeker)


def test_the_server_that_is_named_is_asked_if_it_says_that_it_is_in_charge() -> None:
    world, _, nodes = watched()
    world.a.answers = [[b"slave", b"h", 1, b"connected", 9]]
    with pytest.raises(StoreUnavailable, match="a:1: the sentinels name it as the primary, and it is none"):
        nodes.ask([call("x")])
    assert world.a.asked == [("ROLE",)]
    world.now += 0.3
    world.a.answers = [PRIMARY]
    assert nodes.ask([call("x")]) == [("GET", "x")]
    world.now += 0.3
    assert nodes.ask([call("x")]) == [("GET", "x")]
    assert (nodes.primary, world.a.asked.count(("ROLE",))) == (A, 2)


def test_a_server_that_does_not_let_its_role_be_asked_for_is_believed() -> None:
    world, _, nodes = watched()
    world.a.answers = [Declined("NOPERM", "no permissions")]
    assert nodes.ask([call("x")]) == [("GET", "x")]


@pytest.mark.parametrize("refused", [StoreUnavailable("silent"), Declined("READONLY", "You can't write")])
def test_after_a_failure_or_a_refusal_it_is_asked_anew_who_is_in_charge(refused: object) -> None:
    world, seeker, nodes = watched()
    asker = RedisAsker(RedisPlace(scheme="redis+sentinel", service="m"), nodes, lambda script: script)
    world.a.answers, world.b.answers = [PRIMARY, refused], [PRIMARY]
    with pytest.raises(StoreUnavailable):
        asker.answers(nodes.ask([call("x")]))
    seeker.named = B
    world.now += 0.3
    assert nodes.ask([call("x")]) == [("GET", "x")]
    assert (nodes.primary, nodes.opened) == (B, 2)
    assert world.a.closed >= 1


def test_an_answer_counts_only_if_its_server_is_still_in_charge() -> None:
    world, seeker, nodes = watched()
    world.a.answers, world.b.answers = [PRIMARY], [PRIMARY]
    nodes.ask([call("x")])
    seeker.named = B
    world.now += 10  # it was silent, and is there again
    with pytest.raises(StoreUnavailable, match="a:1 is the primary no more: that is b:2"):
        nodes.ask([call("x")])
    world.now += 0.3
    assert nodes.ask([call("x")]) == [("GET", "x")]
    assert world.b.asked == [("ROLE",), ("GET", "x")]


def test_without_asking_again_a_former_primary_s_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Nodes, "_confirm", lambda _: None)
    world, seeker, nodes = watched()
    world.a.answers = [PRIMARY]
    nodes.ask([call("x")])
    seeker.named = B
    world.now += 10
    assert nodes.ask([call("x")]) == [("GET", "x")]


def test_sentinels_are_asked_four_times_a_second_however_much_is_asked() -> None:
    world, seeker, nodes = watched()
    world.a.answers = [PRIMARY]
    for _ in range(1000):
        nodes.ask([call("x")])
        world.now += 0.001
    assert seeker.asked == 4


def test_a_connection_that_was_opened_again_is_looked_at_at_once() -> None:
    world, seeker, nodes = watched()
    world.a.answers = [PRIMARY]
    nodes.ask([call("x")])
    world.a.opened += 1
    world.a.answers = [("GET", "x"), [b"slave", b"h", 1, b"connected", 9]]
    with pytest.raises(StoreUnavailable, match="it is none"):
        nodes.ask([call("x")])
    assert seeker.asked == 2


def test_a_primary_in_use_stays_in_use_when_no_sentinel_answers() -> None:
    world, seeker, nodes = watched()
    world.a.answers = [PRIMARY]
    nodes.ask([call("x")])
    seeker.named = StoreUnavailable("no sentinel answers")
    for _ in range(100):
        world.now += 0.1
        assert nodes.ask([call("x")]) == [("GET", "x")]
    world.a.down = True
    for _ in range(2):  # the first has lost the connection; from then on nobody says where to go
        with pytest.raises(StoreUnavailable):
            nodes.ask([call("x")])
        world.now += 0.3
    seeker.named = B
    world.b.answers = [PRIMARY]
    assert nodes.ask([call("x")]) == [("GET", "x")]


def test_sentinels_that_are_silent_take_a_tenth_of_the_time_at_most() -> None:
    world, seeker, nodes = watched()
    world.a.answers = [PRIMARY, ("GET", "x"), PRIMARY]
    nodes.ask([call("x")])
    seeker.named, seeker.seconds_to_fail = StoreUnavailable("no sentinel answers"), 1.5
    world.a.opened += 1  # which alone is a reason to ask
    began = world.now
    for _ in range(330):
        nodes.ask([call("x")])
        world.now += 0.1
    # 1 before, and in 33 s: the first, and the others 15 s after each; each takes 1.5 s.
    assert (seeker.asked, round(world.now - began, 3)) == (4, 37.5)


# What a server's refusal means

REFUSALS: list[tuple[Declined, type[StoreError], type[StoreError]]] = [
    # answer, while serving, at the start
    (Declined("OOM", "command not allowed"), StoreFull, StoreFull),
    (Declined("MISCONF", "Errors writing to the AOF file: No space left on device"), StoreFull, StoreFull),
    (Declined("MISCONF", "Errors writing to the AOF file: Input/output error"), StoreUnavailable, StoreUnavailable),
    (Declined("READONLY", "You can't write"), StoreUnavailable, StoreUnavailable),
    (Declined("LOADING", "the dataset"), StoreUnavailable, StoreUnavailable),
    (Declined("MASTERDOWN", "Link is down"), StoreUnavailable, StoreUnavailable),
    (Declined("NOREPLICAS", "Not enough"), StoreUnavailable, StoreUnavailable),
    (Declined("CLUSTERDOWN", "Hash slot not served"), StoreUnavailable, StoreUnavailable),
    (Declined("TRYAGAIN", "Multiple keys"), StoreUnavailable, StoreUnavailable),
    (Declined("BUSY", "running a script"), StoreUnavailable, StoreUnavailable),
    (Declined("NOSCRIPT", "No matching script"), StoreUnavailable, StoreUnavailable),
    (Declined("NOAUTH", "Authentication required."), StoreUnavailable, StoreInvalid),
    (Declined("NOPERM", "no permissions"), StoreUnavailable, StoreInvalid),
    (Declined("WRONGTYPE", "Operation against"), StoreReplaced, StoreInvalid),
    (Declined("ERR", "user_script:1: oh"), StoreReplaced, StoreInvalid),
]


@pytest.mark.parametrize(("declined", "serving", "starting"), REFUSALS)
def test_refusals_are_told_apart_by_who_has_to_act(
    declined: Declined, serving: type[StoreError], starting: type[StoreError]
) -> None:
    world = World()
    asker = RedisAsker(RedisPlace(scheme="redis", host="h"), world.nodes(), lambda script: script)
    commits = RedisCommits(asker, tombstones_max=1000)
    for uuid, expected in (("", starting), ("opened", serving)):
        asker.uuid = uuid
        world.first.answers = [declined]
        with pytest.raises(expected, match=declined.text.split(" ")[0]) as caught:
            commits.commit(Batch(Fence("a", 1, "n"), (snapshot(),)), Codec())
        assert type(caught.value) is expected
