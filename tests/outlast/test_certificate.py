"""TLS as it is set up: what is refused, what a plain client is told, and a certificate that is renewed in service."""

from __future__ import annotations

import ssl
import warnings
from pathlib import Path

import pytest
import trio

from outlast.certificate import CertificateFiles, keep_fresh
from tests.certificates import Authority, serial_of
from tests.transport.serving import Client, get, post, serving, until
from transport.server import HttpServer

LOOK_SECONDS = 0.01


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> CertificateFiles:
    files = CertificateFiles(tmp_path / "chain.pem", tmp_path / "key.pem")
    authority.issue(files.certfile, files.keyfile)
    return files


async def secured(server: HttpServer, context: ssl.SSLContext) -> trio.SSLStream[trio.SocketStream]:
    below = await trio.open_tcp_stream(*server.addresses[0])
    stream = trio.SSLStream(below, context, server_hostname="localhost", https_compatible=True)
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def serial_shown(server: HttpServer, authority: Authority) -> int:
    async with await secured(server, authority.trusting()) as stream:
        assert (await Client(stream).ask(post(b"{}"))).status == 200
        return serial_of(stream._ssl_object)


@pytest.mark.parametrize("hot", [True, False], ids=["hot", "hypercorn"])
async def test_who_trusts_the_authority_is_served_and_who_does_not_goes(
    files: CertificateFiles, authority: Authority, hot: bool
) -> None:
    async with serving(tls=files.load(), hot=hot) as server:
        await serial_shown(server, authority)
        with pytest.raises(trio.BrokenResourceError):
            await secured(server, Authority().trusting())
        await serial_shown(server, authority)


def ancient(context: ssl.SSLContext) -> ssl.SSLContext:
    """Have a context speak TLS 1.1, which today's libraries have to be talked into."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1_1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


async def test_tls_1_1_is_refused(files: CertificateFiles, authority: Authority) -> None:
    async with serving(tls=files.load()) as server:
        with pytest.raises(trio.BrokenResourceError):
            await secured(server, ancient(authority.trusting()))


async def test_control_a_context_without_the_bound_speaks_tls_1_1(
    files: CertificateFiles, authority: Authority
) -> None:
    async with (
        serving(tls=ancient(files.load())) as server,
        await secured(server, ancient(authority.trusting())) as stream,
    ):
        assert stream.version() == "TLSv1.1"


async def test_plain_http_is_told_to_speak_https(files: CertificateFiles, authority: Authority) -> None:
    async with serving(tls=files.load()) as server:
        async with await trio.open_tcp_stream(*server.addresses[0]) as plain:
            client = Client(plain)
            answer = await client.ask(get())
            assert answer.status == 400
            assert b"https://" in answer.body
            assert await client.ended() == b""
        async with await trio.open_tcp_stream(*server.addresses[0]) as other:
            await other.send_all(b"\x00\x01\x02\x03 neither of both \r\n\r\n")
            assert b"HTTP" not in await Client(other).ended()
        await serial_shown(server, authority)


async def test_a_renewed_certificate_is_shown_to_new_connections_and_the_old_ones_go_on(
    files: CertificateFiles, authority: Authority
) -> None:
    loaded = files.state()
    async with serving(tls=files.load()) as server, trio.open_nursery() as nursery:
        renewals: list[ssl.SSLContext] = []

        def install(context: ssl.SSLContext) -> None:
            server.renew_tls(context)
            renewals.append(context)

        async def keep() -> None:
            await keep_fresh(files, loaded, install, look_seconds=LOOK_SECONDS)

        nursery.start_soon(keep)
        first = await serial_shown(server, authority)
        async with await secured(server, authority.trusting()) as older:
            client = Client(older)
            await client.ask(post(b"{}"))
            second = authority.issue(files.certfile, files.keyfile)
            await until(lambda: bool(renewals))
            assert await serial_shown(server, authority) == second
            assert first != second
            assert (await client.ask(post(b"still here"))).body == b"still here"
        nursery.cancel_scope.cancel()


async def test_a_renewal_before_the_first_look_is_not_missed(files: CertificateFiles, authority: Authority) -> None:
    loaded = files.state()
    async with serving(tls=files.load()) as server, trio.open_nursery() as nursery:
        second = authority.issue(files.certfile, files.keyfile)

        async def keep() -> None:
            await keep_fresh(files, loaded, server.renew_tls, look_seconds=LOOK_SECONDS)

        nursery.start_soon(keep)
        with trio.fail_after(10):
            while await serial_shown(server, authority) != second:  # noqa: ASYNC110
                await trio.sleep(LOOK_SECONDS)
        nursery.cancel_scope.cancel()


async def test_half_of_a_renewal_changes_nothing_until_the_rest_is_there(
    files: CertificateFiles, authority: Authority, tmp_path: Path
) -> None:
    loaded = files.state()
    async with serving(tls=files.load()) as server, trio.open_nursery() as nursery:

        async def keep() -> None:
            await keep_fresh(files, loaded, server.renew_tls, look_seconds=LOOK_SECONDS)

        nursery.start_soon(keep)
        first = await serial_shown(server, authority)
        renewed = CertificateFiles(tmp_path / "new-chain.pem", tmp_path / "new-key.pem")
        second = authority.issue(renewed.certfile, renewed.keyfile)
        renewed.certfile.replace(files.certfile)
        for _ in range(5):
            await trio.sleep(LOOK_SECONDS)
            assert await serial_shown(server, authority) == first
        files.keyfile.unlink()
        await trio.sleep(2 * LOOK_SECONDS)
        renewed.keyfile.replace(files.keyfile)
        with trio.fail_after(10):
            while await serial_shown(server, authority) != second:  # noqa: ASYNC110
                await trio.sleep(LOOK_SECONDS)
        nursery.cancel_scope.cancel()


async def test_a_server_without_tls_is_not_given_any(files: CertificateFiles) -> None:
    async with serving() as server:
        with pytest.raises(ValueError, match="does not speak TLS"):
            server.renew_tls(files.load())
