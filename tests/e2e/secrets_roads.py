"""Secrets in the places that only other transports, TLS and Redis have: a `SecretsBed` with all of these at once.

Its servers are reached over HTTP+SSE, WebSocket and without a session; some are away, some refuse the gateway's own
credentials, and some repeat them in their errors. The gateway stands behind TLS, its sessions in a Redis that asks for
a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tests.certificates import Authority
from tests.e2e.gateway import Gateway
from tests.e2e.issuer import AUDIENCE, Issuer
from tests.e2e.journal import Journal
from tests.e2e.modern_server import MODULE as MODERN
from tests.e2e.repeating_server import repeating_server
from tests.e2e.secrets_bed import Planted, SecretsBed
from tests.e2e.upstream import Upstream, stdio_target
from tests.persistence.redis_servers import RedisServer, free_ports, running

SERVING = ("modern", "events", "socket")
REFUSING = ("refused-events", "refused-socket")
AWAY = ("gone-events", "gone-socket")
REPEATING = tuple(
    f"repeats-{how}" for how in ("302", "400", "401", "403", "404", "500", "html", "events", "sse", "socket")
)
OF_AN_ISSUER = tuple(f"oauth-{how}" for how in ("401", "403", "500", "html", "events", "sse", "refused", "socket"))
EXCHANGING = tuple(f"exchange-{how}" for how in ("401", "403", "html", "sse", "refused", "socket"))
TOKEN_OF_ADA = "token of ada for an exchange"


def make_roads_bed(directory: Path, *, road: str, form: str) -> SecretsBed:
    """Configure it, and start all but its gateway."""
    planted = Planted()
    authority = Authority()
    tls = _tls_settings(directory, planted, authority)
    bed = SecretsBed(planted, Gateway(directory, {}), {}, tls=authority.trusting())
    try:
        servers = _start_servers(bed, directory)
        environment = {
            **tls,
            "OUTLAST_SERVERS": "\n".join(f"{name}={target}" for name, target in servers.items()),
            "OUTLAST_SERVER_HEADERS": "\n".join(
                f"{name}: Authorization: Bearer {planted.plant(f'header for {name}')}"
                for name in servers
                if name not in (*OF_AN_ISSUER, *EXCHANGING)
            ),
            **_start_issuer(bed, urlsplit(servers["repeats-400"]).netloc),
            "OUTLAST_CLIENT_TOKENS": f"ada={planted.plant('token of ada')},eve={planted.plant('token of eve')}",
            "OUTLAST_OPERATORS_TOKEN": planted.plant("token of operators"),
            "SESSION_STORE": _start_redis(bed),
            "SESSION_ENCRYPTION_KEY": planted.plant("encryption key") + "A" * 13,
            "OUTLAST_LOG_LEVEL": "debug",
            "OUTLAST_LOG_FORMAT": form,
            "OUTLAST_ACCESS_LOG": "all",
            "OUTLAST_RESTORE_WAIT_SECONDS": "1",  # for servers that are not there
        }
        gateway = Gateway(directory / "gateway", {}, road=road, environment=environment)
    except BaseException:
        bed.closing.close()
        raise
    return SecretsBed(planted, gateway, environment, tls=bed.tls, closing=bed.closing)


def _tls_settings(directory: Path, planted: Planted, authority: Authority) -> Mapping[str, str]:
    certfile, keyfile = directory / "chain.pem", directory / "key.pem"
    authority.issue(certfile, keyfile)
    for number, line in enumerate(keyfile.read_text().splitlines()[1:-1], start=1):
        planted.keep(f"line {number} of the private key", line)
    return {
        "OUTLAST_CERTFILE": str(certfile),
        "OUTLAST_KEYFILE": str(keyfile),
        "SSL_CERT_FILE": str(authority.write(directory / "authority.pem")),  # for commands that ask the gateway
    }


def _start_redis(bed: SecretsBed) -> str:
    password = bed.planted.plant("password of the store")
    server = RedisServer(port=free_ports(1)[0])
    bed.closing.enter_context(running(server))
    server.ask("CONFIG", "SET", "requirepass", password)
    return f"redis://:{password}@127.0.0.1:{server.port}/0"


def _start_issuer(bed: SecretsBed, repeating: str) -> dict[str, str]:
    """Start what gives the gateway its tokens; give the settings. Two servers have a token endpoint that repeats."""
    plant = bed.planted.plant
    issuer = Issuer()
    bed.closing.callback(issuer.close)
    bed.planted.keep(TOKEN_OF_ADA, issuer.token("ada"))
    issuer.make_token = lambda number: plant(f"token {number} for a server")
    lines = []
    for name in (*OF_AN_ISSUER, *EXCHANGING):
        grant = "token_exchange" if name in EXCHANGING else "client_credentials"
        endpoint = f"http://{repeating}/400/token" if name.endswith("refused") else f"{issuer.url}/token"
        method = "client_secret_post" if name.endswith(("refused", "401")) else "client_secret_basic"
        lines += [f"{name}: grant={grant}", f"{name}: client_id=gateway"]
        lines += [f"{name}: client_secret={plant(f'client secret for {name}')}", f"{name}: token_endpoint={endpoint}"]
        lines += [f"{name}: client_authentication={method}"]
    return {
        "OUTLAST_SERVER_OAUTH": "\n".join(lines),
        "OUTLAST_OAUTH_ISSUER": issuer.url,
        "OUTLAST_OAUTH_AUDIENCES": AUDIENCE,
    }


def _start_servers(bed: SecretsBed, directory: Path) -> dict[str, str]:
    """Start what stands behind the gateway; give their targets by name."""
    modern = Upstream(directory / "modern", module=MODERN)
    events = Upstream(directory / "events", sse=True)
    # The SDK has dropped WebSocket. Another gateway speaks it, and wants to see a token.
    token = f"gateway={bed.planted.plant('header for socket')}"
    socket = Gateway(
        directory / "second",
        {"it": stdio_target(Journal(directory))},
        environment={"OUTLAST_CLIENT_TOKENS": token, "OUTLAST_LOG_LEVEL": "debug", "OUTLAST_ACCESS_LOG": "all"},
    )
    for peer in (modern, events, socket):
        bed.closing.callback(peer.kill)
        peer.start_blocking()
    repeating = bed.closing.enter_context(repeating_server())
    repeating_names = (*REPEATING, *OF_AN_ISSUER, *EXCHANGING)
    targets = {
        "modern": modern.url,
        "events": f"sse+{events.url}",
        "socket": f"ws://{socket.address}/ws",
        "refused-events": f"sse+http://{socket.address}/sse",
        "refused-socket": f"ws://{socket.address}/ws",
        "gone-events": "sse+http://127.0.0.1:1/sse",
        "gone-socket": "ws://127.0.0.1:1/ws",
        **{
            name: _repeating_target(name.partition("-")[2], repeating)
            for name in (*REPEATING, *OF_AN_ISSUER, *EXCHANGING)
        },
    }
    assert set(targets) == {*SERVING, *REFUSING, *AWAY, *repeating_names}
    return {name: f"{target}?key={bed.planted.plant(f'query of {name}')}" for name, target in targets.items()}


def _repeating_target(how: str, address: str) -> str:
    if how == "socket":
        return f"ws://{address}/400/ws"
    if how == "refused":
        return f"http://{address}/401/mcp"
    return f"sse+http://{address}/events/sse" if how == "sse" else f"http://{address}/{how}/mcp"


def sse_url(url: str) -> str:
    """Where a server's event stream is, from where its MCP endpoint is; the query stays."""
    parts = urlsplit(url)
    return parts._replace(path=parts.path.removesuffix("mcp") + "sse").geturl()
