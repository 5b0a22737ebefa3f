"""What a service manager hears of the process, over a real datagram socket."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from outlast.process import serve_until_told
from outlast.service_manager import ServiceManager
from outlast.settings import Settings
from tests.outlast.fake_gateway import FakeGateway


class Listening:
    """A manager's side of the protocol."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(address)

    def heard(self) -> list[str]:
        told = []
        while True:
            try:
                told.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def listening(address: str) -> Iterator[Listening]:
    manager = Listening(address)
    yield manager
    manager.close()


async def test_the_manager_hears_ready_then_stopping(address: str, listening: Listening) -> None:
    heard_while_draining: list[str] = []

    async def drain() -> None:
        await wait_all_tasks_blocked()
        heard_while_draining.extend(listening.heard())

    gateway = FakeGateway(while_draining=drain)

    def announce(_: object) -> None:
        assert listening.heard() == []  # not before clients can come
        signal.raise_signal(signal.SIGTERM)

    await serve_until_told(Settings(), gateway, announce, manager=ServiceManager(address))
    assert heard_while_draining == [
        "READY=1\nSTATUS=outlast: listening on http://127.0.0.1:8080 (3 sessions restored, 1 uninitialized, 0.25 s)",
        "STOPPING=1\nSTATUS=draining",
    ]


async def test_signs_of_life_come_three_times_as_often_as_asked_for(
    address: str, listening: Listening, autojump_clock: MockClock
) -> None:
    manager = ServiceManager(address, watchdog_seconds=30.0)
    with trio.move_on_after(60.5):
        await manager.give_signs_of_life()
    assert listening.heard() == ["WATCHDOG=1"] * 7


async def test_no_sign_of_life_is_given_to_who_asks_for_none(address: str, listening: Listening) -> None:
    await ServiceManager(address).give_signs_of_life()
    assert listening.heard() == []


def test_the_manager_is_taken_out_of_the_environment() -> None:
    watched = {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
    environment = {"NOTIFY_SOCKET": "/run/notify", **watched, "A": ""}
    manager = ServiceManager.of(environment)
    assert environment == {"A": ""}
    assert manager._watchdog_seconds == 30.0


@pytest.mark.parametrize("microseconds", ["", "x", "-3", "3.5"])
def test_what_is_no_interval_is_none(microseconds: str) -> None:
    assert ServiceManager.of({"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": microseconds})._watchdog_seconds == 0.0


def test_an_interval_for_another_process_is_not_ours() -> None:
    environment = {"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert ServiceManager.of(environment)._watchdog_seconds == 0.0


def test_abstract_names_are_understood() -> None:
    name = f"outlast-test-{os.getpid()}"
    manager = Listening("\0" + name)
    try:
        ServiceManager(f"@{name}").ready("two\nlines")
        assert manager.heard() == ["READY=1\nSTATUS=two lines"]
    finally:
        manager.close()


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    ServiceManager(str(tmp_path / "nobody")).ready("served all the same")


def test_a_manager_that_does_not_read_holds_nobody_up(address: str, listening: Listening) -> None:
    manager = ServiceManager(address)
    for _ in range(10_000):  # more than the socket's queue takes
        manager.ready("x")
    assert listening.heard()
