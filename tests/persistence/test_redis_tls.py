"""A Redis store over TLS: the server is who it says it is, or nothing is sent to it; the error says what to do."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from persistence.records import Batch
from persistence.redis import RedisStore
from persistence.store import StoreUnavailable, StoreUrlInvalid
from tests.persistence.making import snapshot
from tests.persistence.redis_servers import RedisServer, running
from tests.persistence.tls_front import Authority, tls_front

HERE = "127.0.0.1"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    server = RedisServer()
    with running(server):
        server.ask("CONFIG", "SET", "requirepass", "hunter2")
        yield server


@contextlib.contextmanager
def sentinel(path: Path, primary_port: int) -> Iterator[list[bytes]]:
    """Answer on a socket as a sentinel does that names this primary; give what was heard."""
    heard: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = listener.accept()
                with accepted:
                    while asked := accepted.recv(4096):
                        heard.append(asked)
                        accepted.sendall(answer(asked))

    def answer(asked: bytes) -> bytes:
        if b"GET-MASTER-ADDR-BY-NAME" not in asked:
            return b"+OK\r\n"  # AUTH, CLIENT SETNAME
        port = str(primary_port).encode()
        facts = b"*4\r\n$12\r\nconfig-epoch\r\n$1\r\n1\r\n$23\r\ndown-after-milliseconds\r\n$3\r\n500\r\n"
        return facts + b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%s\r\n" % (len(port), port)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield heard
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


def url(port: int, **files: Path) -> str:
    options = "&".join(f"{name}={path}" for name, path in files.items())
    return f"rediss://:hunter2@{HERE}:{port}{'?' if options else ''}{options}"


async def refused(where: str) -> str:
    """Fail to open a store; give what is said."""
    with trio.fail_after(20), pytest.raises(StoreUnavailable) as caught:
        await RedisStore.open(where)
    said = str(caught.value)
    assert "hunter2" not in said
    return said


async def test_sessions_are_kept_over_tls(server: RedisServer, authority: Authority) -> None:
    with tls_front(server.socket, authority.issue("server", HERE)) as front:
        store = await RedisStore.open(url(front.port, ssl_ca_certs=authority.file))
        assert store.url == f"rediss://{HERE}:{front.port}"
        await store.commit(Batch(await store.claim("test"), (snapshot(),)))
        assert await store.load("s") == snapshot()
        await store.aclose()
        assert front.accepted == 1


async def test_sentinels_and_the_primary_are_both_spoken_to_over_tls(
    server: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    certificate = authority.issue("server", HERE)
    with tls_front(server.socket, certificate) as front, sentinel(tmp_path / "sentinel", front.port) as heard:
        with tls_front(tmp_path / "sentinel", certificate) as before:
            options = f"service=main&sentinel_password=hunter3&ssl_ca_certs={authority.file}"
            store = await RedisStore.open(f"rediss+sentinel://:hunter2@{HERE}:{before.port}/0?{options}")
            assert store.url == f"rediss+sentinel://{HERE}:{before.port}?service=main"
            await store.commit(Batch(await store.claim("test"), (snapshot(),)))
            assert (await store.probe()).primary == f"{HERE}:{front.port}"
            await store.aclose()
            said = await refused(f"rediss+sentinel://:hunter2@{HERE}:{before.port}/0?service=main")
            assert "certificate" in said
        assert (front.accepted, before.accepted) == (1, 1)
    assert b"hunter3" in b"".join(heard), "the sentinels' password"
    assert b"hunter2" not in b"".join(heard), "the primary's"


async def test_a_server_of_another_authority_is_refused(
    server: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other")
    with tls_front(server.socket, other.issue("server", HERE)) as front:
        said = await refused(url(front.port, ssl_ca_certs=authority.file))
        assert "certificate" in said
        assert "ssl_ca_certs" in said
        assert "certificate" in await refused(url(front.port)), "nor do the system's authorities know it"


async def test_a_server_with_another_name_is_refused(server: RedisServer, authority: Authority) -> None:
    with tls_front(server.socket, authority.issue("server", "10.9.8.7")) as front:
        said = await refused(url(front.port, ssl_ca_certs=authority.file))
        assert "certificate" in said
        assert HERE in said


async def test_a_server_that_asks_for_a_certificate_is_shown_ours(
    server: RedisServer, authority: Authority, tmp_path: Path
) -> None:
    clients = Authority(tmp_path, "clients")
    ours = clients.issue("gateway")
    with tls_front(server.socket, authority.issue("server", HERE), clients=clients.file) as front:
        known = {"ssl_ca_certs": authority.file}
        store = await RedisStore.open(url(front.port, **known, ssl_certfile=ours, ssl_keyfile=ours))
        await store.probe()
        await store.aclose()
        await refused(url(front.port, **known))


async def test_a_server_without_tls_is_refused_and_told_no_password(authority: Authority) -> None:
    heard: list[bytes] = []

    def listen(listener: socket.socket) -> None:
        accepted, _ = listener.accept()
        with accepted:
            heard.append(accepted.recv(4096))
            accepted.sendall(b"-ERR unknown command\r\n")

    with socket.create_server((HERE, 0)) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, listen, listener)
            await refused(url(listener.getsockname()[1], ssl_ca_certs=authority.file))
    assert b"hunter2" not in heard[0]


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile", "ssl_keyfile"])
async def test_a_file_that_is_not_there_is_named_by_its_option(option: str, tmp_path: Path) -> None:
    with pytest.raises(StoreUrlInvalid, match=f"{option}: No such file") as caught:
        await RedisStore.open(url(1, **{option: tmp_path / "nothing.pem"}))
    assert "hunter2" not in str(caught.value)
