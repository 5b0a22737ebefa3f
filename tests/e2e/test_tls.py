"""The whole gateway behind TLS: both roads, the SDK's client, sessions over a restart, `outlast health`, a renewal."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path

import httpx2
import pytest
import trio

from tests.certificates import Authority
from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.process import ChildProcess
from tests.e2e.sdk_client import sdk_client
from tests.e2e.test_oauth import Bearer
from tests.e2e.test_owners import token_of, tokens_setting
from tests.e2e.waiting import wait_until_asked


class Behind:
    """A gateway behind TLS, and who trusts it."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority()
        self.certfile, self.keyfile = directory / "chain.pem", directory / "key.pem"
        self.cafile = self.authority.write(directory / "authority.pem")
        self.authority.issue(self.certfile, self.keyfile)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OUTLAST_CERTFILE": str(self.certfile),
            "OUTLAST_KEYFILE": str(self.keyfile),
            **tokens_setting(["ann"]),
        }


@pytest.fixture
def behind(tmp_path: Path) -> Behind:
    return Behind(tmp_path)


async def health_of(gateway: Gateway, *flags: str) -> tuple[int, str]:
    process = ChildProcess("outlast", ["health", "--url", gateway.url(), *flags])
    code = await trio.to_thread.run_sync(process.wait_exit)
    return code, process.stdout + process.stderr


async def test_the_sdk_s_client_and_the_health_command_verify_the_gateway(bed: Bed, behind: Behind) -> None:
    gateway = await bed.gateway(environment=behind.environment, plain=bed.lasting.plain.target)
    assert gateway.url().startswith("https://")
    trusting = behind.authority.trusting()
    async with sdk_client(gateway.url(), auth=Bearer(token_of("ann")), verify=trusting) as peer:
        assert await peer.call("counter") == "1"
        gateway.kill()
        await gateway.start()
        assert await peer.call("counter") == "2"
    code, said = await health_of(gateway, "--cafile", str(behind.cafile))
    assert code in (0, 1), said  # it was let in; how well the gateway is, is not asked here: the machine may be busy
    code, said = await health_of(gateway)
    assert (code, "CERTIFICATE_VERIFY_FAILED" in said) == (2, True), said
    code, said = await health_of(gateway, "--cafile", str(behind.keyfile))
    assert (code, "--cafile" in said) == (2, True), said


async def test_a_client_that_does_not_trust_the_authority_sends_no_token(bed: Bed, behind: Behind) -> None:
    gateway = await bed.gateway(environment=behind.environment, plain=bed.lasting.plain.target)
    async with httpx2.AsyncClient(verify=Authority().trusting()) as http:
        with pytest.raises(httpx2.ConnectError):
            await http.get(gateway.url())


async def test_a_renewed_certificate_is_served_without_a_restart(bed: Bed, behind: Behind, tmp_path: Path) -> None:
    gateway = await bed.gateway(environment=behind.environment, plain=bed.lasting.plain.target)
    pid = gateway.process.pid
    renewing = Authority()
    renewing.issue(tmp_path / "new-chain.pem", tmp_path / "new-key.pem")
    (tmp_path / "new-key.pem").replace(behind.keyfile)
    (tmp_path / "new-chain.pem").replace(behind.certfile)

    async def is_trusted_by_who_trusts_the_new_one() -> bool:
        return await _reaches(gateway, renewing.trusting())

    await wait_until_asked("the new certificate is shown", is_trusted_by_who_trusts_the_new_one)
    assert not await _reaches(gateway, behind.authority.trusting())
    assert gateway.process.pid == pid


async def _reaches(gateway: Gateway, trusting: ssl.SSLContext) -> bool:
    async with httpx2.AsyncClient(verify=trusting) as http:
        try:
            return (await http.get(gateway.url())).status_code == 401
        except httpx2.ConnectError:
            return False


async def test_files_that_do_not_belong_together_stop_the_start(behind: Behind, tmp_path: Path) -> None:
    Authority().issue(tmp_path / "other-chain.pem", tmp_path / "other-key.pem")
    arguments = ["serve", "--listen", "127.0.0.1:0", "--store", "memory:", "--server", f"it=stdio:{sys.executable}"]
    arguments += ["--certfile", str(behind.certfile), "--keyfile", str(tmp_path / "other-key.pem")]
    process = ChildProcess("outlast", arguments)
    assert await trio.to_thread.run_sync(process.wait_exit) == 2
    assert "certfile" in process.stderr
    assert "Traceback" not in process.stderr
