"""What was acknowledged survives kill -9; the negative control acknowledges too early, and is found out.

Method: another process stores events of several sessions at once and says each id that it is given. It is killed in
the middle; then the same file is opened here, and replayed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from outlast.event_store import DurableEventStore
from tests.outlast.event_store_bed import replayed, run
from tests.outlast.event_store_process import SESSIONS

ROOT = Path(__file__).parents[2]


def events_after_a_kill(mode: str, path: Path) -> tuple[int, int]:
    """Kill a process that stores events; give how many it acknowledged, and how many of these are lost."""
    command = [sys.executable, "-m", "tests.outlast.event_store_process", mode, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().split() for _ in range(50 * SESSIONS)]
        process.kill()
        lines += [line.split() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    first: dict[str, str] = {}
    newest: dict[str, int] = {}
    for session_id, number, event_id in lines:
        first.setdefault(session_id, event_id)
        newest[session_id] = int(number)
    lost = 0

    async def look() -> None:
        nonlocal lost
        async with DurableEventStore(f"sqlite:{path}") as store:
            for session_id, event_id in first.items():
                seen = [json.loads(text) for _, text in await replayed(store.session(session_id), event_id)]
                numbers = [message["params"]["progress"] for message in seen if "params" in message]
                assert numbers == list(range(2, 2 + len(numbers))), "each once, in order"
                lost += max(0, newest[session_id] - 1 - len(numbers))

    run("trio", look)
    return len(lines), lost


def test_kill_loses_no_event_that_was_acknowledged(tmp_path: Path) -> None:
    acknowledged, lost = events_after_a_kill("honest", tmp_path / "events.db")
    assert acknowledged >= 50 * SESSIONS
    assert lost == 0


def test_control_acknowledging_before_the_commit_loses_events(tmp_path: Path) -> None:
    acknowledged, lost = events_after_a_kill("early", tmp_path / "events.db")
    assert acknowledged >= 50 * SESSIONS
    assert lost > 0
