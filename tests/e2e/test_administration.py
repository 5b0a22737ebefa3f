"""A running gateway's administration, as operators use it: over HTTP, by the command line, and by its own description.

Method: real processes; what the document tells readers to type is typed; else the command line runs in a thread of the
test, and asks the gateway over the network.
"""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import trio

from actors.ids import reference_of
from outlast.cli import main
from tests.e2e.bed import Bed
from tests.e2e.gateway import Gateway
from tests.e2e.raw_client import Json, RawClient

pytestmark = pytest.mark.one_road  # the administration is hypercorn's on either

ROOT = Path(__file__).parents[2]
SCRIPT_SECONDS_MAX = 120.0  # twelve commands, each an interpreter and a table
TOKEN = "an-operators-token-for-tests"
SCHEMATHESIS_EXAMPLES = 12  # for each operation and phase; more find nothing that these do not, and take minutes
SCHEMATHESIS_SECONDS_MAX = 180.0


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTLAST_OPERATORS_TOKEN", TOKEN)


async def gateway_of(bed: Bed) -> Gateway:
    return await bed.gateway(environment={"OUTLAST_OPERATORS_TOKEN": TOKEN}, plain=bed.lasting.plain.target)


async def run(gateway: Gateway, *arguments: str) -> int:
    url = f"http://{gateway.address}"
    return await trio.to_thread.run_sync(lambda: main([*arguments, "--url", url]))


