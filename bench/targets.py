"""The targets of `bench calls`: what can be called, and how each is started.

All of them stand before (or are) the same scripted upstream, and each speaks MCP Streamable HTTP to the same load.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from bench.children import Child, child
from bench.cores import Cores

DIRECT = "direct"  # the upstream itself
GATEWAY = "gateway"  # `outlast serve`, SQLite store
GUARDED = "gateway-token"  # the same, and every request has a token
HYPERCORN = "hypercorn"  # a trivial ASGI app: no relaying at all
RELAY = "relay"  # the bare relay with JSON parsing
ALL = (DIRECT, GATEWAY, GUARDED, HYPERCORN, RELAY)
TOKEN = "a-token-for-the-load-alone"
SERVER_ID = "bench"  # what the gateway calls the scripted upstream
SPEAK_SSE = (DIRECT, GATEWAY, GUARDED)  # the references pass on plain JSON only


@attrs.frozen
class Target:
    """Something that can be called."""

    name: str
    url: str
    pid: int  # whose CPU time is measured
    token: str = ""  # to present with each request


@contextlib.contextmanager
def targets(names: tuple[str, ...], *, folder: Path, cores: Cores, sse: bool) -> Iterator[list[Target]]:
    """Run the upstream and the named targets for the length of the block.

    Args:
      names: some of `ALL`.
      folder: for the gateway's store and everybody's logs; the caller removes it.
      cores: the upstream runs beside the load, what is measured on a core of its own.
      sse: the upstream answers by SSE.
    """
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(upstream_child(folder=folder, core=cores.measuring, sse=sse))
        yield [_start(name, upstream, stack, folder, cores) for name in names]


@contextlib.contextmanager
def upstream_child(*, folder: Path, core: int | None, sse: bool = False) -> Iterator[Child]:
    """Run the scripted upstream for the length of the block."""
    arguments = ["bench.upstream", *(["--sse"] if sse else [])]
    with child("upstream", arguments, core=core, logs=folder) as running:
        yield running


@contextlib.contextmanager
def gateway_child(
    upstream_url: str,
    *,
    folder: Path,
    core: int | None,
    environment: Mapping[str, str] | None = None,
    name: str = GATEWAY,
) -> Iterator[Child]:
    """Run the gateway with its SQLite store in `folder` for the length of the block.

    Args:
      upstream_url: what it stands before.
      folder: for the store, `outlast.db`, and the log.
      core: where it runs; None: anywhere.
      environment: further settings, by their environment variables.
      name: of the child, and of its log.
    """
    arguments = ["outlast", "serve", "--listen", "127.0.0.1:0", "--server", f"{SERVER_ID}={upstream_url}"]
    settings = {
        "SESSION_STORE": f"sqlite:{folder / 'outlast.db'}",
        "OUTLAST_LOG_LEVEL": "warning",
        **(environment or {}),
    }
    with child(name, arguments, core=core, logs=folder, environment=settings) as running:
        yield running


def mcp_url(gateway: Child) -> str:
    """Where a gateway's only server is to be reached."""
    return f"{gateway.url.rstrip('/')}/mcp"


def _start(name: str, upstream: Child, stack: contextlib.ExitStack, folder: Path, cores: Cores) -> Target:
    if name == DIRECT:
        return Target(name, upstream.url, upstream.pid)
    if name == GATEWAY:
        running = stack.enter_context(gateway_child(upstream.url, folder=folder, core=cores.measured))
        return Target(name, mcp_url(running), running.pid)
    if name == GUARDED:
        own = folder / GUARDED  # a store has one user
        own.mkdir()
        settings = {"OUTLAST_CLIENT_TOKENS": f"load={TOKEN}"}
        guarded = gateway_child(upstream.url, folder=own, core=cores.measured, environment=settings, name=GUARDED)
        running = stack.enter_context(guarded)
        return Target(name, mcp_url(running), running.pid, TOKEN)
    arguments = ["bench.references", name] + (["--upstream", upstream.url] if name == RELAY else [])
    running = stack.enter_context(child(name, arguments, core=cores.measured, logs=folder))
    return Target(name, running.url, running.pid)
