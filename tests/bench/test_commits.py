"""What was told to be kept is looked for in the store, and what is missing is a problem of the run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from bench.__main__ import main
from bench.commits import CommitsPlan, Committed, find_lost, report, summarize
from bench.committing import Clients, OpenSubject, open_runtime, open_writer, stored_values
from bench.places import Place


def _committed(replies: int, lost: int = 0) -> Committed:
    return Committed(
        replies=replies,
        seconds=2.0,
        cpu_seconds=0.5,
        p50_ms=1.0,
        p99_ms=2.0,
        batch_rows=10.0,
        fdatasync_ms=0.1,
        lost=lost,
    )


def test_a_value_that_is_missing_or_older_than_told_is_lost() -> None:
    assert find_lost({0: 7, 1: 7, 2: 7}, {0: 7, 1: 6}) == [1, 2]


def test_a_store_that_holds_what_was_told_has_lost_nothing() -> None:
    assert find_lost({0: 7, 1: 3}, {0: 7, 1: 3, 2: 1}) == []


def test_rounds_become_medians_and_losses_add_up() -> None:
    row = summarize(10, [_committed(1000), _committed(4000, lost=1), _committed(2000, lost=2)])
    assert (row.replies_per_second, row.cpu_ms_per_reply, row.lost) == (1000.0, 0.25, 3)


def test_a_lost_fact_is_a_problem_of_the_run() -> None:
    plan = CommitsPlan((10,))
    assert report(plan, [summarize(10, [_committed(1000)])]).problems == []
    assert report(plan, [summarize(10, [_committed(1000, lost=2)])]).problems == [
        "10 clients: 2 sessions do not hold what was told"
    ]


@pytest.mark.parametrize("open_subject", [open_writer, open_runtime], ids=["writer", "runtime"])
def test_what_a_subject_commits_is_there_when_the_store_is_opened_anew(
    open_subject: OpenSubject, tmp_path: Path
) -> None:
    place = Place(f"sqlite:{tmp_path}/outlast.db")

    async def scenario() -> tuple[Clients, dict[int, object]]:
        async with open_subject(place, 5) as subject:
            clients = Clients(5, subject)
            await clients.run(seconds=0.1, warm_up_seconds=0.02)
        return clients, await stored_values(place, subject.session_ids)

    clients, stored = trio.run(scenario)
    assert stored == clients.acknowledged
    assert len(clients.latencies) > 0
    assert clients.batch_rows >= 1


def test_a_value_that_the_store_does_not_keep_is_found_out(tmp_path: Path) -> None:
    place = Place(f"sqlite:{tmp_path}/outlast.db")

    async def scenario() -> list[int]:
        async with open_writer(place, 2) as subject:
            await subject.commit(0, 1)
            await subject.commit(1, 1)
        # client 1 was told of a second commit that never reached the store
        return find_lost({0: 1, 1: 2}, await stored_values(place, subject.session_ids))

    assert trio.run(scenario) == [1]


def test_the_command_measures_and_keeps_the_run(tmp_path: Path) -> None:
    sizes = ["--clients", "1", "--clients", "3", "--rounds", "1", "--seconds", "0.1"]
    run = CliRunner().invoke(main, ["commits", "--writer-only", *sizes, "--json", "--results", str(tmp_path)])
    assert run.exit_code == 0, run.output
    record = json.loads(run.output)
    assert [(row["clients"], row["lost"]) for row in record["rows"]] == [(1, 0), (3, 0)]
    assert json.loads((tmp_path / "commits.jsonl").read_text()) == record
