"""The command line: one line for each thing that is wrong, exit codes, nothing written, the ready line.

Method: `main` runs in this process with a fake gateway; what only a process of its own can show (signals that
end it, how long it takes) is in test_process.py.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from pathlib import Path

import pytest
import structlog
import trio

from outlast.advice import advice
from outlast.cli import main
from outlast.endings import StartRefused
from outlast.preflight import check_start
from outlast.settings import Settings
from outlast.targets import HttpTarget, StdioTarget
from outlast.urls import Address
from persistence.store import (
    FenceLost,
    StoreBroken,
    StoreDamaged,
    StoreFull,
    StoreInUse,
    StoreInvalid,
    StoreReplaced,
    StoreUnavailable,
)
from tests.outlast.fake_gateway import FakeGateway, failing

SERVER = ("--server", "stdio:sh")  # a program that is everywhere
FREE = ("--listen", "127.0.0.1:0")


async def ask_to_stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 2) -> list[str]:
    """Run a command that is refused, and give its lines on stderr."""
    assert main(arguments, serve=FakeGateway(while_serving=ask_to_stop)) == code
    written = capsys.readouterr()
    assert written.out == ""
    return written.err.splitlines()


def test_ready_is_one_line_on_stdout(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = FakeGateway(while_serving=ask_to_stop)

    assert main(["serve", *SERVER, *FREE], serve=gateway) == 0
    ready = "outlast: listening on http://127.0.0.1:8080 (3 sessions restored, 1 uninitialized, 0.25 s)\n"
    assert capsys.readouterr().out == ready
    assert gateway.journal == ["starting", "ready", "draining", "stopped"]


def test_serve_gets_the_settings(place: Path) -> None:
    gateway = FakeGateway(while_serving=ask_to_stop)
    (place / "outlast.toml").write_text("[outlast]\nsessions_max = 5\n")
    flags = ["--config", "outlast.toml", "--store", "memory:", "--session-ttl-seconds", "60"]

    assert main(["serve", "--server", "a=stdio:sh -c x", "--server", "b=stdio:sh", *FREE, *flags], serve=gateway) == 0
    settings = gateway.settings
    assert settings is not None
    assert settings.servers == {"a": StdioTarget(("sh", "-c", "x")), "b": StdioTarget(("sh",))}
    assert settings.listen == Address("127.0.0.1", 0)
    assert (settings.store, settings.session_ttl_seconds, settings.sessions_max) == ("memory:", 60, 5)


def test_an_unknown_flag_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, "serve", "--lisen", "x")

    assert line.startswith("outlast: No such option '--lisen'")
    assert line.endswith("see outlast serve --help")


def test_an_unknown_command_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, "sevre")

    assert "sevre" in line
    assert line.endswith("see outlast --help")


def test_a_flag_without_its_value_is_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, "serve", "--listen")

    assert line == "outlast: Option '--listen' requires an argument; see outlast COMMAND --help"


def test_every_mistake_in_the_configuration_is_a_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(capsys, "serve", "--config", "no\nfile.toml", "--listen", "x", "--store", "y")

    assert [line.partition(":")[0] for line in lines] == ["outlast"] * 3


def test_no_server_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, "serve", *FREE)

    assert "--server" in line


def test_a_program_that_is_not_there_is_refused_and_nothing_written(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = refused(capsys, "serve", "--server", "time=stdio:no-such-program --x", *FREE)

    assert line == ("outlast: server 'time': there is no program 'no-such-program'; install it, or give its full path")
    assert list(place.iterdir()) == []


def test_a_file_that_is_no_program_is_not_said_to_be_missing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "server.py").write_text("print()\n")
    (line,) = refused(capsys, "serve", "--server", "time=stdio:./server.py --x", *FREE)

    assert line == (
        "outlast: server 'time': './server.py' is no program that this user may run; make it executable, or put its"
        " interpreter in front"
    )


def test_a_configuration_that_cannot_be_read_says_what_to_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, why in (("nothing.toml", "No such file or directory"), (".", "Is a directory")):
        (line,) = refused(capsys, "serve", "--config", name, *SERVER)

        assert line == f"outlast: {name}: the configuration cannot be read: {why}: name another file, or mend this one"
    assert list(place.iterdir()) == []


def test_help_names_every_kind_of_target(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    described = " ".join(capsys.readouterr().out.split())

    for kind in ("http(s)://", "sse+http(s)://", "ws(s)://", "stdio:"):
        assert kind in described


def test_a_port_in_use_is_refused_before_anything_is_started(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (line,) = refused(capsys, "serve", *SERVER, "--listen", f"127.0.0.1:{port}")

    assert line.startswith(f"outlast: cannot listen on 127.0.0.1:{port}: the port is in use")
    assert list(place.iterdir()) == []


def test_a_port_that_was_taken_after_the_look_is_refused_in_the_same_words(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = failing(OSError(errno.EADDRINUSE, "Address already in use"))

    assert main(["serve", *SERVER, *FREE], serve=FakeGateway(before_ready=taken)) == 2
    assert capsys.readouterr().err.startswith("outlast: cannot listen on 127.0.0.1:0: the port is in use")


def test_a_host_that_is_not_here_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = refused(capsys, "serve", *SERVER, "--allow-anonymous", "--listen", "192.0.2.1:80")  # TEST-NET-1

    assert "no such address" in line


def test_a_store_whose_place_cannot_be_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "file").write_text("")
    (line,) = refused(capsys, "serve", *SERVER, *FREE, "--store", "sqlite:file/outlast.db")
    assert "file is not a directory" in line

    (line,) = refused(capsys, "serve", *SERVER, *FREE, "--store", "sqlite:.")
    assert "is a directory" in line
    assert [path.name for path in place.iterdir()] == ["file"]


def test_a_store_where_this_user_may_not_write_is_refused(place: Path) -> None:
    settings = Settings(servers={"a": StdioTarget(("sh",))}, listen=Address("127.0.0.1", 0))

    with pytest.raises(StartRefused, match="this user may not write to"):
        # data/ is not there yet: it is to be made here
        check_start(settings, may_write=lambda directory: directory != Path())
    check_start(settings, may_write=lambda directory: directory == Path())


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (StoreInUse("./data is used by process 7: stop it"), 2, "is used by process 7"),
        (StoreInvalid("it has format 9"), 2, "store: it has format 9"),
        (StoreUnavailable("no route"), 2, "cannot be reached"),
        (StoreDamaged("page 7; bring back a backup"), 2, "store is damaged: page 7; bring back a backup"),
        (StoreFull("no space left"), 2, "no room"),
        (StoreBroken("fsync: EIO"), 3, "device failed"),
        (StoreReplaced("redis was emptied"), 3, "contents have gone: redis was emptied; bring them back"),
        (PermissionError(errno.EACCES, "Permission denied", "data"), 2, "may not listen"),
        (OSError(errno.EROFS, "Read-only file system", "data"), 2, "cannot start"),
        (StartRefused("say this"), 2, "say this"),
    ],
)
def test_a_start_that_fails_is_one_line(
    error: Exception, code: int, words: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *SERVER, *FREE], serve=FakeGateway(before_ready=failing(error))) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("outlast: ")
    assert words in line


@pytest.mark.parametrize("error", [FenceLost("owner b, fence 8"), StoreBroken("fsync: EIO"), StoreFull("full")])
def test_a_store_that_is_lost_while_serving_ends_with_3(
    error: Exception, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *SERVER, *FREE], serve=FakeGateway(while_serving=failing(error))) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert str(error) in line


def test_of_several_failures_the_lost_store_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing(StoreUnavailable("later")))
            nursery.start_soon(failing(FenceLost("first")))

    assert main(["serve", *SERVER, *FREE], serve=FakeGateway(while_serving=both)) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "another process has taken over the store: first" in line


DEFECT = failing(LookupError("x"))


@pytest.mark.parametrize(
    "gateway",
    [
        FakeGateway(before_ready=DEFECT),
        FakeGateway(while_serving=DEFECT),
        FakeGateway(while_serving=ask_to_stop, while_draining=DEFECT),
    ],
)
def test_a_defect_keeps_its_traceback(gateway: FakeGateway, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", *SERVER, *FREE], serve=gateway) == 1
    record = last_record(capsys)
    assert (record["level"], record["event"]) == ("critical", "crashed: this is a defect, please report it")
    assert "LookupError: x" in record["exception"]
    assert "fake_gateway.py" in record["exception"]


def last_record(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Give the last log line: JSON, since stderr is no terminal here."""
    record: dict[str, str] = json.loads(capsys.readouterr().err.splitlines()[-1])
    return record


