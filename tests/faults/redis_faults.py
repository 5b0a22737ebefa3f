"""A Redis server that is killed, stopped, slow, full, emptied, fails over; and an owner that wakes after its lease.

A real server, made for each run. Those who commit to it are processes of their own, as in the rows on SQLite.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults import exits
from tests.faults.child import Child, HarnessFailed, run_to_end
from tests.faults.fault import Control, Fault, Trial
from tests.faults.ledger import read_ledger
from tests.faults.recovery import recover
from tests.faults.weaknesses import DEAF, EARLY, UNCONFIRMED, UNCOUNTED, UNFENCED, UNSEQUENCED
from tests.persistence.redis_servers import RedisServer, free_ports, replicate, running, wait_for
from tests.persistence.redis_watched import watched

_NOTED_MIN = 60
_MOMENT_SECONDS_MAX = 0.2
_STOPPED_SECONDS = 1.4  # the store gives an answer up after one second
_SLOW_SECONDS = (0.3, 0.6, 1.3)
_LAG_SECONDS = 0.5
_LAG_FACTS = 400
_LAG_FILLING_BYTES = 40_000  # what a stopped replica has not read yet fits into sockets' buffers, unless it is much
_MEMORY_BYTES = 24 << 20
_FILLINGS_BYTES = (20_000, 1_000, 200_000)


def kill_servers(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Kill the server under a writer, which goes on with the next one; then kill both."""
    for number in range(runs):
        # With `everysec` a server puts its writing off while a sync takes long, and loses that with its process.
        server, ledger = RedisServer("", "--appendfsync", "always"), folder / f"{number}.ledger"
        seconds = random.Random(number).uniform(0.0, _MOMENT_SECONDS_MAX)
        with running(server), Child(server.url, ledger, ("--weakness", weakness)) as child:
            for _ in range(2):
                child.wait_noted(_NOTED_MIN)
                time.sleep(seconds)  # the moment itself is what is tried
                server.kill()
                server.start()
            child.wait_noted(_NOTED_MIN)
            server.kill()
            child.kill()
            server.start()
            yield recover(server.url, ledger, at=f"three times, {seconds:.3f} s after {_NOTED_MIN} facts")


