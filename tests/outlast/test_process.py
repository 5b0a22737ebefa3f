"""Signals: the first asks, the second ends at once; and what starting the program costs in imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from outlast.process import serve_until_told
from outlast.settings import Settings
from tests.outlast.fake_gateway import FakeGateway

ROOT = Path(__file__).parent.parent.parent
STUBBORN = [sys.executable, "-m", "tests.outlast.fake_gateway", "serve", "--server", "stdio:sh"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_first_signal_lets_the_gateway_drain(number: signal.Signals) -> None:
    async def ask() -> None:
        signal.raise_signal(number)

    gateway = FakeGateway(while_serving=ask)
    await serve_until_told(Settings(), gateway, lambda _: None)

    assert gateway.journal == ["starting", "ready", "draining", "stopped"]


async def test_a_signal_during_the_start_gives_the_start_up(autojump_clock: trio.testing.MockClock) -> None:
    async def never() -> None:
        signal.raise_signal(signal.SIGTERM)
        await trio.sleep_forever()

    gateway = FakeGateway(before_ready=never)
    announced: list[object] = []
    with trio.fail_after(60):
        await serve_until_told(Settings(), gateway, announced.append)

    assert gateway.journal == ["starting"]
    assert announced == []


async def test_the_second_signal_does_not_wait_for_the_event_loop() -> None:
    ended: list[int] = []

    async def busy() -> None:
        signal.raise_signal(signal.SIGINT)  # no checkpoint in between: the loop cannot have seen it
        assert ended == [signal.SIGINT]

    async def ask() -> None:
        signal.raise_signal(signal.SIGTERM)

    gateway = FakeGateway(while_serving=ask, while_draining=busy)
    await serve_until_told(Settings(), gateway, lambda _: None, end_at_once=ended.append)

    assert gateway.journal[-1] == "stopped"


async def test_two_signals_at_one_moment_end_at_once() -> None:
    ended: list[int] = []

    async def ask_twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)

    gateway = FakeGateway(while_serving=ask_twice, while_draining=trio.testing.wait_all_tasks_blocked)
    await serve_until_told(Settings(), gateway, lambda _: None, end_at_once=ended.append)

    assert len(ended) == 1


async def test_signals_are_as_before_when_all_is_over() -> None:
    async def ask() -> None:
        signal.raise_signal(signal.SIGTERM)

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    await serve_until_told(Settings(), FakeGateway(while_serving=ask), lambda _: None)

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_process_that_drains_for_ever_ends_at_the_second_signal(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """Start a gateway that never finishes draining; each line that it prints says that the next signal may come."""
    with subprocess.Popen(
        [*STUBBORN, "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("outlast: listening on ")
            process.send_signal(number)
            assert process.stdout.readline() == "draining\n"
            process.send_signal(number)
            assert process.wait(timeout=60) == code
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_the_version_needs_no_heavy_import() -> None:
    """What the command line adds to importing the package itself."""
    code = (
        "import sys, outlast\nbefore = set(sys.modules)\n"
        "from outlast.cli import main\nmain(['--version'])\n"
        "print(*({'trio', 'structlog', 'rich', 'hypercorn', 'asyncio', 'ssl', 'sqlite3'} & set(sys.modules) - before))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[1:] == [""]
