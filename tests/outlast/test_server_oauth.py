"""Settings of OAuth toward servers: how they are spelled, what is refused with which words, and what is never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from outlast.advice import advice
from outlast.log_secrets import scrubber, secrets_of
from outlast.server_oauth import ServerOAuth, oauth_troubles, subjects_of
from outlast.settings import Settings
from outlast.sources import SettingsInvalid, load_settings

SECRET = "s3cret-of-the-gateway"
GIVEN = {"grant": "client_credentials", "client_id": "outlast", "client_secret": SECRET}
SERVERS = {"wiki": "https://wiki.example/mcp", "files": "stdio:mcp-server-files"}


def settings(**tables: Any) -> Settings:
    return Settings(servers=SERVERS, server_oauth=tables)  # type: ignore[arg-type]  # read by its kind


def refused(**table: Any) -> list[str]:
    with pytest.raises(ValueError) as caught:
        settings(wiki={**GIVEN, **table})
    assert SECRET not in str(caught.value)
    return str(caught.value).partition(": ")[2].split("; server")


def test_it_is_read_from_a_file(tmp_path: Path) -> None:
    secret, config = tmp_path / "secret", tmp_path / "outlast.toml"
    secret.write_text(f"{SECRET}\n")
    config.write_text(
        f"""
        [outlast.server_oauth.wiki]
        grant = "client_credentials"
        client_id = "outlast"
        client_secret_file = "{secret}"
        issuer = "https://login.example"
        scope = "read write"
        resource = ""
        client_authentication = "client_secret_post"
        """
    )
    read = load_settings(config=config, environment={}).server_oauth
    assert read == {
        "wiki": ServerOAuth(
            "client_credentials",
            "outlast",
            SECRET,
            issuer="https://login.example",
            scope="read write",
            resource="",
            client_authentication="client_secret_post",
        )
    }


def test_and_from_the_environment() -> None:
    lines = "\n".join(f"wiki: {key}={value}" for key, value in GIVEN.items())
    read = load_settings(environment={"OUTLAST_SERVER_OAUTH": lines}).server_oauth
    assert read == {"wiki": ServerOAuth("client_credentials", "outlast", SECRET)}


def test_no_flag_takes_it() -> None:
    """Every user of a machine can read a command line."""
    from outlast.settings import facts

    assert facts()["server_oauth"].flag == ""


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"grant": "password"}, "grant: it must be client_credentials or token_exchange"),
        ({"client_id": ""}, "client_id: it is needed"),
        ({"client_secret": ""}, "client_secret or client_secret_file: exactly one of them is needed"),
        ({"client_secret_file": "/nowhere"}, "client_secret or client_secret_file: exactly one of them is needed"),
        ({"client_secret": "two\nlines"}, "client_secret: a secret is one line"),
        ({"token_endpoint": "http://a.example/t"}, "token_endpoint = 'http://a.example/t': it must be an https"),
        ({"issuer": "login.example"}, "issuer = 'login.example': it must be an https URL"),
        ({"issuer": "https://a", "token_endpoint": "https://a/t"}, "name one of them"),
        ({"scope": "l\xe9ger"}, "scope: it must be visible ASCII"),
        ({"client_authentication": "none"}, "client_authentication: it must be client_secret_basic or"),
        ({"clientid": "x"}, "there is no key clientid: did you mean client_id?"),
        ({SECRET: "client_secret"}, "there is no key <not shown>; there are grant, client_id"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_by_server_and_key_with_what_is_allowed(table: dict[str, str], said: str) -> None:
    [line] = refused(**table)
    assert "server 'wiki': " in line
    assert said in line


def test_all_mistakes_are_told_at_once() -> None:
    wrong = {"wiki": {"grant": "implicit", "client_id": ""}, "docs": {**GIVEN, "scop": "x"}}
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(environment={"OUTLAST_SERVER_OAUTH": _as_lines(wrong)})
    said = "\n".join(caught.value.lines)
    assert len(caught.value.lines) == 4
    for part in ("'wiki': grant", "'wiki': client_id", "'wiki': client_secret", "'docs': there is no key scop"):
        assert part in said
    assert "OUTLAST_SERVER_OAUTH" in said
    assert SECRET not in said


def _as_lines(tables: dict[str, dict[str, str]]) -> str:
    return "\n".join(f"{server}: {key}={value}" for server, table in tables.items() for key, value in table.items())


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"\xff\xfe", b"x" * 20_000])
def test_a_file_that_holds_no_secret_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    [line] = refused(client_secret="", client_secret_file=str(file))
    assert "client_secret_file: " in line


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    [line] = refused(client_secret="", client_secret_file=str(tmp_path / "nowhere"))
    assert f"{tmp_path}/nowhere cannot be read: No such file or directory" in line


def test_what_would_not_reach_its_server_is_refused() -> None:
    assert oauth_troubles(settings(wiki=GIVEN)) == []
    assert oauth_troubles(settings(wkii=GIVEN)) == ["server_oauth: there is no server 'wkii'"]
    assert oauth_troubles(settings(files=GIVEN)) == [
        "server_oauth: server 'files' is a program: set server_environment"
    ]
    both = Settings(
        servers=SERVERS,  # type: ignore[arg-type]  # read by its kind, as the others
        server_oauth={"wiki": GIVEN},  # type: ignore[dict-item]
        server_headers={"wiki": {"authorization": "Bearer x", "X-Tenant": "a"}},
    )
    assert oauth_troubles(both) == ["server_oauth: server 'wiki' has an Authorization in server_headers: leave one out"]


def test_what_a_server_says_in_clear_of_its_tokens_is_not_believed() -> None:
    def clear(url: str, **changes: str) -> list[str]:
        table: Any = {"wiki": {**GIVEN, **changes}}
        servers: Any = {"wiki": url}
        return oauth_troubles(Settings(servers=servers, server_oauth=table))

    [line] = clear("http://wiki.example/mcp")
    assert "'wiki' is reached in clear" in line
    assert "name issuer or token_endpoint" in line
    assert clear("http://wiki.example/mcp", issuer="https://login.example") == []
    assert clear("http://127.0.0.1:1/mcp") == []
    assert clear("wss://wiki.example/ws") == []


def test_tokens_are_exchanged_only_where_clients_bring_some() -> None:
    exchange = {**GIVEN, "grant": "token_exchange", "audience": "wiki"}
    given = settings(wiki=exchange)
    assert oauth_troubles(given) == [
        "server_oauth: server 'wiki': token_exchange needs oauth_issuer, whose tokens clients bring"
    ]
    assert subjects_of(settings(wiki=GIVEN)) is None
    trusting = attrs.evolve(given, oauth_issuer="https://login.example", public_url="https://mcp.example")
    assert oauth_troubles(trusting) == []
    subjects = subjects_of(trusting)
    assert subjects is not None
    assert (subjects.issuer, subjects.servers) == ("https://login.example", frozenset({"wiki"}))


def test_a_secret_is_shown_nowhere_and_taken_out_of_logs() -> None:
    read = settings(wiki=GIVEN)
    assert SECRET not in repr(read)
    assert SECRET not in repr(read.server_oauth)
    scrub = scrubber(secrets_of(read, {}))
    assert scrub(f"a line with {SECRET} in it") == "a line with <hidden> in it"
    assert "b3V0bGFzd" not in scrub("and b3V0bGFzdDpzM2NyZXQtb2YtdGhlLWdhdGV3YXk=, as HTTP Basic has it")


def test_a_token_that_would_go_in_clear_is_warned_of(tmp_path: Path) -> None:
    clear = Settings(
        servers={"wiki": "http://wiki.example/mcp"},  # type: ignore[dict-item]  # read by its kind
        server_oauth={"wiki": {**GIVEN, "issuer": "https://login.example"}},  # type: ignore[dict-item]
    )
    assert advice(clear, None, {}, affordable=lambda most: most) == [
        "server_oauth: what is for 'wiki' goes to wiki.example in clear: use https or wss"
    ]
