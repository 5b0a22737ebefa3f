"""The commands for operators of a running gateway: `outlast sessions ...`, `outlast analytics`, `outlast top`.

Apart from the command line for their length. What they need (trio, rich) is loaded when one of them runs.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from outlast.admin_client import AdminClient

PROGRAM = "outlast"
PAGE_SESSIONS = 200  # asked for at a time

EXIT_CODES = """\b
Exit codes:
  0  done
  1  the gateway would not do it, or cannot now; stderr says why
  2  no answer, no token, or bad input"""


def _common(command: Callable[..., int]) -> Callable[..., int]:
    """Add what says which gateway is meant, and how it answers."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Write what the gateway answered, as JSON."),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Where the operators' token is.  [the token itself in OUTLAST_OPERATORS_TOKEN]",
        ),
        click.option("--url", metavar="URL", help="The gateway's URL.  [http:// and OUTLAST_LISTEN, or its default]"),
    ):
        command = option(command)
    return command


@click.group("sessions", short_help="List, show and change the sessions of a running gateway.")
def sessions() -> None:
    """List, show and change the sessions of a running gateway.

    A session is named by its reference, as `outlast sessions list` shows it, or by its id, which is a secret.
    """


def _time_option(name: str, about: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.option(name, type=float, metavar="SECONDS", help=about)


@sessions.command("list", short_help="List sessions.", epilog=EXIT_CODES)
@_common
@click.option("--server", metavar="NAME", help="Only those of this server.")
@click.option("--state", type=click.Choice(["initialized", "uninitialized"]), help="Only those in this state.")
@click.option("--reason", metavar="REASON", help="Only those that are uninitialized for this reason.")
@click.option("--subject", metavar="SUBJECT", help="Only those of this principal; reads records.")
@click.option("--tag", metavar="TAG", help="Only those with this tag; reads records.")
@click.option("--text", metavar="TEXT", help="Only those whose short id or reference begins so.")
@_time_option("--idle-min", "Only those idle for at least so long.")
@_time_option("--idle-max", "Only those idle for at most so long.")
@_time_option("--created-from", "Only those created from this Unix time on; reads records.")
@_time_option("--created-until", "Only those created until this Unix time; reads records.")
@click.option(
    "--order",
    type=click.Choice(["last_active", "-last_active", "expires", "-expires", "revision", "-revision"]),
    default="-last_active",
    help="What to sort by; with a minus the largest first.  [-last_active]",
)
@click.option("--records", is_flag=True, help="Tell of subject, tags and calls, too: each record is read.")
@click.option("--limit", type=click.IntRange(min=1), default=100, metavar="N", help="At most so many.  [100]")
@click.option("--store", metavar="URL", help="Read a store that no gateway uses, in place of asking a gateway.")
def _list(
    url: str | None, token_file: Path | None, as_json: bool, store: str | None, limit: int, **wanted: object
) -> int:
    """List sessions, those used last first.

    With --store what the store's index tells is listed, and nothing is changed; keys are as for `outlast serve`.
    """
    query = {_PARAMETERS.get(name, name): value for name, value in wanted.items() if value not in (None, False)}
    if store is not None:
        if url is not None:
            return _refuse("--store reads a store, --url asks a gateway: choose one", 2)
        return _list_stored(store, query, limit, as_json)

    async def work(client: AdminClient) -> Any:
        return await _pages(client, query, limit)

    return _run(url, token_file, as_json, work, _show_list)


def _show_list(found: Any) -> RenderableType:
    import time

    from outlast import operators_view

    if found["next"] is not None:
        click.echo(f"{PROGRAM}: there are more; raise --limit", err=True)
    return operators_view.sessions(found, time.time())


def _list_stored(store: str, query: dict[str, Any], limit: int, as_json: bool) -> int:
    import trio

    from actors.listing import Order
    from outlast.endings import ending_of
    from outlast.sources import SettingsInvalid, load_settings
    from outlast.stored_sessions import filter_of, list_stored
    from persistence.store import StoreError

    wanted = filter_of(query)
    if isinstance(wanted, str):
        return _refuse(f"{wanted} needs the sessions' records: ask a running gateway, or see outlast export", 2)
    try:
        settings = load_settings(environment=os.environ, flags={"store": store})
        found = trio.run(list_stored, settings, wanted, Order(str(query["order"])), limit)
    except SettingsInvalid as error:
        return _refuse("; ".join(error.lines), 2)
    except StoreError as error:
        ending = ending_of(error, listen=settings.listen, ready=False)
        assert ending is not None, "these are known"
        return _refuse("; ".join(ending.lines), ending.code)
    _write(found, as_json, _show_list)
    return 0


_PARAMETERS = {
    "idle_min": "idleSecondsMin",
    "idle_max": "idleSecondsMax",
    "created_from": "createdFrom",
    "created_until": "createdUntil",
}


async def _pages(client: AdminClient, query: dict[str, object], limit: int) -> Any:
    """Ask for pages until there are enough sessions, or no more."""
    found: list[Any] = []
    cursor: str | None = None
    while True:
        count = min(PAGE_SESSIONS, limit - len(found))
        page = await client.ask("GET", "/sessions", query={**query, "limit": count, "cursor": cursor})
        found += page["sessions"]
        cursor = page["next"]
        if cursor is None or len(found) >= limit:
            return {"sessions": found, "next": cursor}


@sessions.command("show", short_help="Show a session, without its secrets.", epilog=EXIT_CODES)
@click.argument("session")
@_common
def _show(session: str, url: str | None, token_file: Path | None, as_json: bool) -> int:
    """Show a session, without its secrets."""
    return _one(url, token_file, as_json, session, "GET")


@sessions.command("close", short_help="End a session for good.", epilog=EXIT_CODES)
@click.argument("session")
@_common
def _close(session: str, url: str | None, token_file: Path | None, as_json: bool) -> int:
    """End a session for good: here, in the store and upstream. Its client is told that it is gone."""

    async def work(client: AdminClient) -> Any:
        from outlast.admin_client import session_path

        return await client.ask("DELETE", session_path(session))

    return _run(url, token_file, as_json, work, lambda told: _text(_closed(told)))


def _closed(told: Any) -> str:
    """Say what became of it, and of its session at its server, which may go on there until it expires."""
    if not told or told.get("upstream") != "not_told":
        return "closed"
    return f"closed; its server was not told, and keeps its own until that expires: {told['detail']}"


@sessions.command("reinitialize", short_help="Give a session a new upstream session.", epilog=EXIT_CODES)
@click.argument("session")
@_common
def _reinitialize(session: str, url: str | None, token_file: Path | None, as_json: bool) -> int:
    """Drop a session's upstream session and do its handshake again.

    Calls in progress end in an error. A session that was uninitialized is in force again if its server takes it.
    """
    return _one(url, token_file, as_json, session, "POST", "/reinitialize")


@sessions.command("history", short_help="Show a session's tool calls.", epilog=EXIT_CODES)
@click.argument("session")
@_common
@click.option("--limit", type=click.IntRange(1, 200), default=50, metavar="N", help="At most so many.  [50]")
@click.option("--before", type=click.IntRange(min=1), metavar="NUMBER", help="Only calls before this one.")
def _history(
    session: str, url: str | None, token_file: Path | None, as_json: bool, limit: int, before: int | None
) -> int:
    """Show a session's tool calls, newest first."""

    async def work(client: AdminClient) -> Any:
        from outlast.admin_client import session_path

        path = session_path(session, "/history")
        return await client.ask("GET", path, query={"limit": limit, "before": before})

    def show(found: Any) -> RenderableType:
        from outlast import operators_view

        if found["next"] is not None:
            click.echo(f"{PROGRAM}: there are older ones: --before {found['next']}", err=True)
        return operators_view.history(found)

    return _run(url, token_file, as_json, work, show)


@sessions.command("tag", short_help="Put tags on a session, or take them off.", epilog=EXIT_CODES)
@click.argument("session")
@click.argument("tags", nargs=-1)
@_common
@click.option("--remove", multiple=True, metavar="TAG", help="Take this tag off.")
@click.option("--set", "settings", multiple=True, metavar="NAME=TEXT", help="Note this in the metadata.")
@click.option("--forget", multiple=True, metavar="NAME", help="Forget this of the metadata.")
def _tag(
    session: str,
    tags: tuple[str, ...],
    url: str | None,
    token_file: Path | None,
    as_json: bool,
    remove: tuple[str, ...],
    settings: tuple[str, ...],
    forget: tuple[str, ...],
) -> int:
    """Put tags on a session or take them off, and change its metadata; all of it is kept, or nothing."""
    wrong = next((one for one in settings if "=" not in one), None)
    if wrong is not None:
        return _refuse(f"--set {wrong}: it must be NAME=TEXT", 2)
    values = {name: value for name, _, value in (one.partition("=") for one in settings)}
    change = {"addTags": tags, "removeTags": remove, "set": values, "forget": forget}
    if not any(change.values()):
        return _refuse("nothing to change: name a tag, or use --remove, --set or --forget", 2)
    return _one(url, token_file, as_json, session, "PATCH", body=change)


@click.command("analytics", short_help="Show what a running gateway's sessions are used for.", epilog=EXIT_CODES)
@_common
def analytics(url: str | None, token_file: Path | None, as_json: bool) -> int:
    """Show what a running gateway's sessions are used for, since it started."""

    async def work(client: AdminClient) -> Any:
        return await client.ask("GET", "/analytics")

    def show(found: Any) -> RenderableType:
        from outlast import operators_view

        return operators_view.analytics(found)

    return _run(url, token_file, as_json, work, show)


@click.command("top", short_help="Watch a running gateway at work.", epilog=EXIT_CODES)
@_common
@click.option(
    "--every", type=click.FloatRange(0.2, 3600), default=2.0, metavar="SECONDS", help="Between two looks.  [2]"
)
def top(url: str | None, token_file: Path | None, as_json: bool, every: float) -> int:
    """Watch a running gateway at work; q ends it. In a pipe, or on a terminal that cannot be drawn on, look once."""
    if as_json or not sys.stdout.isatty() or os.environ.get("TERM", "").lower() in ("dumb", "unknown"):

        async def work(client: AdminClient) -> Any:
            return await client.ask("GET", "/analytics")

        return _run(url, token_file, as_json, work, _look)
    return _watch(url, token_file, every)


def _look(found: Any) -> RenderableType:
    from outlast.top import render

    return render(found, None)


def _watch(url: str | None, token_file: Path | None, every_seconds: float) -> int:
    import trio

    from outlast import top as table
    from outlast.admin_client import AskFailed, make_client
    from outlast.kinds import Refused
    from outlast.operators_view import console

    try:
        client = make_client(url, token_file, os.environ)
        look = functools.partial(client.ask, "GET", "/analytics")
        pressed = table.keys_of_terminal if sys.stdin.isatty() else table.no_keys
        watch = functools.partial(table.watch, look, client.base, console(), pressed, every_seconds=every_seconds)
        with table.keys_at_once(sys.stdin) if sys.stdin.isatty() else nullcontext():
            trio.run(watch)
    except Refused as refused:
        return _refuse(str(refused), 2)
    except AskFailed as failed:
        return _refuse(str(failed), failed.code)
    except KeyboardInterrupt:
        return 0  # the other way to end it
    return 0


def _one(
    url: str | None,
    token_file: Path | None,
    as_json: bool,
    session: str,
    method: str,
    below: str = "",
    *,
    body: object = None,
) -> int:
    """Ask something of one session, and show it as it is then."""

    async def work(client: AdminClient) -> Any:
        from outlast.admin_client import session_path

        return await client.ask(method, session_path(session, below), body=body)

    def show(found: Any) -> RenderableType:
        from outlast import operators_view

        return operators_view.session(found)

    return _run(url, token_file, as_json, work, show)


def _run(
    url: str | None,
    token_file: Path | None,
    as_json: bool,
    work: Callable[[AdminClient], Awaitable[Any]],
    show: Callable[[Any], RenderableType],
) -> int:
    """Ask a gateway, show what it answered, and give the exit code."""
    import trio

    from outlast.admin_client import AskFailed, make_client
    from outlast.kinds import Refused

    try:
        answer = trio.run(work, make_client(url, token_file, os.environ))
    except Refused as refused:
        return _refuse(str(refused), 2)
    except AskFailed as failed:
        return _refuse(str(failed), failed.code)
    _write(answer, as_json, show)
    return 0


def _write(answer: Any, as_json: bool, show: Callable[[Any], RenderableType]) -> None:
    if as_json:
        import json

        click.echo(json.dumps(answer, indent=2))
        return
    from outlast.operators_view import console

    console().print(show(answer))


def _text(words: str) -> RenderableType:
    from outlast import operators_view

    return operators_view.text(words)


def _refuse(line: str, code: int) -> int:
    click.echo(f"{PROGRAM}: {' '.join(line.splitlines())}", err=True)
    return code
