"""Telling the service manager (systemd) how the process is: ready, stopping, alive.

The protocol of sd_notify(3) is one datagram to a socket whose name is in the environment: no library is needed for
it. Without that name nothing is told. Whether it arrives is nobody's concern here: a gateway serves its clients with
or without a manager that listens.

The sign of life is given by the event loop, so that a loop which stands still for good is noticed by the manager and
the process started again; what was acknowledged is durable, so that costs no session.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress

import trio

_SIGNS_PER_TIMEOUT = 3  # systemd asks for at least two; the third is for a loop that is busy for once


class ServiceManager:
    """The manager that started this process, if one did."""

    def __init__(self, address: str = "", *, watchdog_seconds: float = 0.0) -> None:
        """
        Args:
          address: of the manager's datagram socket, a path or an abstract name that begins with "@"; "": there is none.
          watchdog_seconds: without a sign of life for so long it starts the process again; 0: it asks for none.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_seconds = watchdog_seconds

    @classmethod
    def of(cls, environment: MutableMapping[str, str]) -> ServiceManager:
        """Find the manager in the environment, and take it out: child processes have no business with it."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        meant_for = environment.pop("WATCHDOG_PID", "")
        watched = microseconds.isdecimal() and meant_for in ("", str(os.getpid()))
        return cls(address, watchdog_seconds=int(microseconds) / 1e6 if watched else 0.0)

    def ready(self, status: str) -> None:
        """Tell that clients are served; `status` is shown to whoever asks the manager."""
        self._tell(f"READY=1\nSTATUS={_one_line(status)}")

    def stopping(self) -> None:
        """Tell that the process was asked to stop, and is on its way."""
        self._tell("STOPPING=1\nSTATUS=draining")

    async def give_signs_of_life(self) -> None:
        """Tell again and again that the event loop turns, until cancelled; return at once if nobody wants to know."""
        if not (self._address and self._watchdog_seconds):
            return
        while True:
            self._tell("WATCHDOG=1")
            await trio.sleep(self._watchdog_seconds / _SIGNS_PER_TIMEOUT)

    def _tell(self, facts: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.setblocking(False)  # a manager that does not read must not hold the loop
            manager.connect(self._address)
            manager.send(facts.encode())


def _one_line(text: str) -> str:
    return " ".join(text.split())
