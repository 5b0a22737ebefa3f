"""Commands beside the gateway of a `SecretsBed`: those that ask it, and those that are started wrongly.

Each is given secrets where it takes some: in its environment, in files, in a store's URL. Blocking: what they say is
heard when they have ended.
"""

from __future__ import annotations

from pathlib import Path

from tests.e2e.secrets_bed import SecretsBed

BAD_INPUT = 2


def ask_by_commands(bed: SecretsBed, directory: Path) -> None:
    """Ask the running gateway, with the right token, with a wrong one, and with files that hold none."""
    assert bed.gateway.ready_line is not None
    url = ("--url", bed.gateway.ready_line.url)
    for command in (("sessions", "list", "--records"), ("analytics",), ("top",), ("health",)):
        bed.run_command(*command, *url)
        wrong = {"OUTLAST_OPERATORS_TOKEN": bed.planted.plant("token that is not the operators'")}
        bed.run_command(*command, *url, **wrong)
    odd = directory / "odd-token"
    odd.write_text(f"{bed.planted.plant('token file')}\n{bed.planted.plant('second line of it')}\n")
    assert bed.run_command("sessions", "list", "--token-file", str(odd), *url) == BAD_INPUT
    _bridge(bed, directory)


def _bridge(bed: SecretsBed, directory: Path) -> None:
    """Start the bridge with credentials that are no good, and with a file of headers that is none."""
    plant = bed.planted.plant
    token = {"BRIDGE_TOKEN": plant("token of the bridge")}
    headers = directory / "headers"
    headers.write_text(f"X-Api-Key: {plant('header of the bridge')}\n")
    url = f"{bed.gateway.url('modern')}?key={plant('query of the bridge')}"
    flags = (
        "--token-env",
        "BRIDGE_TOKEN",
        "--header-file",
        str(headers),
        "--wait-seconds",
        "1",
        "--log-level",
        "debug",
    )
    bed.run_command("stdio", "--url", url, *flags, **token)
    headers.write_text(f"{plant('line that is no header')}\n")
    assert bed.run_command("stdio", "--url", url, *flags, **token) == BAD_INPUT


def start_wrongly(bed: SecretsBed, directory: Path) -> None:
    """Run what reads the whole configuration while something about it is wrong; then the other commands rightly."""
    plant = bed.planted.plant
    key = directory / "not-a-key.pem"
    key.write_text(f"-----BEGIN PRIVATE KEY-----\n{plant('file that is no key')}\n-----END PRIVATE KEY-----\n")
    store = bed.environment["SESSION_STORE"]
    password = bed.planted.by_place["password of the store"]
    wrong = (
        {"OUTLAST_KEYFILE": str(key)},
        {"OUTLAST_CERTFILE": bed.environment["OUTLAST_KEYFILE"]},
        {"SESSION_STORE": store.replace(password, plant("wrong password of the store"))},
        {"SESSION_STORE": store.replace("/0", "/x")},
        {"SESSION_STORE": store.replace("127.0.0.1:", "127.0.0.1:x")},
        {"SESSION_STORE": f"redis://{plant('user of a store')}:{plant('password of a user')}@127.0.0.1:1/0"},
        {"SESSION_ENCRYPTION_KEY": plant("another encryption key") + "A" * 13},
        {"SESSION_ENCRYPTION_KEY": plant("encryption key that is none")},
        {"OUTLAST_SERVERS": f"it=ws://127.0.0.1:1/ws?key={plant('query of a wrong target')}#x"},
        {"OUTLAST_SERVERS": f"it=sse+http://u:{plant('password of a target')}@127.0.0.1:1/sse"},
        {"OUTLAST_SERVER_HEADERS": f"nobody: Authorization: Bearer {plant('header for nobody')}"},
        {"OUTLAST_SERVER_HEADERS": f"modern: Authorization {plant('header without a colon')}"},
        {"OUTLAST_CLIENT_TOKENS": f"ada:{plant('token without a name')}"},
        {"OUTLAST_OPERATORS_TOKEN": f"{plant('token with a space')} x"},
        {"OUTLAST_UPSTREAM_PROXY": f"socks5://ada:{plant('password of a proxy of another kind')}@127.0.0.1:1"},
        {"OUTLAST_UPSTREAM_PROXY": f"http://ada:{plant('password of a proxy without a port')}@proxy.invalid"},
    )
    for changes in wrong:
        assert bed.run_command("serve", **changes) != 0, list(changes)
        bed.run_command("doctor", **changes)
    assert bed.run_command("export", "--output", "-") == 0
    assert bed.run_command("rekey", "--count") == 0
    bed.run_command("doctor")
