"""The files for deploying name what exists: settings, commands, probes, exit codes; and their readers take them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from outlast.endings import BAD_INPUT
from outlast.settings import Settings, facts
from outlast.sources import SettingsInvalid, load_settings
from tests.outlast.command_lines import parses

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
UNIT = (DEPLOY / "outlast.service").read_text()
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
VARIABLES = {fact.variable for fact in facts().values()} | {"REDIS_URL", "OUTLAST_CONFIG"}
# Of other programs, and meant.
FOREIGN_VARIABLES = {"HOME", "PATH", "PYTHONDONTWRITEBYTECODE"}
SECONDS_AFTER_GRACE = 2.0  # serving.LAST_ANSWERS_SECONDS, twice


def unknown_settings(variables: Mapping[str, str]) -> list[str]:
    """Find what is no setting among variables, and what their values are refused for."""
    unknown = [name for name in variables if name not in VARIABLES | FOREIGN_VARIABLES]
    known = {name: value for name, value in variables.items() if name in VARIABLES}
    try:
        load_settings(config=None, environment=known, flags={})
    except SettingsInvalid as invalid:
        return [*unknown, *invalid.lines]
    return unknown


# ---- container ----


def instructions(text: str, name: str) -> list[str]:
    """Give what stands behind one instruction of a Containerfile, its continued lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    return [line.removeprefix(f"{name} ").strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def container_environment() -> dict[str, str]:
    return dict(part.split("=", 1) for line in instructions(CONTAINERFILE, "ENV") for part in line.split())


def test_everything_that_the_image_is_built_of_is_there_and_not_ignored() -> None:
    sources = [
        source
        for line in instructions(CONTAINERFILE, "COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    ]
    allowed = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    assert sources
    assert [source for source in sources if not (ROOT / source).exists() or source not in allowed] == []


def test_all_that_the_wheel_needs_is_copied() -> None:
    wheel = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert wheel is not None
    copied = " ".join(instructions(CONTAINERFILE, "COPY")).split()
    assert set(json.loads(wheel[1])) | {"pyproject.toml", "README.md", "LICENSE", "NOTICE"} <= set(copied)


def test_the_image_s_commands_and_settings_are_understood() -> None:
    assert parses(
        [
            *json.loads(instructions(CONTAINERFILE, "ENTRYPOINT")[0])[1:],
            *json.loads(instructions(CONTAINERFILE, "CMD")[0]),
        ]
    )
    assert unknown_settings(container_environment()) == []


def test_an_engine_asks_the_image_whether_it_is_alive_and_no_more() -> None:
    """An engine restarts what is unhealthy: a store or a server that is away is no reason to."""
    (check,) = instructions(CONTAINERFILE, "HEALTHCHECK")
    program, flag, script = json.loads(check[check.index("[") :])
    assert (program, flag) == ("python", "-c")
    compile(script, "HEALTHCHECK", "exec")
    port = container_environment()["OUTLAST_LISTEN"].rpartition(":")[2]
    assert f"http://127.0.0.1:{port}/healthz" in script
    (whole,) = (line for line in script.split("timeout=")[1:])
    assert float(whole.rstrip(")")) < float(check.partition("--timeout=")[2].partition("s")[0])


def test_the_image_runs_as_nobody_in_particular_and_writes_to_its_volume_only() -> None:
    assert instructions(CONTAINERFILE, "USER") == ["10001:10001"]
    assert instructions(CONTAINERFILE, "VOLUME") == [container_environment()["SESSION_DATA_DIR"]]
    assert instructions(CONTAINERFILE, "STOPSIGNAL") == ["SIGTERM"]


# ---- systemd ----


def directives(name: str) -> list[str]:
    return [line.partition("=")[2] for line in UNIT.splitlines() if line.startswith(f"{name}=")]


def test_the_unit_s_command_and_settings_are_understood() -> None:
    (command,) = directives("ExecStart")
    assert parses(shlex.split(command)[1:])
    assert unknown_settings(dict(line.split("=", 1) for line in directives("Environment"))) == []


def test_the_unit_gives_draining_its_time_and_does_not_retry_bad_input() -> None:
    assert float(directives("TimeoutStopSec")[0]) > Settings().shutdown_grace_seconds + SECONDS_AFTER_GRACE
    assert directives("RestartPreventExitStatus") == [str(BAD_INPUT)]
    assert (directives("Type"), directives("NotifyAccess")) == (["notify"], ["main"])


def test_a_server_s_program_that_asks_for_too_much_is_refused_and_not_killed() -> None:
    assert directives("SystemCallErrorNumber") == ["EPERM"]
    home = dict(line.split("=", 1) for line in directives("Environment"))["HOME"]
    assert home == f"/var/lib/{directives('StateDirectory')[0]}", "the one folder that can be written to"


# ---- Kubernetes ----


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def workload(path: Path) -> Any:
    return next(document for document in documents(path) if "template" in document["spec"])


def probes(container: Any) -> Iterator[Any]:
    return (container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe"))


def literal_environment(container: Any) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_a_manifest_with_a_misspelt_field_is_not() -> None:
    wrong = workload(MANIFESTS[0])
    wrong["spec"]["replica"] = wrong["spec"].pop("replicas")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_name_settings_and_probes_that_there_are(path: Path) -> None:
    (container,) = workload(path)["spec"]["template"]["spec"]["containers"]
    assert [entry["name"] for entry in container["env"] if entry["name"] not in VARIABLES] == []
    assert unknown_settings(literal_environment(container)) == []
    assert {probe["path"] for probe in probes(container)} == {"/healthz", "/readyz"}
    assert parses(container["args"])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pods_have_one_owner_of_the_sessions_and_time_to_drain(path: Path) -> None:
    document = workload(path)
    pod = document["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    grace_seconds = float(literal_environment(container)["OUTLAST_SHUTDOWN_GRACE_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > grace_seconds + SECONDS_AFTER_GRACE
    assert document["spec"]["replicas"] == 1
    assert document["kind"] == "StatefulSet" or document["spec"]["strategy"] == {"type": "Recreate"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_pods_reach_the_port_that_the_image_listens_on(path: Path) -> None:
    (container,) = workload(path)["spec"]["template"]["spec"]["containers"]
    port = int(container_environment()["OUTLAST_LISTEN"].rpartition(":")[2])
    assert container["ports"] == [{"name": "http", "containerPort": port}]
    assert instructions(CONTAINERFILE, "EXPOSE") == [str(port)]
    assert {probe["port"] for probe in probes(container)} == {"http"}


def test_what_is_wrong_would_be_found() -> None:
    assert unknown_settings({"OUTLAST_LISTENS": "x"}) == ["OUTLAST_LISTENS"]
    assert unknown_settings({"OUTLAST_LISTEN": "nowhere"})
    assert not parses(["serve", "--no-such-flag"])
    assert parses(["health", "--url", "http://127.0.0.1:8080"])
