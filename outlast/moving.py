"""The commands `outlast export` and `outlast import`: files, lines for people, exit codes.

Apart from the command line, which has no more of them than their flags: what they need (trio, the stores, the session's
core) is not loaded by other commands.

    0         done
    1         done, but for some sessions; a line on stderr for each reason
    2         bad input: flags, document, file, store. An import has written nothing, or says what it has
    3         the store's device failed, its contents have gone, or another owner took it over
    130       ended by SIGINT; an export leaves no file, an import what it had written
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

import trio

from outlast.at_rest import codec_of
from outlast.bar import Bar
from outlast.endings import OK, ending_of
from outlast.exporting import Exported, export_sessions, sqlite_path
from outlast.files import whole_file
from outlast.importing import Imported, import_sessions
from outlast.settings import Settings
from persistence.document import DocumentInvalid
from persistence.store import StoreError

INCOMPLETE = 1
STDOUT = "-"
_STDOUT_DESCRIPTOR = 1
_LEFT_OUT_SHOWN_MAX = 10
_SIDE_FILES = ("", "-wal", "-shm", "-journal", "-ballast")  # what a SQLite store has beside its file

Refuse = Callable[..., int]
Tell = Callable[[str], None]
Result = TypeVar("Result")


def run_export(settings: Settings, output: str, *, with_secrets: bool, tell: Tell, refuse: Refuse) -> int:
    """Export the store to a file or to stdout, and give the exit code.

    Args:
      output: a path, or "-".
      tell: writes a line for people on stderr.
      refuse: writes lines on stderr, and gives the code.
    """
    if output != STDOUT and _is_store(Path(output), settings.store):
        return refuse(f"--output {output}: this is the store itself: choose another file")
    try:
        with _output(output) as file:
            work = partial(export_sessions, settings.store, file, with_secrets=with_secrets, codec=codec_of(settings))
            exported = _run(work, "exporting")
    except BrokenPipeError:
        return refuse("whoever read the export has stopped; it is incomplete")
    except (StoreError, OSError, KeyboardInterrupt, BaseExceptionGroup) as error:
        return _ended(error, settings, f"--output {output}", refuse)
    return _tell_exported(exported, with_secrets, tell)


def run_import(
    settings: Settings, path: Path, *, replace: bool, take_over: bool = False, tell: Tell, refuse: Refuse
) -> int:
    """Import a document into the store, and give the exit code. Arguments as `run_export`."""
    try:
        with path.open("rb") as file:
            if not file.seekable():
                return refuse(f"{path}: it is read twice, which this cannot be; write it to a file first")
            ttl_seconds = settings.session_ttl_seconds
            work = partial(
                import_sessions,
                settings.store,
                file,
                replace=replace,
                take_over=take_over,
                ttl_seconds=ttl_seconds,
                codec=codec_of(settings),
            )
            imported = _run(work, "importing", show=_percent)
    except DocumentInvalid as error:
        return refuse(f"{path}: {error}", *getattr(error, "__notes__", ()))
    except (StoreError, OSError, KeyboardInterrupt, BaseExceptionGroup) as error:
        return _ended(error, settings, str(path), refuse)
    return _tell_imported(imported, settings.store, tell)


def _run(work: Callable[..., Awaitable[Result]], label: str, show: Callable[[int, int], str] | None = None) -> Result:
    bar = Bar(label) if show is None else Bar(label, show=show)
    try:
        return trio.run(partial(work, progress=bar))
    finally:
        bar.clear()


def _percent(done: int, total: int) -> str:
    return f"{100 * done // total if total else 100} %"


@contextmanager
def _output(output: str) -> Iterator[BinaryIO]:
    if output != STDOUT:
        with whole_file(Path(output)) as file:
            yield file
        return
    # Without a buffer: a thread that writes to a pipe may be left behind, and must not hold a lock that the end of the
    # process waits for.
    with open(_STDOUT_DESCRIPTOR, "wb", buffering=0, closefd=False) as stdout:
        yield stdout


def _is_store(output: Path, url: str) -> bool:
    path = sqlite_path(url)
    if path is None:
        return False
    return output.resolve() in {path.with_name(path.name + suffix).resolve() for suffix in _SIDE_FILES}


def _ended(error: BaseException, settings: Settings, where: str, refuse: Refuse) -> int:
    notes = list(getattr(error, "__notes__", ()))
    if isinstance(error, OSError):
        return refuse(f"{where}: {error.strerror or error}", *notes)
    ending = ending_of(error, listen=settings.listen, ready=False)
    if ending is None:
        raise error  # a defect: whoever has to mend it needs the traceback
    return refuse(*ending.lines, *notes, code=ending.code)


def _tell_exported(exported: Exported, with_secrets: bool, tell: Tell) -> int:
    kind = "with secrets: keep it as you would keep passwords" if with_secrets else "secrets redacted: to be looked at"
    tell(f"exported {exported.sessions} sessions with {exported.entries} events ({kind})")
    for reason in exported.left_out[:_LEFT_OUT_SHOWN_MAX]:
        tell(f"left out: {reason}")
    if len(exported.left_out) > _LEFT_OUT_SHOWN_MAX:
        tell(f"left out: {len(exported.left_out) - _LEFT_OUT_SHOWN_MAX} more")
    return INCOMPLETE if exported.left_out else OK


def _tell_imported(imported: Imported, store: str, tell: Tell) -> int:
    replaced = f", {imported.replaced} of them in place of others" if imported.replaced else ""
    tell(f"imported {imported.sessions} sessions with {imported.entries} events{replaced}")
    if store == "memory:":
        tell("the store was memory: and has ended with this process; the document is in order")
    if imported.expired:
        tell(f"{imported.expired} of them have expired: the next gateway to serve the store removes them")
    for name in imported.ignored:
        tell(f"not imported: {name} (where servers are, and their headers, is the gateway's configuration)")
    if imported.ended:
        tell(f"not imported: {imported.ended} sessions that had ended in this store: an ended id does not come back")
    return INCOMPLETE if imported.ended else OK