def test_a_defect_beside_a_lost_store_is_a_defect(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def both() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(failing(LookupError("x")))
            nursery.start_soon(failing(FenceLost("first")))

    assert main(["serve", *SERVER, *FREE], serve=FakeGateway(while_serving=both)) == 1
    assert "LookupError: x" in last_record(capsys)["exception"]


def test_check_says_that_all_is_well_and_changes_nothing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gateway = FakeGateway()

    assert main(["serve", "--check", *SERVER, *FREE], serve=gateway) == 0
    written = capsys.readouterr()
    assert (written.out, len(written.err.splitlines())) == ("", 1)
    assert "in order" in written.err
    assert gateway.journal == []
    assert list(place.iterdir()) == []


def test_check_names_every_contradiction_at_once(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTLAST_EVENTS_BYTES_MAX", "2000")
    monkeypatch.setenv("OUTLAST_OAUTH_SCOPES", "read")
    monkeypatch.setenv("OUTLAST_ANSWER_JSON_WITHIN_SECONDS", "3600")
    events, answers, scopes = refused(capsys, "serve", "--check", *SERVER, *FREE)

    assert "events_bytes_max 2000 is less than event_bytes_max 16777216" in events
    assert "answer_json_within_seconds 3600: calls end after 3600 s" in answers
    assert "oauth_scopes: without oauth_issuer" in scopes
    assert list(place.iterdir()) == []


def test_a_key_that_others_may_read_is_advised_against(place: Path) -> None:
    key = place / "key.pem"
    key.touch()
    config = place / "outlast.toml"
    config.touch()
    secret = Settings(keyfile=key, certfile=key, operators_token="an-operators-token-1234")
    for mode, count in ((0o600, 0), (0o640, 0), (0o604, 2), (0o660, 2)):
        key.chmod(mode)
        config.chmod(mode)
        assert len(advice(secret, config, {})) == count, oct(mode)
        assert len(advice(secret, None, {"OUTLAST_CONFIG": str(config)})) == count


def test_what_cannot_be_meant_is_advised_against() -> None:
    settings = Settings(
        servers={"a": HttpTarget("http://mcp.example.com/mcp")},
        server_headers={"a": {"Authorization": "Bearer hunter2hunter2"}},
        client_tokens={"ada": "a-token-of-ada-1234"},
        allow_anonymous=True,
        connections_max=900,
    )
    clear, connections, anonymous = advice(settings, None, {}, affordable=lambda most: min(most, 824))

    assert "mcp.example.com in clear" in clear
    assert "connections_max 900: the open-file limit has room for 824" in connections
    assert "allow_anonymous has no effect" in anonymous
    assert "hunter2" not in clear


def test_logs_of_every_command_leave_stdout_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["export", "--store", "memory:"])
    capsys.readouterr()
    structlog.get_logger("persistence.redis").warning("redis", warning="look here")
    written = capsys.readouterr()

    assert written.out == ""
    assert "look here" in written.err


def test_a_key_that_is_there_twice_is_named(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "outlast.toml").write_text('[outlast]\nlog_level = "info"\nstore = "memory:"\nlog_level = "debug"\n')
    (line,) = refused(capsys, "serve", *SERVER, "--config", "outlast.toml")

    assert line == "outlast: outlast.toml: line 4: log_level is there twice"


def test_a_reader_of_stdout_that_left_does_not_stop_the_start(place: Path) -> None:
    gateway = FakeGateway(while_serving=ask_to_stop)
    reading, writing = os.pipe()
    os.close(reading)
    kept = os.dup(1)
    try:
        os.dup2(writing, 1)
        with open(1, "w", closefd=False) as stdout, pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", stdout)
            assert main(["serve", *SERVER, *FREE], serve=gateway) == 0
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(writing)
    assert gateway.journal[-1] == "stopped"


def test_version_and_help_say_what_they_should(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("outlast ")
    assert main(["serve", "--help"]) == 0
    text = capsys.readouterr().out
    for word in ("--listen", "SESSION_TTL", "OUTLAST_BODY_BYTES_MAX", "130, 143", "Exit codes"):
        assert word in text
    assert main([]) == 0
    assert "health" in capsys.readouterr().out
