"""Scrubbing: what was configured, and what looks like a credential, is in no finished line.

Each claim has its control: the same line without scrubbing has the secret in it.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterable

import pytest
import structlog

from outlast.keygen import make_key
from outlast.log_secrets import HIDDEN, scrubber, secrets_of
from outlast.logs import configure_logs
from outlast.settings import Settings, facts
from outlast.sources import SettingsInvalid, load_settings
from outlast.targets import read_servers

_NO_SECRETS = ("listen", "certfile", "keyfile", "upstream_proxy_except")  # addresses, and paths, which are none

PASSWORD = 'correct "horse" \\ battery'


class Strange:
    """Keeps a secret in its `repr`."""

    def __repr__(self) -> str:
        return f"<Strange {PASSWORD}>"


def written(form: str, secrets: Iterable[str]) -> str:
    """Log a secret in every place of a line that there is; give what was written."""
    stream = io.StringIO()
    configure_logs(level="debug", form=form, stream=stream, secrets=secrets)
    log = structlog.get_logger("outlast.test")
    log.info(f"event {PASSWORD}", text=PASSWORD, inside={"deep": [PASSWORD]}, strange=Strange())
    try:
        raise ValueError(f"cannot use {PASSWORD}")
    except ValueError as error:
        log.exception("crashed", group=ExceptionGroup("all", [error]))
        logging.getLogger("library").exception("it said %s", PASSWORD)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_known_secret_is_in_no_line_wherever_it_stands(form: str) -> None:
    assert "battery" not in written(form, [PASSWORD])
    assert HIDDEN in written(form, [PASSWORD])


@pytest.mark.parametrize("form", ["json", "console"])
def test_without_being_known_it_is_in_every_place(form: str) -> None:
    assert written(form, []).count("battery") >= 6


def test_a_scrubbed_line_of_json_is_one() -> None:
    lines = [json.loads(line) for line in written("json", [PASSWORD]).splitlines()]
    assert [line["event"] for line in lines] == [f"event {HIDDEN}", "crashed", f"it said {HIDDEN}"]


@pytest.mark.parametrize(
    "line",
    [
        "sent Authorization: Bearer hunter2hunter2",
        "sent {'authorization': 'Bearer hunter2hunter2'}",
        "sent (b'authorization', b'hunter2hunter2')",
        'sent {"Cookie": "hunter2hunter2"}',
        "sent cookie=hunter2hunter2",
        "mcp-session-id: hunter2hunter2",
        "Last-Event-ID: hunter2hunter2",
        "GET https://mcp.example/mcp?key=hunter2hunter2&x=1 failed",
        "connecting to redis://:hunter2hunter2@10.0.0.1:6379/0",
        "bad token eyJhbGciOiJIUzI1NiJ9.hunter2hunter2.c2ln",
        "basic hunter2hunter2",
    ],
)
def test_what_looks_like_a_credential_is_taken_out(line: str) -> None:
    assert "hunter2" in line
    assert "hunter2" not in scrubber([])(line)


@pytest.mark.parametrize(
    "line",
    [
        '{"timestamp": "2026-01-01T00:00:00Z", "event": "listening", "url": "http://127.0.0.1:8080"}',
        "sessions restored restored=12 uninitialized=0",
        "bearer of bad news: a session was lost",
        "https://mcp.example/mcp answered 503",
        "mail to ada@example.com",
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    assert scrubber(["1", "on", "true"])(line) == line


def test_every_secret_of_the_configuration_is_known() -> None:
    key, _ = make_key()
    settings = Settings(
        store="redis://outlast:redis-passw%40rd@10.0.0.1:6379/0",
        servers=read_servers(
            {
                "web": "https://mcp.example/mcp?key=secret-in-query",
                "socket": "wss://mcp.example/ws?key=secret-of-socket",
                "local": "stdio:server --token secret-argument --verbose API_KEY=secret-assignment /srv/some/files",
            }
        ),
        server_headers={"web": {"Authorization": "Bearer secret-of-the-server"}},
        server_environment={"local": {"WIKI": "secret-for-a-program"}},
        client_tokens={"ada": "secret-token-of-ada"},
        operators_token="secret-of-operators",
        upstream_proxy="http://ada:secret-of-proxy%21@proxy.example:3128",
        encryption_keys=key,  # type: ignore[arg-type]
    )
    environment = {
        "WIKI_API_KEY": "secret-in-environment",
        "PATH": "/usr/local/bin:/usr/bin",
        "MONKEY": "bananas-bananas",
    }

    assert secrets_of(settings, environment) == {
        "redis-passw%40rd",
        "redis-passw@rd",
        "redis://outlast:redis-passw%40rd@10.0.0.1:6379/0",
        "key=secret-in-query",
        "key=secret-of-socket",
        "secret-of-socket",
        "secret-for-a-program",
        "secret-in-query",
        "secret-argument",
        "secret-assignment",
        "Bearer secret-of-the-server",
        "secret-of-the-server",
        "secret-token-of-ada",
        "secret-of-operators",
        "http://ada:secret-of-proxy%21@proxy.example:3128",
        "secret-of-proxy%21",
        "secret-of-proxy!",
        "YWRhOnNlY3JldC1vZi1wcm94eSE=",  # as Basic credentials
        "secret-in-environment",
        *secrets_of(Settings(encryption_keys=key), {}),  # type: ignore[arg-type]
    }
    assert key.rstrip("=") in secrets_of(settings, {})
    assert not any(secret in repr(settings) for secret in secrets_of(settings, {}))


def test_secrets_of_a_url_with_several_hosts_are_known() -> None:
    store = "redis+sentinel://me:the-primary-s@a:1,[::1]:2/0?service=mymaster&sentinel_password=the%2Csentinels"
    known = secrets_of(Settings(store=store), {})
    assert {"the-primary-s", "the,sentinels"} < known
    assert "the" not in scrubber(known)(f"cannot reach {store}: the,sentinels")
    assert scrubber(known)("no service mymaster") == "no service mymaster"


def bad_values(secret: str, *, bare: bool) -> Iterable[str]:
    """Ways in which people mistype what holds a secret.

    Args:
      bare: the secret may stand there alone, or nearly so.
    """
    yield f"redis://:{secret}@:notaport/0"
    yield f"redis://u:{secret}@host/0?unknown={secret}"
    yield f"https://u:{secret}@host/?key={secret}#x"
    yield f"ftp://u:{secret}@host/?key={secret}"
    if bare:
        yield secret
        yield f"{secret * 2}=ada"
        yield f"ada={secret}\x01"
        yield f"=:{secret} {secret}"
        yield f"x: {secret}"
        yield f"x: y: {secret}\n{secret}"
        yield f"{secret},{secret}"
    else:
        yield f"stdio:x --token '{secret}"
        yield f"stdio:x --token={secret}\0"


@pytest.mark.parametrize(
    "name", [name for name, fact in facts().items() if fact.kind.show is not repr and name not in _NO_SECRETS]
)
def test_no_refusal_repeats_a_secret_value(name: str) -> None:
    said = ""
    for value in bad_values("hunter2sekret", bare=name not in ("store", "servers")):
        try:
            load_settings(environment={facts()[name].variable: value})
        except SettingsInvalid as invalid:
            said += str(invalid)
    assert "hunter2" not in said


def test_a_refusal_does_repeat_what_is_no_secret() -> None:
    """The control: the value is what helps, where it may be shown."""
    with pytest.raises(SettingsInvalid, match="hunter2sekret"):
        load_settings(environment={"OUTLAST_LOG_LEVEL": "hunter2sekret"})
