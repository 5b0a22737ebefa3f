"""The example does what it says: it goes on where it was killed, and nobody pays twice.

Method: as a process, killed when it has printed so many lines; then run again, to its end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SECONDS_MAX = 60.0


def command(folder: Path) -> list[str]:
    store = f"sqlite:{folder / 'orders.db'}"
    return [sys.executable, str(ROOT / "examples" / "embedding.py"), "--store", store, "--folder", str(folder)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def run_to_the_end(folder: Path) -> str:
    done = subprocess.run(
        command(folder), env=environment(), capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_and_kill(folder: Path, lines: int) -> list[str]:
    """Run it until it has printed so many lines, then kill -9."""
    with subprocess.Popen(command(folder), env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline().strip() for _ in range(lines)]
        process.kill()
        process.wait(SECONDS_MAX)
    return seen


def booked(folder: Path) -> list[str]:
    """Give what the shop did, in order."""
    book = folder / "shop-book.jsonl"
    lines = book.read_text().splitlines() if book.exists() else []
    return [json.loads(line)["reference"].partition("/")[2] for line in lines]


def test_example_runs(tmp_path: Path) -> None:
    output = run_to_the_end(tmp_path)

    assert "a new order" in output
    assert "history: 4 steps" in output
    assert output.endswith("paid 39.70\n")
    assert booked(tmp_path) == ["tea", "teapot", "biscuits", "payment"]


@pytest.mark.parametrize("lines", [1, 3])
def test_killed_example_goes_on_where_it_was(lines: int, tmp_path: Path) -> None:
    seen = run_and_kill(tmp_path, lines)
    assert seen[0] == "a new order"
    output = run_to_the_end(tmp_path)

    assert "going on with the order that was left open" in output
    assert not set(seen[1:]) & set(output.splitlines()), "steps that were done are not done again"
    assert output.endswith("paid 39.70\n")
    assert booked(tmp_path) == ["tea", "teapot", "biscuits", "payment"]


def test_step_that_was_done_but_not_confirmed_is_not_done_again(tmp_path: Path) -> None:
    """Killed between the shop's entry and its answer, which takes a fifth of a second: the outcome is unknown."""
    with subprocess.Popen(command(tmp_path), env=environment(), stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + SECONDS_MAX
        while len(booked(tmp_path)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert booked(tmp_path) == ["tea", "teapot"]
    output = run_to_the_end(tmp_path)

    assert "shop/reserve  teapot" in output, "only now it is known to have been done"
    assert booked(tmp_path) == ["tea", "teapot", "biscuits", "payment"]