def stop_servers(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Stop the server for longer than an answer is waited for."""
    for number in range(runs):
        server, ledger = RedisServer(), folder / f"{number}.ledger"
        with running(server):
            with Child(server.url, ledger, ("--weakness", weakness)) as child:
                child.wait_noted(_NOTED_MIN)
                server.stop_answering()
                time.sleep(_STOPPED_SECONDS)  # that it is stopped for so long is what is tried
                server.answer_again()
                child.wait_noted(_NOTED_MIN)
            yield recover(server.url, ledger, at=f"{_STOPPED_SECONDS} s")


def slow_servers(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Let the server be busy with something else for a while, again and again."""
    for number in range(runs):
        server, ledger = RedisServer("", "--enable-debug-command", "local"), folder / f"{number}.ledger"
        with running(server):
            with Child(server.url, ledger, ("--weakness", weakness)) as child:
                for seconds in _SLOW_SECONDS:
                    child.wait_noted(_NOTED_MIN)
                    server.ask("DEBUG", "SLEEP", str(seconds))
                child.wait_noted(_NOTED_MIN)
            yield recover(server.url, ledger, at=f"up to {max(_SLOW_SECONDS)} s")


def fail_over(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Let the replica lag, kill the primary, promote the replica."""
    level = "" if weakness == UNCOUNTED else "?level=replicated&replicas=1"
    options = ("--filling-bytes", str(_LAG_FILLING_BYTES), "--weakness", weakness)
    for number in range(runs):
        ledger = folder / f"{number}.ledger"
        primary, replica = (RedisServer("", "--repl-diskless-sync-delay", "0", port=port) for port in free_ports(2))
        with running(primary, replica):
            replicate(primary, replica)
            with Child(primary.url + level, ledger, options) as child:
                child.wait_noted(_NOTED_MIN)
                replica.stop_answering()
                if level:
                    time.sleep(_LAG_SECONDS)  # nothing is told meanwhile that could be waited for
                else:
                    child.wait_noted(_LAG_FACTS)
                primary.kill()
            replica.answer_again()
            replica.ask("REPLICAOF", "NO", "ONE")
            wait_for(lambda replica=replica: b"role:master" in replica.ask("INFO", "replication"), "the promotion")
            yield recover(replica.url, ledger)


def suspend_primaries(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Suspend a writer and its primary, as a machine that has both; sentinels appoint another; both go on."""
    for number in range(runs):
        ledger = folder / f"{number}.ledger"
        with watched() as world, Child(world.url, ledger, ("--weakness", weakness)) as child:
            child.wait_noted(_NOTED_MIN)
            child.stop()
            world.primary.stop_answering()
            world.wait_for_successor()
            world.primary.answer_again()
            child.resume()
            child.wait_noted(_NOTED_MIN)
            child.kill()
            yield recover(world.url, ledger)


def fill_servers(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Fill the server's memory, end half of the sessions, write on."""
    for number in range(runs):
        ledger, size = folder / f"{number}.ledger", _FILLINGS_BYTES[number % len(_FILLINGS_BYTES)]
        sizes = ("--sessions", str(2 * _MEMORY_BYTES // size), "--filling-bytes", str(size))
        server = RedisServer("", "--maxmemory", str(_MEMORY_BYTES))
        with running(server):
            code = run_to_end(server.url, ledger, ("--kind", "filling", *sizes, "--weakness", weakness))
            broken = () if code == exits.DONE else (f"ended with {code}",)
            server.ask("CONFIG", "SET", "maxmemory", "0")  # for a look at what it holds
            yield recover(server.url, ledger, at=f"{size} bytes a session", broken=broken)


def empty_servers(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Empty the server under a writer: it must not go on as if there had never been a session."""
    for number in range(runs):
        server, ledger = RedisServer(), folder / f"{number}.ledger"
        with running(server), Child(server.url, ledger, ("--weakness", weakness)) as child:
            child.wait_noted(_NOTED_MIN)
            server.ask("FLUSHALL")
            yield Trial(len(read_ledger(ledger)), 0, _judge(child, exits.BROKEN, "although the server was emptied"))


def wake_zombies(folder: Path, weakness: str, runs: int) -> Iterator[Trial]:
    """Stop an owner for longer than its lease, let a successor write, wake the first one."""
    for number in range(runs):
        server, ledger = RedisServer(), folder / f"{number}.ledger"
        options = ("--kind", "leased", "--sessions", "4", "--weakness", weakness)
        with running(server):
            with Child(server.url, ledger, (*options, "--author", "first", "--pause-seconds", "0.01")) as first:
                first.wait_noted(_NOTED_MIN)
                first.stop()
                code = run_to_end(server.url, ledger, (*options, "--author", "second", "--revisions", "30"))
                if code != exits.DONE:
                    raise HarnessFailed(f"the successor ended with {code}")
                first.resume()
                broken = _judge(first, exits.FENCED, "although it had a successor")
            yield recover(server.url, ledger, broken=broken)


def _judge(child: Child, code: int, words: str) -> tuple[str, ...]:
    """See that a process ends, and how."""
    try:
        child.wait_noted(_NOTED_MIN)
    except HarnessFailed:
        ended = child.wait_end()
        return () if ended == code else (f"ended with {ended}",)
    return (f"went on {words}",)


_SENT_AGAIN = (Control(UNSEQUENCED, "log entries without sequences"),)

KILLED = Fault(
    "Redis: kill -9 of the server, and of the writer",
    "nothing acknowledged is lost or doubled",
    kill_servers,
    6,
    (Control(EARLY, "told before it is committed"),),
    control_runs=2,
)
STOPPED = Fault(
    "Redis: stopped (SIGSTOP) for longer than answers are waited for",
    "what is sent again is there once",
    stop_servers,
    3,
    _SENT_AGAIN,
    control_runs=1,
    quick_runs=0,
)
SLOW = Fault(
    "Redis: slow to answer, or too slow",
    "what is sent again is there once",
    slow_servers,
    3,
    _SENT_AGAIN,
    control_runs=1,
    quick_runs=0,
)
FAILED_OVER = Fault(
    "Redis: failover to a replica that lags",
    "nothing acknowledged at level `replicated` is lost",
    fail_over,
    4,
    (Control(UNCOUNTED, "level `redis`: no replica counted"),),
    control_runs=1,
    quick_runs=0,  # tests/persistence/test_redis_faults.py has it
)
SUSPENDED = Fault(
    "Redis: writer and primary suspended, a failover by Sentinel, both go on",
    "nothing acknowledged is lost, though the former primary takes what it is given",
    suspend_primaries,
    4,
    (Control(UNCONFIRMED, "sentinels not asked again"),),
    control_runs=1,
    quick_runs=0,  # tests/persistence/test_redis_watched.py has it
)
FULL = Fault(
    "Redis: out of memory, and on without a restart",
    "nothing acknowledged is lost; ends are taken, then new facts",
    fill_servers,
    3,
    (Control(DEAF, "told although refused"),),
    control_runs=1,
    quick_runs=0,
)
EMPTIED = Fault(
    "Redis: FLUSHALL",
    "it is noticed at once, and the process ends",
    empty_servers,
    3,
    (Control(UNFENCED, "no check of store and fence"),),
    control_runs=1,
    quick_runs=0,  # tests/persistence/test_redis_faults.py has it
)
ZOMBIE = Fault(
    "Redis: zombie owner, SIGSTOP past its lease, a successor, SIGCONT",
    "the successor's facts stay; the first one's next commit fails and ends it",
    wake_zombies,
    3,
    (Control(UNFENCED, "no check of store and fence"),),
    control_runs=1,
)
