"""The world: one seed, one history. Real sessions, runtime and writer between simulated clients, a simulated
disk and simulated upstreams, in virtual time, through many lives of the process.

A life ends by a crash, in order, or by a broken device. A crash is one instant: from then on the store writes
nothing and answers nobody, links are silent, and whoever waits for the process is told that it is dead; that
the cancelled runtime then still goes through the motions of stopping reaches nobody. After each life the disk
is judged; in the end, when all has been quiet for long enough that nothing may still be pending, so are the
clients' histories and the upstreams' journal.
"""

from __future__ import annotations

import enum
import hashlib
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any, TypeVar

import attrs
import structlog
import trio
import trio.testing

from actors.connecting import Backoff
from actors.link import Connect, Inbox, Link
from actors.reaper import ReaperRules
from actors.runtime import Runtime, RuntimeOptions, leaves, open_runtime
from actors.state import Limits, SessionState
from persistence.store import FenceLost, StoreBroken
from tests.simulation import checkers
from tests.simulation.audit import replay_again
from tests.simulation.bad_days import BadDays
from tests.simulation.checkers import Kept
from tests.simulation.history import Absence, SessionHistory
from tests.simulation.seeded import seeded
from tests.simulation.sim_client import SimClient
from tests.simulation.sim_session import PATIENCE_SECONDS
from tests.simulation.sim_store import Lies, SimDisk, SimStore, Weather
from tests.simulation.sim_upstream import KEEPS, KEEPS_AND_REPLAYS, PROCESS, Journal, LinkBug, Mishaps, SimServer
from tests.simulation.standstill import Standstill
from tests.simulation.surroundings import Habits, ProcessDied
from tests.simulation.watch import bounds_broken, stuck

Result = TypeVar("Result")

CALL_SECONDS_MAX = 120.0
QUIET_SECONDS = PATIENCE_SECONDS + CALL_SECONDS_MAX  # after this long without mishaps nothing is pending
AGAIN_SECONDS = 20.0  # what pends now and then too is stuck; a reader that is just back may wait for its link
BREAKING_SECONDS_MAX = 60.0  # there is something to commit by then


class EndOfLife(enum.Enum):
    """How a process ends."""

    CRASH = "crash"
    STOP = "stop"
    BROKEN_STORE = "broken store"
    TAKEN_OVER = "another owner's claim"


@attrs.frozen(kw_only=True)
class Plan:
    """What to simulate. Everything else follows from the seed."""

    seed: int
    sessions: int = 30  # clients; each has one session after another
    hours: float = 0.2  # of virtual time in which clients are at work
    ends: int = 4  # of processes in that time
    gate_open_always: bool = False  # a negative control; so are the next three
    lies: Lies = Lies()
    habits: Habits = Habits()
    links_resend: bool = False

    @property
    def arguments(self) -> str:
        """What to tell ``python -m tests.simulation`` to live through it again."""
        return f"--seed {self.seed} --sessions {self.sessions} --hours {self.hours:g} --ends {self.ends}"


@attrs.define
class Report:
    """What came of it."""

    seed: int
    arguments: str = ""  # that live through it again
    violations: list[str] = attrs.field(factory=list)
    counts: Counter[str] = attrs.field(factory=Counter)
    virtual_seconds: float = 0.0
    digest: str = ""  # of all histories: the same seed gives the same

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        head = f"seed {self.seed}: {self.virtual_seconds / 3600:.2f} virtual hours, {counts}"
        if not self.violations:
            return head
        replay = f"replay it with: python -m tests.simulation {self.arguments}"
        return "\n".join([head, f"{len(self.violations)} violations; {replay}", *_shortened(self.violations)])


def simulate(plan: Plan) -> Report:
    """Live through one world, and judge it."""
    with seeded(plan.seed), structlog.testing.capture_logs() as said:
        clock, world = trio.testing.MockClock(autojump_threshold=0), World(plan, said)
        standstill = Standstill(clock, world.scope)
        report: Report = trio.run(world.run, clock=clock, instruments=[standstill])
        if standstill.culprit:
            report.violations.append(f"time stood still: {standstill.culprit}")
        return report


