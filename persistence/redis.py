"""The Redis store: sessions on a Redis or Valkey server (7.0 or newer): one, with replicas, watched, or a cluster.

What it promises: `store.py`. How sessions lie there, and the scripts: `redis_scripts.py`. What it does with them:
`redis_keeper.py`. How servers are found: `redis_nodes.py`, `redis_sentinels.py`. Here are the thread and connections.

- Connections are redis-py's, below its clients: a client sends some commands again by itself (measured: an append that
  was made twice), waits for a minute where a second was said, and hides which of its connections wrote; WAIT counts for
  that one. So there are no retries here: connecting and each read or write take a second at most, or the connection is
  closed and nothing is known of the outcome.
- One thread, one connection to each server, one job after another, as with the disk: the writer has one commit in
  flight anyway.

This is the only file that imports redis, and translates its errors.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import redis
import trio
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.retry import Retry

from persistence import redis_resealing, redis_scripts
from persistence.codec import Codec
from persistence.leases import Lease
from persistence.presence import Holder
from persistence.records import Batch, Fence, LogEntry, Quarantined, Snapshot, SnapshotHeader, StoreHealth
from persistence.redis_keeper import RedisKeeper
from persistence.redis_nodes import Declined, Nodes
from persistence.redis_sentinels import Sentinels
from persistence.redis_url import Endpoint, RedisPlace, read_redis_url
from persistence.resealing import Resealed, SealedWith
from persistence.store import StoreError, StoreUnavailable, StoreUrlInvalid
from persistence.worker import Worker

Result = TypeVar("Result")

# A tombstone keeps late writes of an ended session out; those come within seconds. A million of them is some 100 MB.
TOMBSTONES_MAX = 1_000_000

CONNECT_SECONDS = 1.0
SILENCE_SECONDS = 1.0  # of one read or write
SENTINEL_SECONDS = 0.5  # the same for sentinels, which do little: the others are asked

_STRANGER = "the user or password is refused"
_STRANGER_TO_SENTINEL = f"{_STRANGER}, or missing: sentinel_password in the URL, or REDIS_SENTINEL_PASSWORD"
_UNTRUSTED = (
    " The server's certificate must be for this name, and of an authority of this system or of the file that the URL"
    " names with ssl_ca_certs"
)

# redis-py takes the word away from these and gives a class instead. The others keep it.
_CODES: tuple[tuple[type[redis.RedisError], str], ...] = (
    (redis.exceptions.OutOfMemoryError, "OOM"),
    (redis.exceptions.NoScriptError, "NOSCRIPT"),
    (redis.exceptions.ReadOnlyError, "READONLY"),
    (redis.exceptions.NoPermissionError, "NOPERM"),
    (redis.exceptions.MovedError, "MOVED"),
    (redis.exceptions.AskError, "ASK"),
    (redis.exceptions.TryAgainError, "TRYAGAIN"),
    (redis.exceptions.MasterDownError, "MASTERDOWN"),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN"),
    (redis.exceptions.BusyLoadingError, "LOADING"),
    (redis.exceptions.AuthenticationError, "NOAUTH"),
)


class RedisStore:
    """Keeps sessions on a Redis or Valkey server. Made by `open`."""

    def __init__(self, place: RedisPlace, codec: Codec, tombstones_max: int) -> None:
        sentinels = Sentinels(place, functools.partial(_to_sentinel, place)) if place.sentinels else None
        nodes = Nodes(functools.partial(_to_server, place), seeker=sentinels)
        self._keeper = RedisKeeper(place, nodes, codec, _digest, tombstones_max)
        self._worker = Worker(f"redis {place.host or place.path or place.service}")
        self._closed = False
        self.url = place.shown
        self.survives = place.level

    @classmethod
    async def open(cls, url: str, *, codec: Codec | None = None, tombstones_max: int = TOMBSTONES_MAX) -> RedisStore:
        """Open the store that a URL names, or make it; what is kept under another prefix is not touched.

        Args:
          url: see `redis_url.py`.
          tombstones_max: how many ended sessions are remembered, about; the oldest are forgotten first.

        Raises:
          StoreUrlInvalid: the URL cannot be understood.
          StoreInvalid: the server is not fit to keep sessions (the message says what to set), or what is there is of
            another format. Nothing was written.
          StoreUnavailable, StoreFull: it does not answer, or has no room.
        """
        place = read_redis_url(url)
        _check_files(place)
        store = cls(place, codec or Codec(), tombstones_max)
        try:
            await store._worker.run(store._keeper.open)
        except BaseException:
            await store.aclose()
            raise
        return store

    def __repr__(self) -> str:
        return f"<RedisStore {self.url}{' closed' if self._closed else ''}>"

    async def claim(self, owner: str) -> Fence:
        """Become the one owner of all partitions."""
        return await self._run(self._keeper.claim, owner)

    async def acquire(self, partition: int, owner: str, *, ttl_seconds: float) -> Lease:
        """Become the owner of one partition for a while, by the server's clock."""
        return await self._run(self._keeper.leases.acquire, partition, owner, ttl_seconds)

    async def renew(self, lease: Lease, *, ttl_seconds: float) -> Lease:
        """Prolong a lease, by the server's clock."""
        return await self._run(self._keeper.leases.renew, lease, ttl_seconds)

    async def release(self, lease: Lease) -> None:
        """Give a lease back."""
        await self._run(self._keeper.leases.release, lease)

    def lease_margin_seconds(self) -> float | None:
        """Give the time until the first lease runs out; with the store claimed, until its owner is taken for gone."""
        return self._keeper.leases.margin.seconds()

    async def tend(self, fence: Fence) -> None:
        """Say that the owner is there, and see that all it wrote is."""
        await self._run(self._keeper.tend, fence)

    async def holder(self) -> Holder | None:
        """Give another owner that is there."""
        return await self._run(self._keeper.leases.holder)

    async def commit(self, batch: Batch) -> None:
        """Write the batch; encoding takes place in the store's thread."""
        await self._run(self._keeper.commit, batch)

    async def load(self, session_id: str) -> Snapshot | None:
        """Give the stored snapshot, checked against its checksum."""
        return await self._run(self._keeper.load, session_id)

    async def read_log(self, session_id: str, *, stream: int, after: int, limit: int) -> Sequence[LogEntry]:
        """Give a stream's entries after an offset."""
        return await self._run(self._keeper.read_log, session_id, stream, after, limit)

    async def scan(self, *, after: int = 0, limit: int = 10_000) -> tuple[Sequence[SnapshotHeader], int | None]:
        """Give a page of headers, by partitions."""
        return await self._run(self._keeper.scan, after, limit)

    async def quarantined(self) -> Sequence[Quarantined]:
        """List what was set aside."""
        return await self._run(self._keeper.quarantined)

    async def probe(self) -> StoreHealth:
        """Write and read, and look at how the servers are set up."""
        return await self._run(self._keeper.probe)

    async def obstacles(self) -> Mapping[str, str]:
        """Give the sessions that cannot be opened here, and why."""
        return await self._run(lambda: self._keeper.resealing.obstacles(self._keeper.codec))

    async def sealed_with(self) -> Sequence[SealedWith]:
        """Count the records by key."""
        return await self._run(self._keeper.resealing.sealed_with)

    async def reseal(self, fence: Fence, *, after: str = "") -> Resealed:
        """Seal some of the records anew."""
        return await self._run(lambda: self._keeper.resealing.reseal(fence, self._keeper.codec, after))

    async def aclose(self) -> None:
        """Close the connections.

        Cancellation: closes all the same. It waits for the job in the thread, which has its timeouts.
        """
        if self._closed:
            await trio.lowlevel.checkpoint()
            return
        self._closed = True
        with trio.CancelScope(shield=True):
            with contextlib.suppress(StoreError):  # it counts as gone soon without that
                await self._worker.run(self._keeper.leases.leave)
            await self._worker.run(self._keeper.nodes.close)
        self._worker.stop()

    async def _run(self, function: Callable[..., Result], *arguments: object) -> Result:
        if self._closed:
            raise trio.ClosedResourceError(f"{self.url} is closed")
        return await self._worker.run(functools.partial(function, *arguments))


