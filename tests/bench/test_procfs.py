"""The kernel's accounts are read by position and by name, as proc(5) gives them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bench.procfs import ProcessGone, cpu_seconds, parse_cpu_seconds, parse_resident_bytes, resident_bytes

_AFTER_NAME = "S 1 10 10 0 -1 4194560 900 0 1 0 250 50 0 0 20 0 3 0 5000 100000 2000"


def test_user_and_system_time_are_added() -> None:
    assert parse_cpu_seconds(f"10 (python) {_AFTER_NAME}", 100) == 3.0


def test_a_name_with_spaces_and_parentheses_shifts_nothing() -> None:
    assert parse_cpu_seconds(f"10 (a ) b) (c d) {_AFTER_NAME}", 100) == 3.0


def test_resident_memory_is_found_by_name_in_bytes() -> None:
    assert parse_resident_bytes("Name:\tpython\nVmHWM:\t  999 kB\nVmRSS:\t   512 kB\nThreads:\t1\n") == 512 * 1024


def test_a_process_without_memory_is_gone() -> None:
    with pytest.raises(ProcessGone):
        parse_resident_bytes("Name:\tpython\nState:\tZ (zombie)\n")


def test_our_own_accounts_are_those_that_the_interpreter_knows() -> None:
    times = os.times()
    used = times.user + times.system
    assert used - 0.5 < cpu_seconds(os.getpid()) < used + 5.0
    assert resident_bytes(os.getpid()) > 1024 * 1024


def test_a_process_that_has_ended_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(30)
    with pytest.raises(ProcessGone):
        cpu_seconds(process.pid)
    with pytest.raises(ProcessGone):
        resident_bytes(process.pid)