@attrs.define(eq=False)
class Process:
    """One life of the process, as the world sees it."""

    store: SimStore
    runtime: Runtime | None = None
    waiting: dict[trio.CancelScope, None] = attrs.field(factory=dict)  # clients that wait for it; in order
    dead: bool = False


@attrs.frozen
class _Connector:
    """Implements `actors.link.Connect` and `actors.upstream_ending.EndsSessions` for one process."""

    _servers: Mapping[str, SimServer]
    _process: Process

    async def __call__(self, session: SessionState, inbox: Inbox) -> Link:
        return await self._servers[session.server_id].connect(session, inbox, lambda: self._process.dead)

    async def end_session(self, session: SessionState) -> bool:
        return await self._servers[session.server_id].end_session(session, lambda: self._process.dead)


class World:
    """One world. Implements what clients see of it (`sim_client.Surroundings`)."""

    def __init__(self, plan: Plan, said: list[MutableMapping[str, Any]]) -> None:
        """
        Args:
          said: the log, as it is written.
        """
        self.plan = plan
        self.scope = trio.CancelScope()  # cancelling it ends the world early
        self.finishing = False
        self.histories: list[SessionHistory] = []
        self.report = Report(plan.seed, plan.arguments)
        self._said = said
        self._chance = random.Random(f"{plan.seed}/world")
        self._disk = SimDisk()
        self._weather = Weather(mishap_share=0.01)
        self._journal = Journal()
        self._servers: dict[str, SimServer] = {}
        self._process: Process | None = None
        self._bad_days = BadDays(
            self._weather,
            self._servers,
            self._chance,
            self.report.counts,
            runtime=lambda: None if self._process is None else self._process.runtime,
        )
        self._serving = trio.Event()
        self._limits = Limits(
            call_seconds_max=CALL_SECONDS_MAX,
            calls_in_flight_max=8,
            events_per_session_max=self._chance.choice([30, 1000]),
            call_history_max=20,
            streams_kept_max=self._chance.choice([8, 32]),
        )

    # ---- what clients see ----

    async def attempt(self, ask: Callable[[Runtime], Awaitable[Result]]) -> Result:
        while self._process is None:
            await self._serving.wait()
        process = self._process
        assert process.runtime is not None
        with trio.CancelScope() as scope:
            process.waiting[scope] = None
            try:
                return await ask(process.runtime)
            finally:
                del process.waiting[scope]
        raise ProcessDied

    def register(self, history: SessionHistory) -> None:
        self.histories.append(history)

    def may_be_gone(self, history: SessionHistory) -> str:
        if history.absence is not Absence.NONE:
            return "its client ended it"
        if history.session_id in self._bad_days.removed:
            return "an operator removed it"
        if any(history.session_id in server.rejected for server in self._servers.values()):
            return "its upstream rejects it"
        if trio.current_time() - history.last_active_seconds > history.ttl_seconds / 2:
            return "it has expired"  # half of it: last activity is a soft fact, which a crash may set back
        return ""

    def has_ended(self, session_id: str) -> bool:
        return session_id in self._disk.ended

    def was_lost(self, session_id: str, stream: int, after: int) -> bool:
        kept = self._kept(session_id)
        if kept is None:
            return True
        streams = {row[0]: row for row in kept.fields["streams"]}
        if stream not in streams:
            return True
        following = kept.archive.get((stream, after + 1))
        trimmed = following is not None and following.sequence <= kept.fields["log"][2]
        # Streams are forgotten when others end, which is known in memory a moment before it is durable.
        return trimmed or (stream != 0 and len(streams) > self._limits.streams_kept_max)

    # ---- its course ----

    async def run(self) -> Report:
        """Live through it all; one life after another."""
        with self.scope:
            await self._run()
        return self._concluded()

    async def _run(self) -> None:
        async with trio.open_nursery() as outside:
            self._populate(outside)
            outside.start_soon(self._bad_days.run)
            for life, end in enumerate(self._ends()):
                seconds = self.plan.hours * 3600 / self.plan.ends * self._chance.uniform(0.5, 1.5)
                await self._live(end, partial(self._work, seconds))
                self._judge_disk(f"after life {life + 1} ({end.value})")
            self._bad_days.over = True
            await self._live(EndOfLife.CRASH, self._grow_quiet)
            self._judge_disk("after the quiet")
            self._judge_histories()
            await self._live(EndOfLife.STOP, self._audit)
            outside.cancel_scope.cancel()

    def _ends(self) -> list[EndOfLife]:
        """Choose how each process ends: three of four by a crash."""
        others = [end for end in EndOfLife if end is not EndOfLife.CRASH]
        ends = [self._chance.choice(others) if life % 4 == 3 else EndOfLife.CRASH for life in range(self.plan.ends)]
        self._chance.shuffle(ends)
        return ends

    async def _work(self, seconds: float, runtime: Runtime) -> None:
        await trio.sleep(seconds)

    def _populate(self, outside: trio.Nursery) -> None:
        for kind_name, kind in (("replaying", KEEPS_AND_REPLAYS), ("keeping", KEEPS), ("process", PROCESS)):
            chance = random.Random(f"{self.plan.seed}/{kind_name}")
            mishaps = Mishaps(link_bug=0.001)
            server = SimServer(
                kind_name, kind, outside, self._journal, chance, mishaps=mishaps, resends=self.plan.links_resend
            )
            self._servers[kind_name] = server
            outside.start_soon(server.chatter)
        for number in range(self.plan.sessions):
            chance = random.Random(f"{self.plan.seed}/client/{number}")
            client = SimClient(f"client{number}", list(self._servers), self, chance, self.plan.habits)
            outside.start_soon(client.run)

    async def _live(self, end: EndOfLife, work: Callable[[Runtime], Awaitable[None]]) -> None:
        """Run a process until it has done its work, and end it."""
        process = Process(SimStore(self._disk, self._chance, self._weather, self.plan.lies))
        spoken = len(self._said)
        try:
            async with trio.open_nursery() as nursery:
                async with open_runtime(
                    process.store, connect=self._connect_for(process), options=self._options()
                ) as runtime:
                    process.runtime, self._process = runtime, process
                    self._serving.set()
                    nursery.start_soon(self._watch_bounds, runtime)
                    await work(runtime)
                    self._serving, self._process = trio.Event(), None
                    if end is EndOfLife.CRASH:
                        self._kill(process)
                        self._judge_log(spoken)
                        nursery.cancel_scope.cancel()
                    elif end is not EndOfLife.STOP:
                        self._break(process, end)
                        await trio.sleep(BREAKING_SECONDS_MAX)
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if not all(isinstance(error, StoreBroken | FenceLost) for error in leaves(group)):
                raise
        if end is not EndOfLife.CRASH:
            self._judge_log(spoken)
            self._kill(process)
        self.report.counts[f"ends by {end.value}"] += 1

    def _break(self, process: Process, end: EndOfLife) -> None:
        """Have the process notice with its next commit that it must end."""
        if end is EndOfLife.BROKEN_STORE:
            process.store.broken = True
        else:
            self._disk.claim("another")

    def _kill(self, process: Process) -> None:
        """The instant of death."""
        process.dead = True
        process.store.crash()
        for server in self._servers.values():
            server.miss_links()
        for scope in list(process.waiting):
            scope.cancel()

    def _connect_for(self, process: Process) -> Connect:
        return _Connector(self._servers, process)

    def _options(self) -> RuntimeOptions:
        return RuntimeOptions(
            limits=self._limits,
            reaper_rules=ReaperRules(
                sweep_every_seconds=7.0, passivate_after_seconds=30.0, passivate_unresumable_after_seconds=60.0
            ),
            backoff=Backoff(most_seconds=5.0),
            gate_open_always=self.plan.gate_open_always,
        )

    async def _grow_quiet(self, runtime: Runtime) -> None:
        """Begin nothing new, let nothing go wrong, and wait until nothing can be pending."""
        self.finishing = True
        self._weather.clear()
        for server in self._servers.values():
            server.calm()
        await trio.sleep(QUIET_SECONDS)
        first = set(stuck(runtime))
        await trio.sleep(AGAIN_SECONDS)
        self._blame("when all is quiet", [text for text in stuck(runtime) if text in first])

    async def _audit(self, runtime: Runtime) -> None:
        """Read all streams once more from their start: a replay shows what was heard, under the same ids."""
        for history in self.histories:
            if not history.denied and history.absence is Absence.NONE and not self.may_be_gone(history):
                for heard in history.streams():
                    if heard.events and not heard.denied:
                        lost = self.was_lost(history.session_id, heard.stream, 0)
                        self._blame(history.name, await replay_again(runtime, history, heard, may_be_lost=lost))

    # ---- judging ----

    async def _watch_bounds(self, runtime: Runtime) -> None:
        while True:
            await trio.sleep(5)
            self._blame("while it ran", bounds_broken(runtime, self._limits))

    def _kept(self, session_id: str) -> Kept | None:
        snapshot = self._disk.snapshot(session_id)
        if snapshot is None:
            return None
        return Kept(snapshot.fields, self._disk.entries(session_id), self._disk.archive.get(session_id, {}))

    def _judge_disk(self, when: str) -> None:
        for history in self.histories:
            kept = self._kept(history.session_id)
            found = checkers.check_kept(history, kept, self.may_be_gone(history))
            self._blame(f"{when}: {history.name} ({history.session_id[:6]})", found)
        self._blame(when, self._disk.contradictions)
        self._disk.contradictions.clear()

    def _judge_histories(self) -> None:
        for history in self.histories:
            name = f"{history.name} ({history.session_id[:6]}, {history.server_id})"
            self._blame(name, history.complaints)
            self._blame(name, checkers.check_heard(history))
            self._blame(name, checkers.check_calls(history, self._journal))
            complete = self._servers[history.server_id].kind.cursors
            self._blame(name, checkers.check_relayed(history, self._journal, complete=complete))
            kept = self._kept(history.session_id)
            if kept is not None and not history.denied and history.absence is Absence.NONE:
                self._blame(name, checkers.check_all_heard(history, kept))
        self._blame("upstreams", checkers.check_answers(self._journal))
        self._blame("upstreams", self._journal.complaints)

    def _judge_log(self, spoken: int) -> None:
        """Actors crash when their link is wrong, and for no other reason."""
        for line in self._said[spoken:]:
            error = line.get("exc_info")
            if isinstance(error, BaseException):
                self.report.counts["crashes of actors"] += 1
                causes = list(leaves(error))
                if not all(isinstance(cause, LinkBug) for cause in causes):
                    self._blame("in the log", [f"{line.get('child')}: {line['event']}: {error!r}{_place(error)}"])

    def _blame(self, whom: str, texts: Iterable[str]) -> None:
        self.report.violations += [f"{whom}: {text}" for text in texts]

    def _concluded(self) -> Report:
        report, counts = self.report, self.report.counts
        digest = hashlib.sha256()
        for history in self.histories:
            digest.update(repr(history).encode())
            counts["sessions"] += 1
            counts["updates"] += len(history.updates)
            counts["emits"] += len(history.emits)
            counts["events heard"] += sum(len(heard.events) for heard in history.streams())
            for call in history.calls.values():
                counts["calls"] += 1
                counts[f"calls that came to {call.ending.name}"] += 1
        counts["commits"] = self._disk.batches
        counts["sessions ended without a link"] = self._journal.ended
        report.virtual_seconds = trio.current_time()
        report.digest = digest.hexdigest()
        return report


def _shortened(violations: list[str]) -> list[str]:
    """Give each kind of violation once or twice: kinds differ in more than numbers and names."""
    seen: Counter[str] = Counter()
    shown: list[str] = []
    for text in violations:
        kind = re.sub(r"\([\w-]{6}[^)]*\)|session [\w-]{6}|[\w-]{20,}|client[\d.]+|\d+", "#", text)[:60]
        seen[kind] += 1
        if seen[kind] <= 2:
            shown.append(text)
    return shown[:40]


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" in {trace.tb_frame.f_code.co_name}, line {trace.tb_lineno}"