class _Channel:
    """A connection to one server. Opened by the first command.

    Args:
      shown: what the server is called in errors.
      connection: redis-py's.
      teaches: whether the server is to know the scripts before the first command.
      stranger: what to say where the user or password is refused.
    """

    def __init__(self, shown: str, connection: Any, *, teaches: bool, stranger: str = _STRANGER) -> None:
        self._shown = shown
        self._connection = connection
        self._teaches = teaches
        self._stranger = stranger
        self.opened = 0

    def send(self, commands: Sequence[tuple[bytes | str | int | float, ...]]) -> None:
        self._drop_what_ended()
        try:
            if not self._connection.is_connected:
                self._connection.connect()
                self.opened += 1
                if self._teaches:
                    self._teach()
            self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        except (redis.RedisError, OSError) as error:
            raise self._failed(error) from error

    def receive(self) -> object:
        try:
            answer: object = self._connection.read_response(disable_decoding=True)
        except (redis.ResponseError, redis.exceptions.BusyLoadingError, redis.AuthenticationError) as error:
            return _declined(error)
        except (redis.RedisError, OSError) as error:
            raise self._failed(error) from error
        return answer

    def close(self) -> None:
        self._connection.disconnect()

    def _drop_what_ended(self) -> None:
        """Let go of a connection that the server has ended, as it does when it is started anew.

        Nobody has been asked anything yet, so the question can go over a new one, and need not fail. What can be read
        here is the end, or an answer that nobody waits for.
        """
        try:
            ended = self._connection.is_connected and self._connection.can_read(timeout=0)
        except (redis.RedisError, OSError):
            ended = True
        if ended:
            self.close()

    def _teach(self) -> None:
        """Have the server know all scripts: it may have been started anew since it last did."""
        commands = [("SCRIPT", "LOAD", script) for script in (*redis_scripts.ALL, *redis_resealing.SCRIPTS)]
        self._connection.send_packed_command(self._connection.pack_commands(commands), check_health=False)
        for _ in commands:
            self.receive()  # one that was declined is found missing when it is asked for

    def _failed(self, error: Exception) -> StoreUnavailable:
        self.close()
        # Only what kind it was where the text may repeat what the URL says.
        text = str(error) if not isinstance(error, redis.AuthenticationError) else self._stranger
        hint = _UNTRUSTED if "CERTIFICATE_VERIFY_FAILED" in text else ""
        return StoreUnavailable(f"{self._shown}: {text or type(error).__name__}{hint}")


