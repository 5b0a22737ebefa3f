"""Settings: defaults, sources and their order, every mistake named with its place, secrets kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from outlast.at_rest import codec_of
from outlast.settings import NotYet, Settings, facts
from outlast.sources import SettingsInvalid, load_settings
from outlast.targets import HttpTarget, StdioTarget
from outlast.urls import Address
from persistence.codec import SecretsNeedKey
from persistence.key_ring import Key, KeyRing, new_key
from transport.clients.socket_conversation import WebSocketOptions
from transport.handler import HttpLimits
from transport.upstreams.websocket import WebSocketLimits


def write(directory: Path, text: str) -> Path:
    path = directory / "outlast.toml"
    path.write_text(text)
    return path


def mistakes_of(**sources: object) -> tuple[str, ...]:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(**{"environment": {}, **sources})  # type: ignore[arg-type]
    return caught.value.lines


def test_without_sources_the_defaults_hold() -> None:
    assert load_settings(environment={}) == Settings()


def test_default_store_lies_in_the_data_directory() -> None:
    assert Settings().store == "sqlite:data/outlast.db"
    assert load_settings(environment={"SESSION_DATA_DIR": "/srv/x"}).store == "sqlite:/srv/x/outlast.db"


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    config = write(tmp_path, "[outlast]\nsessions_max = 10\nrestore_permits = 20\nlog_level = 'error'\n")
    settings = load_settings(
        config=config,
        environment={"OUTLAST_RESTORE_PERMITS": "30", "OUTLAST_LOG_LEVEL": "warning"},
        flags={"log_level": "debug"},
    )

    assert (settings.sessions_max, settings.restore_permits, settings.log_level) == (10, 30, "debug")
    assert settings.body_bytes_max == 4 * 1024 * 1024


def test_environment_may_name_the_file_and_a_flag_wins(tmp_path: Path) -> None:
    config = write(tmp_path, "[outlast]\nsessions_max = 10\n")

    assert load_settings(environment={"OUTLAST_CONFIG": str(config)}).sessions_max == 10
    other = tmp_path / "other.toml"
    other.write_text("[outlast]\nsessions_max = 11\n")
    assert load_settings(config=other, environment={"OUTLAST_CONFIG": str(config)}).sessions_max == 11


SERVERS = """
time=stdio:mcp-server-time --local-timezone 'Europe/Berlin'
linear=https://mcp.linear.app/mcp
"""


def test_agreed_variables_are_understood() -> None:
    settings = load_settings(
        environment={
            "SESSION_STORE": "memory:",
            "SESSION_TTL": "7200",
            "MAX_EVENTS_PER_SESSION": "50",
            "OUTLAST_LISTEN": "[::1]:9000",
            "OUTLAST_SERVERS": SERVERS,
            "OUTLAST_ALLOWED_HOSTS": "a.example, b.example:8443",
            "OUTLAST_ALLOWED_ORIGINS": "https://app.example",
            "OUTLAST_HOT_ROAD": "no",
        }
    )

    assert settings.store == "memory:"
    assert settings.session_ttl_seconds == 7200
    assert settings.events_per_session_max == 50
    assert settings.listen == Address("::1", 9000)
    assert settings.servers == {
        "time": StdioTarget(("mcp-server-time", "--local-timezone", "Europe/Berlin")),
        "linear": HttpTarget("https://mcp.linear.app/mcp"),
    }
    assert settings.allowed_hosts == ("a.example", "b.example:8443")
    assert settings.allowed_origins == ("https://app.example",)
    assert settings.hot_road is False


# Of settings whose default is that there is none.
FILLED = {"operators_token": "a-token-for-operators", "certfile": "chain.pem", "keyfile": "key.pem"}


def test_every_setting_can_be_set_in_the_file(tmp_path: Path) -> None:
    defaults = attrs.evolve(Settings(), connections_max=100)
    lines = ["[outlast]"]
    for name in facts():
        value = getattr(defaults, name)
        if isinstance(value, Mapping):
            continue  # tables: below
        if value is None:
            value = FILLED.get(name, "none")
        if isinstance(value, bool):
            lines.append(f"{name} = {str(value).lower()}")
        elif isinstance(value, int | float):
            lines.append(f"{name} = {value}")
        elif isinstance(value, tuple):
            lines.append(f"{name} = {list(value)}")
        else:
            lines.append(f"{name} = '{value}'")
    lines += ["[outlast.servers]", "time = 'stdio:mcp-server-time'"]
    lines += ["[outlast.client_tokens]", "ann = 'a-token-for-ann-alone'"]
    lines += ["[outlast.server_headers.time]", "Authorization = 'Bearer ours'"]
    lines += ["[outlast.server_environment.time]", "API_KEY = 'ours'"]
    settings = load_settings(config=write(tmp_path, "\n".join(lines)), environment={})

    assert settings == attrs.evolve(
        defaults,
        servers={"time": StdioTarget(("mcp-server-time",))},
        client_tokens={"ann": "a-token-for-ann-alone"},
        server_headers={"time": {"Authorization": "Bearer ours"}},
        server_environment={"time": {"API_KEY": "ours"}},
        **FILLED,  # type: ignore[arg-type]  # read by their kinds
    )


def test_an_empty_variable_counts_as_absent() -> None:
    environment = {"SESSION_TTL": "", "OUTLAST_CONFIG": "", "SESSION_ENCRYPTION_KEY": "", "REDIS_URL": ""}

    assert load_settings(environment=environment) == Settings()


def test_all_mistakes_are_named_at_once_with_place_key_value_and_what_is_allowed(tmp_path: Path) -> None:
    config = write(tmp_path, "[outlast]\nsessions_max = 'many'\nsesions_max = 3\nhot_road = 2\n")
    lines = mistakes_of(
        config=config,
        environment={"SESSION_TTL": "soon", "OUTLAST_LISTN": ":1"},
        flags={"listen": "8080"},
    )

    assert lines == (
        f"{config}: sessions_max = 'many': it must be a whole number from 1 to 10000000",
        f"{config}: sesions_max: there is no such setting: did you mean sessions_max?",
        f"{config}: hot_road = 2: it must be true or false",
        "environment: SESSION_TTL = 'soon': it must be a number of seconds from 1 to 315360000",
        "environment: OUTLAST_LISTN: there is no such setting: did you mean OUTLAST_LISTEN?",
        (
            "command line: --listen = '8080': it must be HOST:PORT with a port from 0 to 65535, "
            "for example 127.0.0.1:8080 or [::1]:8080"
        ),
    )


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("sessions_max", 0),
        ("sessions_max", True),
        ("sessions_max", 1.5),
        ("sessions_max", "1e3"),
        ("session_ttl_seconds", float("nan")),
        ("session_ttl_seconds", float("inf")),
        ("session_ttl_seconds", -1),
        ("session_ttl_seconds", False),
        ("session_ttl_seconds", 10**400),
        ("data_directory", ""),
        ("data_directory", 3),
        ("data_directory", "~nobody-of-that-name/data"),
        ("store", "sqlite:"),
        ("store", "postgres://x"),
        ("store", "redis://127.0.0.1/one"),
        ("store", "redis://127.0.0.1?retry_on_timeout=yes"),
        ("store", "memory:x"),
        ("log_level", "loud"),
        ("log_format", 1),
        ("allowed_hosts", ["https://x.example"]),
        ("allowed_hosts", 4),
        ("allowed_origins", ["x.example"]),
        ("allowed_origins", [1]),
        ("connections_max", "many"),
        ("connections_max", 0),
        ("servers", 3),
        ("servers", {"a": 3}),
        ("servers", {"a/b": "stdio:x"}),
        ("listen", 8080),
        ("websocket_ping_seconds", 0),
        ("websocket_pong_seconds", float("inf")),
        ("websocket_message_bytes_max", 1023),
        ("websocket_initialize_seconds_max", -1),
        ("websocket_return_seconds_max", 601),
        ("websocket_messages_in_hand_max", 0),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_in_code_too(name: str, raw: object) -> None:
    with pytest.raises(ValueError, match=name):
        Settings(**{name: raw})  # type: ignore[arg-type]


def test_websocket_defaults_are_those_of_whoever_serves_without_settings() -> None:
    settings = Settings()
    served = HttpLimits()
    assert (settings.websocket_ping_seconds, settings.websocket_pong_seconds) == (
        served.ping_seconds,
        served.pong_seconds,
    )
    assert settings.websocket_message_bytes_max == served.message_bytes_max
    assert settings.websocket_ping_seconds == WebSocketLimits().ping_seconds
    assert WebSocketOptions() == WebSocketOptions(
        initialize_seconds_max=settings.websocket_initialize_seconds_max,
        messages_in_hand_max=settings.websocket_messages_in_hand_max,
        return_seconds_max=settings.websocket_return_seconds_max,
    )


def test_websocket_messages_may_be_as_large_as_bodies_unless_said_otherwise() -> None:
    assert Settings(body_bytes_max=5000).websocket_message_bytes_max == 5000
    assert load_settings(environment={"OUTLAST_BODY_BYTES_MAX": "6000"}).websocket_message_bytes_max == 6000
    assert Settings(body_bytes_max=5000, websocket_message_bytes_max=2000).websocket_message_bytes_max == 2000


def test_connections_follow_the_open_file_limit() -> None:
    settings = load_settings(environment={"OUTLAST_CONNECTIONS_MAX": "auto"})

    assert settings.connections_max == Settings().connections_max
    assert 16 <= settings.connections_max <= 20_000


def test_a_setting_under_its_wrong_variable_is_told_the_right_one() -> None:
    assert mistakes_of(environment={"OUTLAST_SESSION_TTL_SECONDS": "5"}) == (
        "environment: OUTLAST_SESSION_TTL_SECONDS: this setting's variable is SESSION_TTL",
    )


def test_variables_that_kubernetes_injects_are_left_alone() -> None:
    injected = {
        "OUTLAST_PORT": "tcp://10.0.0.1:8080",
        "OUTLAST_SERVICE_HOST": "10.0.0.1",
        "OUTLAST_SERVICE_PORT_HTTP": "8080",
        "OUTLAST_GATEWAY_PORT_8080_TCP_ADDR": "10.0.0.1",
    }

    assert load_settings(environment=injected) == Settings()
    assert mistakes_of(environment={"OUTLAST_PORTS": "1"})  # the exception is for those shapes alone


def test_a_setting_of_a_later_version_is_refused_and_its_value_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = NotYet("SESSION_MOOD", "be in a mood", harmless=("none",))
    monkeypatch.setattr("outlast.sources.NOT_YET", {"session_mood": later})
    (line,) = mistakes_of(environment={"SESSION_MOOD": "hunter2"})
    assert line.startswith("environment: SESSION_MOOD: this version cannot be in a mood")

    (line,) = mistakes_of(config=write(tmp_path, "[outlast]\nsession_mood = 'hunter2'\n"))
    assert "this version cannot" in line
    assert "hunter2" not in line
    assert load_settings(environment={"SESSION_MOOD": "none"}) == Settings()


@pytest.mark.parametrize(
    ("text", "compression"),
    [
        ("none", "none"),
        ("off", "none"),
        ("0", "none"),
        ("zstd", "zstd:3"),
        ("ZSTD:9", "zstd:9"),
        ("zstd:19", "zstd:19"),
    ],
)
def test_compression_is_read_in_all_its_spellings(text: str, compression: str) -> None:
    settings = load_settings(environment={"SESSION_COMPRESSION": text})
    assert settings.compression == compression
    assert attrs.evolve(settings) == settings
    written = codec_of(settings).compression
    assert (written is None) == (compression == "none")
    assert written is None or compression == f"zstd:{written.level}"


@pytest.mark.parametrize("text", ["gzip", "zstd:", "zstd:0", "zstd:20", "zstd:-1", "zstd:x", "zstd:3:3", "true"])
def test_other_compressions_are_refused(text: str) -> None:
    (line,) = mistakes_of(environment={"SESSION_COMPRESSION": text})
    assert line.startswith(f"environment: SESSION_COMPRESSION = '{text}': it must be zstd, zstd:LEVEL")


def test_keys_are_read_from_text_and_lists_the_newest_first(tmp_path: Path) -> None:
    new, old = new_key(), new_key()
    ring = KeyRing.read(f"{new},{old}")
    from_text = load_settings(environment={"SESSION_ENCRYPTION_KEY": f"{new}, {old}"})
    from_list = load_settings(
        config=write(tmp_path, f"[outlast]\nencryption_keys = ['{new}', '{old}']\n"), environment={}
    )
    assert from_text.encryption_keys == from_list.encryption_keys == ring
    assert codec_of(from_text).key_id == ring.newest.id
    assert load_settings(environment={"SESSION_ENCRYPTION_KEY": ""}).encryption_keys is None
    assert codec_of(Settings()).key_id == 0


def test_a_key_is_shown_nowhere(tmp_path: Path) -> None:
    good, bad = new_key(), new_key()[:-2]
    for text in (bad, f"{good},{bad}", f"{good},{good}"):
        (line,) = mistakes_of(environment={"SESSION_ENCRYPTION_KEY": text})
        assert "outlast keygen" in line
        (other,) = mistakes_of(config=write(tmp_path, f"[outlast]\nencryption_keys = '{text}'\n"))
        assert good not in line + other
        assert bad not in line + other
    with pytest.raises(ValueError, match="encryption_keys") as raised:
        Settings(encryption_keys=bad)  # type: ignore[arg-type]
    assert bad not in str(raised.value)

    settings = load_settings(environment={"SESSION_ENCRYPTION_KEY": good})
    assert good not in repr(settings) + repr(codec_of(settings))
    assert f"{Key.read(good).id:08x}" in repr(settings)


def test_secrets_in_clear_have_to_be_allowed() -> None:
    with pytest.raises(SecretsNeedKey, match="SESSION_ENCRYPTION_KEY"):
        codec_of(Settings()).check_secrets()
    codec_of(load_settings(environment={"OUTLAST_ALLOW_SECRETS_IN_CLEAR": "true"})).check_secrets()
    codec_of(load_settings(environment={"SESSION_ENCRYPTION_KEY": new_key()})).check_secrets()


def test_redis_url_is_the_store_where_none_was_chosen(tmp_path: Path) -> None:
    url = "redis://:hunter2@cache/0"
    environment = {"REDIS_URL": url}

    assert load_settings(environment=environment).store == url
    assert "hunter2" not in repr(load_settings(environment=environment))
    # With a store of its own choosing, the variable is somebody else's.
    assert load_settings(environment=environment, flags={"store": "memory:"}).store == "memory:"
    chosen = load_settings(environment={**environment, "SESSION_STORE": "sqlite:x.db"})
    assert chosen.store == "sqlite:x.db"
    assert (
        load_settings(environment=environment, config=write(tmp_path, "[outlast]\nstore = 'memory:'")).store
        == "memory:"
    )


def test_the_password_of_sentinels_comes_from_the_environment_too() -> None:
    url = "redis+sentinel://a,b:1/0?service=m"
    environment = {"SESSION_STORE": url, "REDIS_SENTINEL_PASSWORD": "hunter2&hunter2"}
    settings = load_settings(environment=environment)

    assert settings.store == f"{url}&sentinel_password=hunter2%26hunter2"
    assert "hunter2" not in repr(settings)
    assert load_settings(environment={**environment, "SESSION_STORE": "redis://a"}).store == "redis://a"
    assert "hunter2" not in load_settings(environment={**environment, "SESSION_STORE": ""}).store


@pytest.mark.parametrize("url", ["redis://:hunter2@cache/0?retry=9", "memory:", "http://:hunter2@cache"])
def test_a_redis_url_that_is_none_is_refused_without_its_secret(url: str) -> None:
    (line,) = mistakes_of(environment={"REDIS_URL": url})

    assert line.startswith("environment: REDIS_URL")
    assert "redis://HOST:PORT" in line
    assert "hunter2" not in line


SENTINELS = "redis+sentinel://a,b:1,[::1]:2/0?service=m"


def test_stores_on_redis_are_understood() -> None:
    for url in (
        "redis://cache",
        "rediss://me:x@cache:6380/1",
        "unix:///run/redis.sock?db=2",
        "redis://c?prefix=a",
        SENTINELS,
    ):
        assert Settings(store=url).store == url


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[outlast", "this is not TOML"),
        ("[outlst]\nx = 1", "there is no such table: did you mean outlast?"),
        ("sessions_max = 1", "write [outlast] above them"),
        ("outlast = 3", "'outlast' must be a table"),
        ("[outlast]\nservers = 'stdio:x'\nsession_ttl_seconds = [1]", "session_ttl_seconds = [1]"),
    ],
)
def test_a_file_that_is_no_configuration_says_why(content: str, problem: str, tmp_path: Path) -> None:
    (line,) = mistakes_of(config=write(tmp_path, content))

    assert line.startswith(str(tmp_path / "outlast.toml"))
    assert problem in line


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    assert "No such file" in mistakes_of(config=tmp_path / "absent.toml")[0]
    assert "Is a directory" in mistakes_of(config=tmp_path)[0]
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    assert "this is not TOML" in mistakes_of(config=tmp_path / "bytes.toml")[0]
    (tmp_path / "large.toml").write_bytes(b"#" * 2_000_000)
    assert "larger than" in mistakes_of(config=tmp_path / "large.toml")[0]


SECRET = "hunter2"


def test_no_secret_is_in_the_repr() -> None:
    settings = Settings(
        servers={
            "a": HttpTarget(f"https://mcp.example/mcp?key={SECRET}"),
            "b": StdioTarget(("tool", "--token", SECRET)),
        }
    )

    assert SECRET not in f"{settings!r} {settings}"
    for target in settings.servers.values():
        assert SECRET not in f"{target!r} {target}"
    assert "mcp.example" in repr(settings)  # it is left out, not everything is


@pytest.mark.parametrize(
    "target",
    [
        f"https://me:{SECRET}@mcp.example/mcp",
        f"https://:x/{SECRET}@mcp.example/mcp",
        f"https://mcp.example/mcp?key={SECRET}#part",
        f"https://mcp.example:port/?key={SECRET}",
        f"ws:mcp.example/?key={SECRET}",
        f"stdio:tool --token '{SECRET}",
        f"stdio: tool --token '{SECRET}",
        f"gopher://me:{SECRET}@mcp.example",
        f"me:{SECRET}@mcp.example",
        f"mcp.example?key={SECRET}",
    ],
)
def test_no_secret_is_in_a_mistake_about_a_target(target: str, tmp_path: Path) -> None:
    by_flag = mistakes_of(flags={"servers": (f"a={target}",)})
    config = write(tmp_path, f"[outlast.servers]\na = {target!r}\n".replace('"stdio', '"stdio'))
    by_file = mistakes_of(config=config)
    by_variable = mistakes_of(environment={"OUTLAST_SERVERS": target})

    for line in (*by_flag, *by_file, *by_variable):
        assert SECRET not in line


def test_no_secret_is_in_a_mistake_about_the_store() -> None:
    (line,) = mistakes_of(environment={"SESSION_STORE": f"rediss://me:{SECRET}@cache.example/zero"})

    assert SECRET not in line
    assert "cache.example" in line


def test_every_setting_says_what_it_means() -> None:
    assert list(facts()) == [field.name for field in attrs.fields(Settings)]
    for fact in facts().values():
        assert fact.about
        assert fact.default_text
    variables = [fact.variable for fact in facts().values()]
    assert len(set(variables)) == len(variables)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Settings().sessions_max = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Settings(servers={"a": StdioTarget(("x",))}).servers["b"] = StdioTarget(("x",))  # type: ignore[index]
