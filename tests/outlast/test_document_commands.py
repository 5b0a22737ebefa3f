"""What the documents tell readers to type works: scripts run, commands and configurations are understood.

A block fenced as ``sh run`` is run as it stands, in an empty folder, with `outlast` and the servers of the tests on its
PATH; port 8080 is a free one. A block ``text printed`` behind it is what it prints, ``...`` standing for whatever
differs from run to run. (Scripts that need a gateway at work are run beside one, see `RUN_ELSEWHERE`.) Every other
``sh`` block must be shell, and each of its commands one that its program understands. Configurations (``toml`` with a
table [outlast], ``json`` with commands for clients) are read, too.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pytest

from outlast.sources import SettingsInvalid, load_settings
from tests.outlast.command_lines import ROOT, parses, wrong_commands
from tests.outlast.test_documents import DOCUMENTS

RUN_SECONDS_MAX = 180.0  # against a hang; each takes a few seconds of a processor

# Documents whose scripts have a test of their own, since they need what a gateway holds.
RUN_ELSEWHERE = {"docs/administration.md": "tests/e2e/test_administration.py"}

_BLOCK = re.compile(r"^```(\w+)( run)?\n(.*?)^```\n(?:```text printed\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)


@attrs.frozen
class Block:
    """A fenced block of a document."""

    place: str  # document:line
    language: str
    is_run: bool
    text: str
    printed: str | None  # what it prints; None: the document does not say


def blocks_of(text: str, name: str) -> Iterator[Block]:
    """Give a document's blocks, each with its place."""
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(3))
        yield Block(f"{name}:{line}", match[1], bool(match[2]), match[3], match[4])


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document.read_text(), str(document.relative_to(ROOT)))]
RUN = [
    block
    for block in BLOCKS
    if block.language == "sh" and block.is_run and block.place.partition(":")[0] not in RUN_ELSEWHERE
]
SHELL = [block for block in BLOCKS if block.language == "sh"]
SETTINGS = [block for block in BLOCKS if block.language == "toml" and "[outlast]" in block.text]
CLIENTS = [block for block in BLOCKS if block.language == "json" and "ervers" in block.text]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run_script(text: str, folder: Path) -> tuple[int, str, str]:
    """Run a script as a reader would; end what it leaves behind. Give exit code, stdout and stderr."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "outlast").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m outlast "$@"\n')
    (programs / "outlast").chmod(0o755)
    place = folder / "place"
    place.mkdir()
    port = free_port()
    environment = {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OUTLAST_LISTEN": f"127.0.0.1:{port}",
        "OUTLAST_LOG_LEVEL": "error",
    }
    # Into files: what a script leaves running would hold a pipe open.
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            ["bash", "-eu", "-c", text.replace(":8080", f":{port}")],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        code = process.wait(timeout=RUN_SECONDS_MAX)
    finally:
        with suppress(ProcessLookupError):  # it left nothing behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return code, (folder / "out").read_text().replace(f":{port}", ":8080"), (folder / "err").read_text()


def is_as_printed(printed: str, out: str) -> bool:
    """Whether an output is what the document shows; ``...`` is anything in a line."""
    pattern = "[^\n]*".join(re.escape(part) for part in printed.split("..."))
    return re.fullmatch(pattern, out) is not None


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.place)
def test_scripts_run_and_print_what_is_said(block: Block, tmp_path: Path) -> None:
    code, out, err = run_script(block.text, tmp_path)
    assert code == 0, err
    if block.printed is not None:
        assert is_as_printed(block.printed, out), out


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_commands_are_understood_by_their_programs(block: Block) -> None:
    checked = subprocess.run(
        ["bash", "-n"], input=block.text, capture_output=True, text=True, timeout=RUN_SECONDS_MAX, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    assert wrong_commands(block.text) == []


SECRETS = "/run/secrets/"


@pytest.mark.parametrize("block", SETTINGS, ids=lambda block: block.place)
def test_configurations_are_read(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "outlast.toml"
    file.write_text(block.text.replace(SECRETS, f"{tmp_path}/"))
    for name in re.findall(rf"{SECRETS}(\w+)", block.text):  # which are there where they are deployed
        (tmp_path / name).write_text("a secret\n")
    try:
        load_settings(config=file, environment={}, flags={})
    except SettingsInvalid as invalid:
        pytest.fail("\n".join(invalid.lines))


def wrong_clients(text: str) -> list[str]:
    """Find what a client could not start or reach in its configuration."""
    document = json.loads(text)
    servers = document.get("mcpServers", document.get("servers", {}))
    return [name for name, server in servers.items() if not _is_reachable(server)] if servers else ["no servers"]


def _is_reachable(server: dict[str, object]) -> bool:
    match server:
        case {"command": "outlast" | "/opt/outlast/bin/outlast", "args": list() as arguments}:
            return parses([str(argument) for argument in arguments])
        case {"url": str() as url}:
            return re.fullmatch(r"https?://[\w.:-]+(/servers/\w+)?/(mcp|sse|ws)", url) is not None
    return False


@pytest.mark.parametrize("block", CLIENTS, ids=lambda block: block.place)
def test_configurations_of_clients_name_what_there_is(block: Block) -> None:
    assert wrong_clients(block.text) == []


def test_each_kind_of_block_is_found_in_the_documents() -> None:
    assert [len(blocks) > 0 for blocks in (RUN, SHELL, SETTINGS, CLIENTS)] == [True] * 4
    fenced = sum(len(re.findall(r"^```sh", document.read_text(), re.MULTILINE)) for document in DOCUMENTS)
    assert len(SHELL) == fenced


def test_a_script_that_fails_or_prints_something_else_is_found(tmp_path: Path) -> None:
    (block,) = blocks_of("# T\n\n```sh run\nfalse\necho 1\n```\n```text printed\n2\n```\n", "invented.md")
    assert (block.place, block.is_run, block.printed) == ("invented.md:3", True, "2\n")
    assert run_script(block.text, tmp_path)[0] == 1
    (tmp_path / "more").mkdir()
    assert run_script("sleep 600 &\necho left", tmp_path / "more") == (0, "left\n", "")  # and the sleeper is ended
    assert is_as_printed("took ... s\n", "took 0.1 s\n")
    assert not is_as_printed("took ... s\n", "took 0.1 s\nand more\n")


def test_commands_that_nobody_understands_are_found() -> None:
    assert wrong_commands("outlast serve --no-such-flag x  # a comment") == ["outlast serve --no-such-flag x"]
    assert wrong_commands("outlast sessions list\noutlast sessions lst") == ["outlast sessions lst"]
    assert wrong_commands("make no-such-target\nmake serve LISTEN=x") == ["make no-such-target"]
    assert wrong_commands("python -m bench calls --sesions 1; python gone.py") == [
        "python -m bench calls --sesions 1",
        "python gone.py",
    ]
    assert wrong_commands('X="$(outlast keygem)" outlast health > said.txt & rm -rf /') == [
        "outlast keygem",
        "rm -rf /",
    ]
    assert wrong_commands("say() { curl -s --no-such; }\nsay it") == ["curl -s --no-such"]


def test_a_client_s_configuration_that_leads_nowhere_is_found() -> None:
    assert wrong_clients('{"mcpServers": {"a": {"command": "outlast", "args": ["stdio", "--ur", "x"]}}}') == ["a"]
    assert wrong_clients('{"servers": {"b": {"url": "http://127.0.0.1:8080/"}}}') == ["b"]
    assert wrong_clients("{}") == ["no servers"]
