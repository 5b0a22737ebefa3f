"""Rows are counted over the batches alone, and what a store takes is compared with what its server could."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.__main__ import main
from bench.rows import FENCED, SQLITE, UNFENCED, UPSERTS, Wrote, summarize
from tests.persistence.redis_servers import RedisServer, running


def wrote(rows: int) -> Wrote:
    return Wrote(rows, 2.0, 1.0, 3.0, 0.01)


def test_the_ratio_is_that_of_rounds_side_by_side() -> None:
    # A slow minute strikes both: 100 of 200, 10 of 20, 90 of 100.
    rounds = {FENCED: [wrote(100), wrote(10), wrote(90)], UNFENCED: [wrote(200), wrote(20), wrote(100)]}
    row = summarize(FENCED, rounds)
    assert (row.rows_per_second, row.of_bare) == (45.0, 0.5)
    assert summarize(UNFENCED, rounds).of_bare is None


@pytest.mark.parametrize("command", ["rows", "commits"])
def test_a_server_is_measured_and_left_as_it_was(command: str, tmp_path: Path) -> None:
    server = RedisServer()
    own = {
        "rows": ["--redis", server.url, "--sessions", "50", "--rows", "10"],
        "commits": ["--store", server.url, "--clients", "3", "--codec", "plain", "--codec", "both"],
    }
    with running(server):
        server.ask("SET", "another's", "value")
        arguments = [command, *own[command], "--rounds", "1", "--seconds", "0.1", "--json", "--results", str(tmp_path)]
        run = CliRunner().invoke(main, arguments)
        assert run.exit_code == 0, run.output
        assert server.ask("KEYS", "*") == [b"another's"]
    record = json.loads(run.output)
    assert str(server.socket) not in run.output
    if command == "rows":
        assert [row["subject"] for row in record["rows"]] == [SQLITE, UPSERTS, FENCED, UNFENCED]
        assert all(row["rows_per_second"] > 0 for row in record["rows"])
    else:
        assert [(row["codec"], row["lost"]) for row in record["rows"]] == [("plain", 0), ("both", 0)]
        assert record["rows"][1]["of_plain"] > 0
