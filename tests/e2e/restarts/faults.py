"""The faults of the matrix: the gateway is killed or stopped, or its server is killed; then what ended comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from tests.e2e.gateway import Gateway
from tests.e2e.journal import Journal
from tests.e2e.restarts.matrix import Fault
from tests.e2e.upstream import Upstream
from tests.e2e.waiting import wait_until

FAULTS = ("kill", "stop", "upstream")


def gateway_ends(gateway: Gateway, *, at_once: bool) -> Fault:
    """The gateway ends and is started again, and the case goes on as soon as it serves."""

    async def strike_gateway(meanwhile: Callable[[], None]) -> None:
        if at_once:
            gateway.kill()
        else:
            assert await gateway.stop() == 0
        meanwhile()
        await gateway.start()

    return strike_gateway


def upstream_ends(upstream: Upstream) -> Fault:
    async def strike_upstream(meanwhile: Callable[[], None]) -> None:
        upstream.kill()
        meanwhile()
        await upstream.start()

    return strike_upstream


def stdio_servers_end(journal: Journal) -> Fault:
    """The gateway starts them again by itself, once it has noticed: what it sends before is in doubt."""

    async def strike_servers(meanwhile: Callable[[], None]) -> None:
        running = [process for process in journal.processes() if is_server(process, journal)]
        for process in running:
            os.kill(process, signal.SIGKILL)
        meanwhile()
        # Not looked for in the log, which says the same thing thirty times a minute, and then counts.
        await wait_until("the gateway reaped them", lambda: not any(map(is_there, running)))

    return strike_servers


def is_server(process: int, journal: Journal) -> bool:
    """Whether this is a server of the journal that runs: one of a session that has ended may have left its id to
    a process that is none of ours."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return str(journal.directory).encode() in command.split(b"\0")


def is_there(process: int) -> bool:
    """Whether a process runs, or has ended and is not reaped."""
    return Path(f"/proc/{process}").exists()
