"""The matrix at work: many cases at a time in one world, one fault for all of them, one verdict for each.

A case is a flow and a point of it, with a session of its own. All come to their points; then the fault strikes
once; then all go on. That costs one restart for thirty cases, and is more of a trial than thirty restarts: all
sessions come back at once. A case by itself: `E2E_RESTARTS_CASE="long call/in progress"`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import attrs
import trio

from tests.e2e.journal import Journal
from tests.e2e.restarts.client import Client
from tests.e2e.restarts.flows import FLOWS, Flow
from tests.e2e.restarts.stage import Stage
from tests.e2e.restarts.transcript import Asked, Circumstances, Reference, Transcript, violations
from tests.e2e.waiting import DEADLINE_SECONDS

ARRIVE_SECONDS = 60.0  # until all cases are at their points: a stdio server takes a second of CPU to start

MakeClient = Callable[[trio.Nursery, Stage, Transcript, str], Client]  # the last: which revision it speaks
Fault = Callable[[Callable[[], None]], Awaitable[None]]  # takes what is to be done between the end and the start


@attrs.frozen(eq=False)
class Case:
    """One flow, to be struck at one point (or at none)."""

    flow_name: str
    stage: Stage
    transcript: Transcript = attrs.field(factory=Transcript)

    @property
    def name(self) -> str:
        return f"{self.flow_name}/{self.stage.point}"

    @property
    def flow(self) -> Flow:
        return FLOWS[self.flow_name]

    async def run(self, make_client: MakeClient) -> None:
        """Run the flow; what does not come in time is written down, and the run is over."""
        try:
            async with trio.open_nursery() as nursery:
                client = make_client(nursery, self.stage, self.transcript, self.flow.revision)
                await self.flow.run(client, self.stage)
                nursery.cancel_scope.cancel()
        except* AssertionError as failed:
            self.transcript.missing += [str(error) for error in failed.exceptions]
        if self.stage.point and not self.stage.arrived.is_set():
            self.transcript.missing.append("it never came to its point")
        self.stage.arrived.set()


def all_cases(
    journal: Journal,
    only: str = "",
    *,
    without: Collection[str] = (),
    patience_seconds: float = DEADLINE_SECONDS,
) -> list[Case]:
    """Make a case for each point of each flow (but those `without`), or the one of that name."""
    cases = [
        Case(name, Stage(journal, point, patience_seconds))
        for name, flow in FLOWS.items()
        for point in flow.points
        if name not in without
    ]
    return [case for case in cases if only in ("", case.name)]


async def references(make_client: MakeClient, journal: Journal, of: Sequence[Case]) -> Mapping[str, Reference]:
    """Run the flows of cases without a gateway and without a fault: what each thing that is asked ends in, by flow."""
    cases = [Case(name, Stage(journal)) for name in sorted({case.flow_name for case in of})]
    async with trio.open_nursery() as nursery:
        for case in cases:
            nursery.start_soon(case.run, make_client)
    found: dict[str, dict[str, Asked]] = {}
    for case in cases:
        assert not case.transcript.missing, (case.name, case.transcript)
        assert not case.transcript.wrong, (case.name, case.transcript)
        assert all(len(asked.endings) == 1 for asked in case.transcript.asked), (case.name, case.transcript)
        found[case.flow_name] = {asked.name: asked for asked in case.transcript.asked}
    return found


async def strike(cases: Sequence[Case], make_client: MakeClient, fault: Fault, *, settle_seconds: float = 0.0) -> None:
    """Bring all cases to their points, let the fault strike (after a while), and let them go on to their ends."""

    def meanwhile() -> None:
        for case in cases:
            case.stage.meanwhile()

    async with trio.open_nursery() as nursery:
        for case in cases:
            nursery.start_soon(case.run, make_client)
        with trio.fail_after(ARRIVE_SECONDS):
            for case in cases:
                await case.stage.arrived.wait()
        await trio.sleep(settle_seconds)  # for what nothing outside can be seen by
        await fault(meanwhile)
        for case in cases:
            case.stage.over.set()


def verdicts(
    cases: Sequence[Case],
    direct: Mapping[str, Reference],
    circumstances: Circumstances,
    executions: Mapping[str, int],
) -> dict[str, list[str]]:
    """Judge each case; those that keep all rules are left out."""
    judged = {
        case.name: violations(case.transcript, direct[case.flow_name], circumstances, executions) for case in cases
    }
    return {name: found for name, found in judged.items() if found}
