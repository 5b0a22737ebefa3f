"""The command `outlast stdio`: what it is given, this process's standard streams, signals, exit codes.

- stdout carries the protocol alone. Whatever else is printed in this process goes to stderr.
- Credentials are read here and shown nowhere.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import structlog
import trio

from outlast.bridge import BridgeOptions, bridge
from outlast.endings import OK
from outlast.header_files import read_headers
from outlast.kinds import Refused
from outlast.log_secrets import secret_texts
from outlast.logs import configure_logs
from outlast.stderr import never_waiting
from outlast.targets import HttpTarget, parse_target
from transport.clients.stdio import StdioClient, StdioEnd
from transport.upstreams.http_target import HttpTarget as Endpoint

log = structlog.get_logger("outlast.bridging")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

SESSION_LOST = 3  # as `serve` where its store is lost: nothing is wrong with the input, start again


def run_stdio(
    url: str,
    header_files: tuple[Path, ...],
    token_variable: str | None,
    options: BridgeOptions,
    *,
    log_level: str,
    refuse: Callable[..., int],
) -> int:
    """Be an MCP server over stdio until the client has ended; give the exit code.

    Args:
      url: the MCP endpoint of the server that is meant.
      refuse: says on stderr what is wrong, one line for each thing, and gives the exit code for it.
    """
    try:
        endpoint = _checked(url)
        headers = read_headers(header_files, token_variable, os.environ)
    except Refused as refused:
        return refuse(*refused.problems)
    try:
        for descriptor in (0, 1):
            os.fstat(descriptor)
    except OSError:
        return refuse("stdin and stdout must be open: the client writes to the one and reads from the other")
    configure_logs(level=log_level, form="auto", stream=never_waiting(), secrets=secret_texts(headers))
    if headers and endpoint.origin.scheme == "http" and not _is_here(endpoint.origin.host):
        log.warning("headers_are_sent_in_clear", to=str(endpoint.origin), what_to_do="use an https URL")
    end = trio.run(partial(_bridge_standard_streams, url, headers, options))
    return SESSION_LOST if end is StdioEnd.SESSION_LOST else OK


def _checked(url: str) -> Endpoint:
    target = parse_target(url)
    if not isinstance(target, HttpTarget):
        raise Refused("--url: write http://HOST/PATH or https://HOST/PATH; a program needs no bridge")
    try:
        return Endpoint.parse(url)
    except ValueError as error:
        raise Refused(f"--url: {error}") from None


async def _bridge_standard_streams(url: str, headers: Mapping[str, str], options: BridgeOptions) -> StdioEnd:
    source, sink = take_standard_streams()
    ended: list[StdioEnd] = []
    async with source, sink, trio.open_nursery() as nursery:

        async def run(task_status: trio.TaskStatus[StdioClient]) -> None:
            ended.append(await bridge(url, headers, source, sink, options=options, task_status=task_status))
            nursery.cancel_scope.cancel()

        client: StdioClient = await nursery.start(run)
        nursery.start_soon(_stop_when_told, client)
    return ended[0]


async def _stop_when_told(client: StdioClient) -> None:
    with trio.open_signal_receiver(*_SIGNALS) as received:
        async for _ in received:
            client.stop()
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)  # a second one means it


def take_standard_streams() -> tuple[trio.lowlevel.FdStream, trio.lowlevel.FdStream]:
    """Take stdin and stdout for the protocol. Who prints from now on, prints on stderr; who reads stdin, reads nothing.

    Returns:
      What the client writes, and what it reads. The caller's to close.
    """
    sys.stdout.flush()
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    return trio.lowlevel.FdStream(source), trio.lowlevel.FdStream(sink)


def _is_here(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
