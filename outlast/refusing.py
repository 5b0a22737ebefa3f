"""Refusing: one line on stderr for each thing that is wrong, and the exit code for it."""

from __future__ import annotations

import click

PROGRAM = "outlast"


def refuse(*lines: str, code: int = 2) -> int:
    """Say what is wrong; give the exit code, for the caller to end with."""
    for line in lines:
        # A value may hold line ends; a refusal stays one line.
        click.echo(f"{PROGRAM}: {' '.join(line.splitlines())}", err=True)
    return code