async def run_json(capsys: pytest.CaptureFixture[str], gateway: Gateway, *arguments: str) -> Any:
    assert await run(gateway, *arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


async def ask(gateway: Gateway, path: str, *, token: str | None = TOKEN) -> tuple[int, Json]:
    client = RawClient(f"http://{gateway.address}{path}")
    headers = {"authorization": None if token is None else f"Bearer {token}"}
    answer = await client.whole("GET", headers=headers)
    return answer.status, answer.json


async def test_operators_see_and_change_sessions_of_a_running_gateway(
    bed: Bed, capsys: pytest.CaptureFixture[str]
) -> None:
    gateway = await gateway_of(bed)
    client = RawClient(gateway.url())
    await client.open_session()
    assert [await client.call("counter") for _ in range(2)] == ["1", "2"]
    reference = reference_of(client.session_id)

    listed = await run_json(capsys, gateway, "sessions", "list")
    assert [one["reference"] for one in listed["sessions"]] == [reference]
    tagged = await run_json(capsys, gateway, "sessions", "tag", reference, "beta", "--set", "owner=ops")
    assert tagged["details"]["tags"] == ["beta"]
    found = await run_json(capsys, gateway, "sessions", "list", "--tag", "beta")
    assert found["sessions"][0]["record"]["toolCalls"] == 2
    past = await run_json(capsys, gateway, "sessions", "history", reference)
    assert [call["tool"] for call in past["calls"]] == ["counter", "counter"]
    used = await run_json(capsys, gateway, "analytics")
    assert [(tool["tool"], tool["calls"]) for tool in used["tools"]] == [("counter", 2)]

    await run_json(capsys, gateway, "sessions", "reinitialize", reference)
    assert await client.call("counter") == "1"  # a new session of the server's; the client's own goes on
    await run_json(capsys, gateway, "sessions", "close", client.session_id)
    assert (await client.post_whole(client.request("ping"))).status == 404
    assert await run(gateway, "sessions", "show", reference) == 1
    assert "no session" in capsys.readouterr().err


async def test_notes_outlive_a_kill(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = await gateway_of(bed)
    client = RawClient(gateway.url())
    await client.open_session()
    await run_json(capsys, gateway, "sessions", "tag", client.session_id, "beta")
    gateway.kill()
    await gateway.start()
    shown = await run_json(capsys, gateway, "sessions", "show", client.session_id)

    assert shown["details"]["tags"] == ["beta"]


async def test_tables_are_for_people_and_hold_no_session_id(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = await gateway_of(bed)
    client = RawClient(gateway.url())
    await client.open_session()
    await client.call("counter")
    for command in (
        ("sessions", "list", "--records"),
        ("sessions", "show", client.session_id),
        ("analytics",),
        ("top",),
    ):
        assert await run(gateway, *command) == 0
        printed = capsys.readouterr().out
        assert client.session_id not in printed
        assert reference_of(client.session_id) in printed or command[0] != "sessions"


async def test_commands_of_the_document_run(bed: Bed, tmp_path: Path) -> None:
    gateway = await gateway_of(bed)
    await RawClient(gateway.url()).open_session()
    program = tmp_path / "outlast"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m outlast "$@"\n')
    program.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OUTLAST_LISTEN": gateway.address,
        "OUTLAST_OPERATORS_TOKEN": TOKEN,
    }
    scripts = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs/administration.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len(scripts) == 1

    def run_script() -> subprocess.CompletedProcess[str]:
        command = ["bash", "-euc", scripts[0]]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SCRIPT_SECONDS_MAX, check=False
        )

    ran = await trio.to_thread.run_sync(run_script)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.endswith("closed\n")


async def test_top_is_drawn_in_a_terminal_until_q_and_leaves_it_as_it_was(bed: Bed) -> None:
    gateway = await gateway_of(bed)
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "outlast", "top", "--url", f"http://{gateway.address}", "--every", "0.2"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    process = await trio.to_thread.run_sync(
        lambda: subprocess.Popen(command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    )
    try:
        drawn = b""
        while b"store lag" not in drawn:
            with trio.fail_after(SCRIPT_SECONDS_MAX):
                await trio.lowlevel.wait_readable(ours)
            drawn += os.read(ours, 65536)
        os.write(ours, b"q")
        assert await trio.to_thread.run_sync(lambda: process.wait(SCRIPT_SECONDS_MAX)) == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


async def test_list_of_a_store_that_no_gateway_uses(
    bed: Bed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:{tmp_path / 'kept.db'}"
    gateway = await bed.gateway(store=store, plain=bed.lasting.plain.target)
    client = RawClient(gateway.url())
    await client.open_session()
    command = ["sessions", "list", "--store", store, "--json"]
    assert await trio.to_thread.run_sync(lambda: main(command)) == 2
    assert "in use" in capsys.readouterr().err
    await gateway.stop()

    assert await trio.to_thread.run_sync(lambda: main(command)) == 0
    listed = json.loads(capsys.readouterr().out)["sessions"]
    assert [(one["reference"], one["server"]) for one in listed] == [(reference_of(client.session_id), "plain")]
    await gateway.start()
    assert (await client.post_whole(client.request("ping"))).status == 200


async def test_only_operators_get_in(bed: Bed, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = await gateway_of(bed)
    for path in ("/admin/sessions", "/admin/analytics", "/admin/openapi.json", "/admin/nothing"):
        assert (await ask(gateway, path, token=None))[0] == 401
        assert (await ask(gateway, path, token="another-token-altogether"))[0] == 401


async def test_the_description_holds_against_requests_made_from_it(bed: Bed, tmp_path: Path) -> None:
    """Good and bad requests are made for every operation; each answer must be one that is described.

    Once with sessions as they come, which nearly all are not found; once with one that is there (and is not closed).
    """
    gateway = await gateway_of(bed)
    await RawClient(gateway.url()).open_session()  # one that may be closed
    await trio.to_thread.run_sync(_schemathesis, gateway, tmp_path, "")
    client = RawClient(gateway.url())
    await client.open_session()
    await client.call("counter")
    known = f'[parameters]\n"path.session" = "{reference_of(client.session_id)}"\n'
    options = ("--exclude-operation-id", "closeSession", "--phases", "coverage,fuzzing")
    await trio.to_thread.run_sync(_schemathesis, gateway, tmp_path, known, *options)

    assert await client.call("counter") != ""


async def test_a_description_that_is_wrong_is_found(bed: Bed, tmp_path: Path) -> None:
    """One field of one answer is described as a text where it is a number."""
    gateway = await gateway_of(bed)
    _, description = await ask(gateway, "/admin/openapi.json")
    description["components"]["schemas"]["AnalyticsShown"]["properties"]["at"] = {"type": "string"}
    (tmp_path / "wrong.json").write_text(json.dumps(description))

    with pytest.raises(AssertionError, match="GET /admin/analytics"):
        await trio.to_thread.run_sync(
            lambda: _schemathesis(
                gateway, tmp_path, "", "--include-operation-id", "showAnalytics", description=tmp_path / "wrong.json"
            )
        )


# What a request that violates the description may be told: the defaults, and that it is too long to be read.
_REJECTIONS = """
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 414, 415, 422, 428, 429, "5xx"]
"""


def _schemathesis(
    gateway: Gateway, folder: Path, configuration: str, *options: str, description: Path | None = None
) -> None:
    (folder / "schemathesis.toml").write_text(configuration + _REJECTIONS)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml"), "run"]
    base = f"http://{gateway.address}"
    command += [f"{base}/admin/openapi.json"] if description is None else [str(description), "--url", base]
    command += ["--header", f"Authorization: Bearer {TOKEN}"]
    command += ["--max-examples", str(SCHEMATHESIS_EXAMPLES), "--seed", "1", "--no-color", *options]
    ran = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=SCHEMATHESIS_SECONDS_MAX, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
