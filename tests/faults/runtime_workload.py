"""The workload as users have it: sessions of an opened runtime, each changed by `session.update()` without end."""

from __future__ import annotations

from pathlib import Path

import trio

import outlast
from actors.snapshots import from_snapshot
from persistence.store import Store
from tests.faults.facts import Fact
from tests.faults.ledger import Ledger

VALUE = "n"
_AUTHOR = "runtime"


async def update_sessions(url: str, ledger: Path, sessions: int, *, open_gate: bool) -> None:
    """Update values for ever, and note each that is durable."""
    notes = Ledger(ledger)
    options = outlast.RuntimeOptions(gate_open_always=open_gate)
    async with (
        outlast.open_runtime(url, options=options) as runtime,
        trio.open_nursery() as nursery,
    ):
        made = [await runtime.create(server_id="faults") for _ in range(sessions)]
        await runtime.settled()  # with the gate open, they are told of before they can be found
        for session in made:
            nursery.start_soon(_update, session, notes)


async def _update(session: outlast.SessionHandle, notes: Ledger) -> None:
    number = 0
    notes.note(Fact(session.id, number, _AUTHOR))  # it was created
    while True:
        number += 1
        async with session.update() as values:
            values[VALUE] = number
        notes.note(Fact(session.id, number, _AUTHOR))


async def lost_values(store: Store, told: list[Fact]) -> tuple[int, list[str]]:
    """Count the told values that a store does not know of: that of n includes all before it, 0 the session itself."""
    lost, wrong = 0, []
    kept: dict[str, int] = {}
    for session_id in {fact.session_id for fact in told}:
        snapshot = await store.load(session_id)
        if snapshot is None:
            continue
        value = from_snapshot(snapshot).values.get(VALUE, 0)
        if isinstance(value, int):
            kept[session_id] = value
        else:
            wrong.append(f"{session_id}: {value!r} was never written")
    lost = sum(fact.revision > kept.get(fact.session_id, -1) for fact in told)
    return lost, wrong
