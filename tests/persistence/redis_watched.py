"""A Redis primary with replicas, and the sentinels that watch it: real servers.

Sentinels and replicas are told of each other in their files, as they would write it there themselves: getting to know
each other takes them four seconds. A failover takes some two: half a second of silence, an election, the promotion.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence

import attrs

from tests.persistence.redis_servers import RedisServer, free_ports, programs, replicate, running, wait_for

SERVICE = "main"
SILENCE_MS = 500  # after which a sentinel takes a server for down


class SentinelServer(RedisServer):
    """One sentinel over all its runs."""

    def __init__(self, port: int, lines: Sequence[str], program: str = "") -> None:
        super().__init__(program, port=port)
        file = self.directory / "sentinel.conf"
        where = (f"port {port}", "bind 127.0.0.1", f"dir {self.directory}", f"unixsocket {self.socket}")
        file.write_text("\n".join((*where, *lines)) + "\n")
        self._command = [program or programs()["valkey"], str(file), "--sentinel"]

    def primary_port(self) -> int:
        """Give the port of the server that it takes for the primary."""
        return int(self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[1])


@attrs.frozen
class Watched:
    """A primary, its replicas, and sentinels."""

    servers: Sequence[RedisServer]
    sentinels: Sequence[SentinelServer]

    @property
    def primary(self) -> RedisServer:
        """The one that was made the primary."""
        return self.servers[0]

    @property
    def url(self) -> str:
        """A store URL that names the sentinels."""
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.sentinels)
        return f"redis+sentinel://{hosts}/0?service={SERVICE}"

    def wait_for_successor(self) -> RedisServer:
        """Wait until all sentinels have put another server in charge, and it is."""
        wait_for(lambda: self.primary.port not in self._named() and len(self._named()) == 1, "the failover")
        [port] = self._named()
        successor = next(server for server in self.servers if server.port == port)
        wait_for(lambda: successor.ask("ROLE")[0] == b"master", "the promotion")
        return successor

    def _named(self) -> set[int]:
        return {one.primary_port() for one in self.sentinels}


@contextlib.contextmanager
def watched(*, replicas: int = 1, options: Sequence[str] = (), program: str = "") -> Iterator[Watched]:
    """Have a primary, replicas and three sentinels run for the length of a block."""
    own = ("--repl-diskless-sync-delay", "0", *options)
    ports = free_ports(1 + replicas + 3)
    servers = [RedisServer(program, *own, port=port) for port in ports[: 1 + replicas]]
    sentinels = _sentinels(ports[: 1 + replicas], ports[1 + replicas :], program)
    with running(*servers):
        for replica in servers[1:]:
            replicate(servers[0], replica)
        with running(*sentinels):
            found = Watched(servers, sentinels)
            for sentinel in sentinels:
                wait_for(lambda sentinel=sentinel: _is_ready(sentinel, replicas), "the sentinel")
            yield found


def _sentinels(servers: Sequence[int], ports: Sequence[int], program: str) -> list[SentinelServer]:
    names = {port: secrets.token_hex(20) for port in ports}
    common = [
        f"sentinel monitor {SERVICE} 127.0.0.1 {servers[0]} 2",
        f"sentinel down-after-milliseconds {SERVICE} {SILENCE_MS}",
        f"sentinel failover-timeout {SERVICE} 4000",
        *(f"sentinel known-replica {SERVICE} 127.0.0.1 {port}" for port in servers[1:]),
    ]
    return [
        SentinelServer(
            port,
            [
                f"sentinel myid {names[port]}",
                *common,
                *(f"sentinel known-sentinel {SERVICE} 127.0.0.1 {one} {names[one]}" for one in ports if one != port),
            ],
            program,
        )
        for port in ports
    ]


def _is_ready(sentinel: SentinelServer, replicas: int) -> bool:
    """Whether it knows the others, and has seen that the servers are there."""
    words = sentinel.ask("SENTINEL", "MASTER", SERVICE)
    facts = dict(zip(words[::2], words[1::2], strict=True))
    rows = sentinel.ask("SENTINEL", "REPLICAS", SERVICE)
    up = [row for row in rows if b"ok" in row[row.index(b"master-link-status") + 1]]
    return facts[b"flags"] == b"master" and facts[b"num-other-sentinels"] == b"2" and len(up) == replicas
