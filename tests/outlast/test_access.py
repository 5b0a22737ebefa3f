"""Settings of access: what is refused, with words, before anything is served; and what is never shown."""

from __future__ import annotations

from typing import Any

import pytest

from outlast.access import access_troubles
from outlast.settings import Settings
from outlast.sources import SettingsInvalid, load_settings

SERVERS = {"web": "https://mcp.example.com/mcp", "files": "stdio:mcp-server-files"}


def troubles(**given: Any) -> list[str]:
    return access_troubles(Settings(servers=SERVERS, **given))  # type: ignore[arg-type]  # read by its kind


def test_beyond_this_machine_somebody_must_be_asked_for() -> None:
    [line] = troubles(listen="0.0.0.0:8080")
    assert "client_tokens or oauth_issuer" in line
    for given in (
        {"listen": "127.0.0.1:8080"},
        {"listen": "[::1]:8080"},
        {"listen": "0.0.0.0:8080", "client_tokens": "ann=a-token-for-ann-alone"},
        {"listen": "0.0.0.0:8080", "oauth_issuer": "https://issuer.example", "public_url": "https://mcp.example"},
        {"listen": "0.0.0.0:8080", "allow_anonymous": True},
    ):
        assert troubles(**given) == []


def test_what_would_not_reach_its_server_is_refused() -> None:
    header, variable = {"Authorization": "Bearer ours"}, {"API_KEY": "ours"}
    assert troubles(server_headers={"web": header}, server_environment={"files": variable}) == []
    assert troubles(server_headers={"wbe": header}) == ["server_headers: there is no server 'wbe'"]
    assert troubles(server_environment={"x": variable}) == ["server_environment: there is no server 'x'"]
    assert troubles(server_headers={"files": header}) == [
        "server_headers: server 'files' is a program: set server_environment"
    ]
    assert troubles(server_environment={"web": variable}) == ["server_environment: server 'web' is no program"]


def test_tables_are_read_from_one_text_as_well() -> None:
    environment = {
        "OUTLAST_SERVER_HEADERS": "web: Authorization: Bearer a:b=c\nweb: X-Api-Key: k",
        "OUTLAST_SERVER_ENVIRONMENT": "files: API_KEY=a=b:c\nfiles: HOME=/srv",
        "OUTLAST_CLIENT_TOKENS": "ann=a-token-for-ann-alone, bob=a-token-for-bob-alone=",
    }
    settings = load_settings(environment=environment)
    assert settings.server_headers == {"web": {"Authorization": "Bearer a:b=c", "X-Api-Key": "k"}}
    assert settings.server_environment == {"files": {"API_KEY": "a=b:c", "HOME": "/srv"}}
    assert settings.client_tokens == {"ann": "a-token-for-ann-alone", "bob": "a-token-for-bob-alone="}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OUTLAST_SERVER_ENVIRONMENT", "files: s3cret-without-sign"),
        ("OUTLAST_SERVER_ENVIRONMENT", "files: =s3cret"),
        ("OUTLAST_SERVER_HEADERS", "web: s3cret"),
        ("OUTLAST_SERVER_HEADERS", "web: Host: s3cret"),
        ("OUTLAST_SERVER_HEADERS", "web: Bad Name: s3cret"),
        ("OUTLAST_CLIENT_TOKENS", "ann=s3cret"),
        ("OUTLAST_CLIENT_TOKENS", "ann=s3cret-0123456789,bob=s3cret-0123456789"),
        ("OUTLAST_OPERATORS_TOKEN", "s3cret"),
        ("OUTLAST_UPSTREAM_PROXY", "s3cret"),
        ("OUTLAST_UPSTREAM_PROXY_EXCEPT", "http://ada:s3cret@proxy.example:3128"),
        ("OUTLAST_UPSTREAM_PROXY", "http://ada:s3cret@proxy.example"),
        ("OUTLAST_UPSTREAM_PROXY", "https://ada:s3cret@proxy.example:3128/path"),
        ("OUTLAST_UPSTREAM_PROXY", "socks5://ada:s3cret@proxy.example:1080"),
        ("OUTLAST_UPSTREAM_PROXY", "http://ada:s3/cret:s3cret@proxy.example:3128"),
    ],
)
def test_a_refusal_says_what_is_allowed_and_not_what_was_given(variable: str, text: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        load_settings(environment={variable: text})
    said = " ".join(refused.value.lines)
    assert variable in said
    assert "s3cret" not in said


def test_secrets_are_not_in_the_settings_repr() -> None:
    settings = Settings(
        servers=SERVERS,  # type: ignore[arg-type]  # read by its kind, as the others
        client_tokens={"ann": "s3cret-for-ann-alone"},
        operators_token="s3cret-for-operators",
        server_headers={"web": {"Authorization": "s3cret"}},
        server_environment={"files": {"API_KEY": "s3cret"}},
    )
    assert "s3cret" not in repr(settings)
