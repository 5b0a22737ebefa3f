"""What the administration told, for people: tables in a terminal, or in a pipe.

Names of tools, tags and the like come from clients: they are shown as text, never as markup, and what a terminal would
take for a command (escape sequences) is shown as a mark.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 200  # where there is no terminal, lines are not broken at its 80

Json = Mapping[str, Any]


def console(file: TextIO | None = None) -> Console:
    """Give where tables are written to."""
    file = sys.stdout if file is None else file
    width = None if file.isatty() else PIPE_COLUMNS
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def text(value: object, style: str = "") -> Text:
    """Give a text as it may be shown in a terminal."""
    return Text("".join(character if character.isprintable() else "�" for character in str(value)), style=style)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """Make a table; a column whose name begins with `>` has numbers."""
    made = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    for row in rows:
        made.add_row(*[cell if isinstance(cell, Text) else text(cell) for cell in row])
    return made


def sessions(found: Json, now_unix_s: float) -> RenderableType:
    """Show a list of sessions."""
    rows = []
    with_records = any(one["record"] for one in found["sessions"])
    for one in found["sessions"]:
        record = one["record"] or {}
        state = text(one["state"] if not one["reason"] else f"{one['state']}: {one['reason']}")
        state.stylize("red" if one["reason"] else "green")
        more = [
            record.get("subject", ""),
            ", ".join(record.get("tags", ())),
            record.get("toolCalls", ""),
            record.get("errors", ""),
        ]
        row = [
            one["reference"],
            one["id"],
            one["server"],
            state,
            duration(now_unix_s - one["lastActive"]),
            "never" if one["expires"] is None else duration(one["expires"] - now_unix_s),
            "yes" if one["resident"] else "",
        ]
        rows.append([*row, *more] if with_records else row)
    columns = ["reference", "id", "server", "state", ">idle", ">expires in", "in memory"]
    return table([*columns, "subject", "tags", ">calls", ">errors"] if with_records else columns, rows)


def session(found: Json) -> RenderableType:
    """Show one session."""
    lines = _lines({key: value for key, value in found.items() if key not in ("details", "record")})
    details = found["details"]
    if details is not None:
        lines += _lines(details)
    grid = Table.grid(padding=(0, 2))
    for name, value in lines:
        grid.add_row(text(name, "bold"), text(value))
    return grid


_TIMES = {"lastActive", "expires", "created", "started"}


def _lines(found: Json, above: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in found.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            lines += _lines(value, f"{name}.")
        elif isinstance(value, list):
            lines.append((name, ", ".join(map(str, value))))
        elif key in _TIMES and isinstance(value, float | int):
            lines.append((name, moment(value)))
        elif value not in (None, ""):
            lines.append((name, str(value)))
    return lines


def history(found: Json) -> RenderableType:
    """Show a session's calls."""
    rows = []
    for call in found["calls"]:
        outcome = call["outcome"] if not call["code"] else f"{call['outcome']} ({call['code']})"
        row = [call["number"], moment(call["started"]), call["tool"], duration(call["seconds"])]
        rows.append([*row, text(outcome, "" if call["outcome"] == "ok" else "red")])
    return table([">number", "started", "tool", ">took", "outcome"], rows)


def analytics(found: Json) -> RenderableType:
    """Show what sessions are used for."""
    counts, calls, store = found["sessions"], found["calls"], found["store"]
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        text("sessions", "bold"),
        text(
            f"{counts['known']} known, {counts['active']} active, {counts['resident']} in memory,"
            f" {counts['uninitialized']} uninitialized, {counts['ended']} ended, {counts['turnedAway']} turned away"
        ),
    )
    grid.add_row(
        text("calls", "bold"),
        text(
            f"{calls['requests']} ended, {calls['errors']} errors ({calls['errorRate']:.1%});"
            f" tools p50 {duration(calls['p50Seconds'])}, p95 {duration(calls['p95Seconds'])}"
        ),
    )
    grid.add_row(text("store", "bold"), _store(store))
    return Group(grid, tools(found["tools"]), upstreams(found["upstreams"], found["at"]))


def _store(store: Json) -> Text:
    if store["outageSeconds"]:
        risk = f", {store['factsAtRisk']} facts at risk" if store["factsAtRisk"] else ""
        return text(f"away for {duration(store['outageSeconds'])}{risk}", "bold red")
    return text(f"lag {duration(store['lagSeconds'])}, {store['backlogRows']} rows wait, {store['commits']} commits")


def tools(found: Sequence[Json], rates: Mapping[tuple[str, str], float] | None = None) -> RenderableType:
    """Show tools; with how many calls a second there were of each, where that is known."""
    rows = []
    for tool in found:
        row: list[object] = [tool["server"], tool["tool"]]
        if rates is not None:
            row.append(f"{rates.get((tool['server'], tool['tool']), 0.0):.1f}")
        errors = text(tool["errors"], "red" if tool["errors"] else "")
        row += [tool["calls"], errors, f"{tool['errorRate']:.1%}"]
        rows.append([*row, duration(tool["p50Seconds"]), duration(tool["p95Seconds"])])
    columns = ["server", "tool", *([] if rates is None else [">calls/s"]), ">calls", ">errors", ">rate", ">p50", ">p95"]
    return table(columns, rows)


_STATES = {"closed": ("in use", "green"), "open": ("away", "bold red"), "half-open": ("being tried", "yellow")}


def upstreams(found: Sequence[Json], now_unix_s: float) -> RenderableType:
    """Show how servers fare."""
    rows = []
    for one in found:
        words, style = _STATES.get(one["state"], (one["state"], ""))
        since = duration(now_unix_s - one["since"])
        rows.append([one["server"], one["transport"], text(words, style), since, one["lastError"]])
    return table(["upstream", "transport", "state", ">for", "last error"], rows)


def moment(unix_s: float) -> str:
    """Give a moment as text, in UTC."""
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"{unix_s:g}"


_UNITS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def duration(seconds: float) -> str:
    """Give a duration as text, as exact as it matters."""
    if abs(seconds) < 1.0:
        return f"{seconds * 1000:.0f} ms" if abs(seconds) >= 0.0005 else "0"
    for size, unit in _UNITS:
        if abs(seconds) >= size:
            return f"{seconds / size:.1f} {unit}"
    raise AssertionError("a second is the smallest unit")
