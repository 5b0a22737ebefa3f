"""The command `outlast stdio`: its flags. What it does is in `outlast/bridging.py`, which is not imported for help."""

from __future__ import annotations

from pathlib import Path

import click

from outlast.refusing import refuse

_EXIT_CODES = """\b
Exit codes:
  0  the client has ended
  1  a defect: please report the traceback
  2  bad input (flags, header file, variable); nothing was sent
  3  the session cannot go on (the server refuses it): start again"""


@click.command("stdio", short_help="Be a local MCP server over stdio, for a server at a URL.", epilog=_EXIT_CODES)
@click.option("--url", required=True, metavar="URL", help="The MCP endpoint: a gateway's, or any server's.")
@click.option(
    "--header-file",
    "header_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Headers to send, one NAME: VALUE in a line. Can be given several times.",
)
@click.option("--token-env", metavar="NAME", help="A variable with a token to send, as Authorization: Bearer.")
@click.option(
    "--wait-seconds",
    type=click.FloatRange(1, 3600),
    default=60.0,
    show_default=True,
    help="How long the server may be away before a request is refused.",
)
@click.option(
    "--grace-seconds",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    help="How long calls in flight have to be answered when stdin has ended.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    default="warning",
    show_default=True,
    help="The least urgent to log, on stderr.",
)
def stdio_command(
    url: str,
    header_files: tuple[Path, ...],
    token_env: str | None,
    wait_seconds: float,
    grace_seconds: float,
    log_level: str,
) -> int:
    """Be a local MCP server over stdio, for clients that cannot speak HTTP, or do not reconnect.

    What the client writes goes to the server at URL over Streamable HTTP, and back. The session outlasts the
    server's restarts: what surely was not taken is sent again, streams are resumed, and what is in doubt is
    answered with an error (-32011). stdout carries the protocol alone; logs go to stderr.
    """
    from outlast.bridge import BridgeOptions
    from outlast.bridging import run_stdio

    options = BridgeOptions(wait_seconds=wait_seconds, grace_seconds=grace_seconds)
    return run_stdio(url, header_files, token_env, options, log_level=log_level, refuse=refuse)
