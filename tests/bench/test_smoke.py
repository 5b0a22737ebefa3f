"""The whole of `bench calls` once, with real processes and tiny numbers, against the references."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.children import ChildFailed, child, run_to_end

_ROOT = Path(__file__).resolve().parents[2]


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_calls_measures_the_references_and_keeps_the_run(tmp_path: Path) -> None:
    targets = ["--target", "direct", "--target", "relay", "--target", "hypercorn"]
    sizes = ["--sessions", "1", "--sessions", "4", "--rounds", "1", "--seconds", "0.1"]
    run = _bench("calls", *targets, *sizes, "--json", "--results", str(tmp_path))
    assert (run.returncode, run.stderr) == (0, "")
    record = json.loads(run.stdout)
    assert (tmp_path / "calls.jsonl").read_text() == run.stdout
    measured = {(row["target"], row["sessions"]) for row in record["rows"]}
    assert measured == {(name, sessions) for name in ("direct", "relay", "hypercorn") for sessions in (1, 4)}
    assert all(row["calls_per_second"] > 0 and row["errors"] == {} for row in record["rows"])
    assert record["problems"] == []


def test_a_table_for_people_is_the_default(tmp_path: Path) -> None:
    sizes = ["--sessions", "1", "--rounds", "1", "--seconds", "0.05"]
    run = _bench("calls", "--target", "direct", *sizes, "--results", str(tmp_path))
    assert (run.returncode, run.stderr) == (0, "")
    assert "direct" in run.stdout
    assert "CPU ms/call" in run.stdout


def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path: Path) -> None:
    run = _bench("calls", "--sse", "--target", "relay", "--results", str(tmp_path))
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == (
        "Error: the references speak JSON only: with --sse, measure direct and gateway"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ChildFailed, match="No such option"),
        child("upstream", ["bench.upstream", "--unknown"], core=None, logs=tmp_path),
    ):
        pass


def test_a_child_that_fails_at_its_work_says_why() -> None:
    with pytest.raises(ChildFailed, match="load: "):
        run_to_end("load", ["bench.load", "--url", "http://127.0.0.1:1/mcp"], core=None, seconds_max=30)


def test_a_child_ends_with_its_block(tmp_path: Path) -> None:
    with child("upstream", ["bench.upstream"], core=None, logs=tmp_path) as running:
        assert running.ready_seconds > 0
        assert running.ready_line == f"upstream: listening on {running.url}"
    with pytest.raises(ProcessLookupError):
        os.kill(running.pid, 0)