def _check_files(place: RedisPlace) -> None:
    """See whether the certificates can be read: redis-py says "No such file" of the connection, and not which."""
    for name, path in place.files.items():
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise StoreUrlInvalid(f"the URL of a Redis store: the file of {name}: {error.strerror}") from None


def _to_server(place: RedisPlace, endpoint: Endpoint | None) -> _Channel:
    """Make the channel to a server that keeps sessions; None: to where the URL says."""
    options = _options(place.username, place.password, CONNECT_SECONDS, SILENCE_SECONDS) | {"db": place.database}
    if place.path and endpoint is None:
        make: Any = UnixDomainSocketConnection
        return _Channel(place.shown, make(path=place.path, **options), teaches=True)
    connection = _connection(place, endpoint or Endpoint(place.host, place.port), options)
    return _Channel(place.shown if endpoint is None else str(endpoint), connection, teaches=True)


def _to_sentinel(place: RedisPlace, endpoint: Endpoint) -> _Channel:
    """Make the channel to a sentinel. It has a user and password of its own, and is never told the servers'."""
    options = _options(place.sentinel_username, place.sentinel_password, SENTINEL_SECONDS, SENTINEL_SECONDS)
    connection = _connection(place, endpoint, options)
    return _Channel(str(endpoint), connection, teaches=False, stranger=_STRANGER_TO_SENTINEL)


def _connection(place: RedisPlace, endpoint: Endpoint, options: Mapping[str, Any]) -> Any:
    """Make redis-py's connection to a host; it is not opened yet."""
    # Typed as anything: redis-py's own types fit neither its classes nor their arguments.
    make: Any = SSLConnection if place.over_tls else Connection
    files = place.files if place.over_tls else {}
    return make(host=endpoint.host, port=endpoint.port, socket_keepalive=True, **options, **files)


def _options(
    username: str | None, password: str | None, connect_seconds: float, silence_seconds: float
) -> dict[str, Any]:
    return {
        "username": username,
        "password": password,
        "socket_timeout": silence_seconds,
        "socket_connect_timeout": connect_seconds,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_timeout": False,
        "health_check_interval": 0,
        "protocol": 2,
        "client_name": "outlast",
        "driver_info": None,
    }


def _declined(error: redis.RedisError) -> Declined:
    text = str(error)
    for kind, code in _CODES:
        if isinstance(error, kind):
            return Declined(code, text)
    word, _, rest = text.partition(" ")
    return Declined(word, rest) if word.isupper() else Declined("ERR", text)


@functools.cache
def _digest(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
