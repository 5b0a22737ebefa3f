"""The operators' commands: what is asked, what is printed, exit codes. Method: a fake administration in a thread."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from outlast.cli import main
from tests.outlast.fake_admin import analytics, listed, page, serving

TOKEN = "an-operators-token-for-tests"


@pytest.fixture(autouse=True)
def _no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUTLAST_OPERATORS_TOKEN", raising=False)


def test_filters_are_asked_as_the_administration_has_them(capsys: pytest.CaptureFixture[str]) -> None:
    with serving((200, page(listed()))) as fake:
        command = [
            "sessions",
            "list",
            "--url",
            fake.url,
            "--server",
            "linear",
            "--idle-min",
            "60",
            "--records",
            "--limit",
            "5",
        ]
        assert main(command) == 0

    ((method, target, authorization, _),) = fake.asked
    assert (method, authorization) == ("GET", "")
    path, _, query = target.partition("?")
    assert path == "/admin/sessions"
    expected = {"server": "linear", "idleSecondsMin": "60.0", "order": "-last_active", "records": "true", "limit": "5"}
    assert expected == dict(parse_qsl(query))
    assert "a" * 24 in capsys.readouterr().out


def test_pages_are_asked_for_until_there_are_enough(capsys: pytest.CaptureFixture[str]) -> None:
    """Three pages of two; five are wanted: 2 + 2 + 1."""
    pages = [page(listed(), listed(), next="p1"), page(listed(), listed(), next="p2"), page(listed(), next="p3")]
    with serving(*((200, one) for one in pages)) as fake:
        assert main(["sessions", "list", "--url", fake.url, "--limit", "5", "--json"]) == 0

    assert [target.partition("limit=")[2] for _, target, _, _ in fake.asked] == ["5", "3&cursor=p1", "1&cursor=p2"]
    assert len(json.loads(capsys.readouterr().out)["sessions"]) == 5


def test_token_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}-2\n")
    monkeypatch.setenv("OUTLAST_OPERATORS_TOKEN", TOKEN)
    with serving((200, analytics())) as fake:
        assert main(["analytics", "--url", fake.url]) == 0
        assert main(["analytics", "--url", fake.url, "--token-file", str(tmp_path / "token")]) == 0

    assert [authorization for _, _, authorization, _ in fake.asked] == [f"Bearer {TOKEN}", f"Bearer {TOKEN}-2"]


def test_change_of_metadata_is_one_request(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {**listed(), "details": None, "unreadable": "its key is missing"}
    with serving((200, shown)) as fake:
        command = ["sessions", "tag", "a/b", "beta", "--remove", "old", "--set", "owner=ops=2", "--forget", "note"]
        assert main([*command, "--url", fake.url]) == 0

    ((method, target, _, body),) = fake.asked
    assert (method, target) == ("PATCH", "/admin/sessions/a%2Fb")
    assert body == {"addTags": ["beta"], "removeTags": ["old"], "set": {"owner": "ops=2"}, "forget": ["note"]}
    assert "its key is missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ((404, {"detail": "there is no session", "status": 404}), 1, "there is no session"),
        ((409, {"detail": "a limit is against it", "field": "$.addTags"}), 1, "a limit is against it (at $.addTags)"),
        ((503, {"detail": "try again"}), 1, "try again"),
        ((401, {"error": {"message": "operations need the operators' token"}}), 2, "operators' token"),
        ((200, b"<html>"), 2, "is this a gateway?"),
        ((500, {}), 1, "status 500"),
        ((302, {}), 1, "status 302"),
    ],
)
def test_what_a_gateway_will_not_do_is_said_in_one_line_and_a_code(
    answer: tuple[int, object], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(answer) as fake:
        assert main(["sessions", "close", "x", "--url", fake.url]) == code

    said = capsys.readouterr()
    assert (said.out, len(said.err.splitlines())) == ("", 1)
    assert words in said.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sessions", "list", "--url", "ftp://host"], "--url ftp://host: it must be"),
        (["sessions", "list", "--url", "http://127.0.0.1:1"], "refused"),
        (["sessions", "list", "--token-file", "/nowhere/token"], "--token-file /nowhere/token"),
        (["sessions", "list", "--store", "sqlite:/nowhere/x.db"], "no such file"),
        (["sessions", "list", "--store", "sqlite:x.db", "--tag", "beta"], "tag needs the sessions' records"),
        (["sessions", "list", "--store", "sqlite:x.db", "--url", "http://a"], "choose one"),
        (["sessions", "list", "--limit", "0"], "--limit"),
        (["sessions", "tag", "x"], "nothing to change"),
        (["sessions", "tag", "x", "--set", "owner"], "NAME=TEXT"),
        (["sessions", "show"], "SESSION"),
        (["top", "--every", "0"], "--every"),
    ],
)
def test_bad_input_is_said_in_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert words.lower() in said.lower()


def test_top_in_a_pipe_looks_once(capsys: pytest.CaptureFixture[str]) -> None:
    with serving((200, analytics())) as fake:
        assert main(["top", "--url", fake.url]) == 0

    assert len(fake.asked) == 1
    assert "search" in capsys.readouterr().out


def test_who_closes_is_told_that_the_server_was_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    with serving((200, json.dumps({"upstream": "not_told", "detail": "HTTP 405"}).encode())) as fake:
        assert main(["sessions", "close", "x", "--url", fake.url]) == 0

    said = capsys.readouterr().out
    assert said == "closed; its server was not told, and keeps its own until that expires: HTTP 405\n"


def test_closing_needs_no_words_from_the_gateway(capsys: pytest.CaptureFixture[str]) -> None:
    with serving((204, b"")) as fake:
        assert main(["sessions", "close", "x", "--url", fake.url]) == 0

    assert capsys.readouterr().out == "closed\n"
