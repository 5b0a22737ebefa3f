"""Logs: one line for each thing that happened, on stderr, as JSON for machines or coloured text for people.

stdout belongs to what a command was asked for (the ready line); a log line there would break whoever reads it. What
libraries log through `logging` (hypercorn does) takes the same road, so there is one form to read:

    timestamp   UTC, ISO 8601                    request   the id of the request being served: X-Request-Id, or ours
    level       debug ... critical               session   the first characters of the session's id
    logger      which part speaks                server    the server behind the gateway
    event       what happened, constant words    exception the traceback, without the values of variables

and the line's own fields behind them. A line passes: what it is about (`actors/log_context.py`), the flood gate
(`log_flood.py`), the form, the scrubbing of secrets (`log_secrets.py`). It is bounded in length, control characters are
escaped, and a stream that takes no more lines is no reason to stop serving: what cannot be written is counted.

structlog is imported when logs are set up, not before: it costs 140 ms, which only `serve` needs to pay.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, TextIO

from actors.log_context import log_fields
from outlast.log_flood import Flood

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

    from outlast.settings import Settings

TEXT_CHARACTERS_MAX = 8 * 1024  # of one field; a traceback of fifty frames has as many
_CUT_CHARACTERS = TEXT_CHARACTERS_MAX // 2  # kept at either end of a longer one

_FIRST = ("timestamp", "level", "logger", "event", "request", "session", "server")  # the order of a line's fields
_BOUNDLESS = "outlast.access"  # who wants a line for each request wants each
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_OR_LINE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TEXTS_OF_LINES = ("exception", "stack")  # which have lines, and are ours


def configure_logs(
    *, level: str, form: str, stream: TextIO | None = None, secrets: Iterable[str] = (), flood: Flood | None = None
) -> Lines:
    """Send the logs of this process to one stream, in one form.

    Args:
      level: the least urgent to show: debug, info, warning, error or critical.
      form: json, console, or auto: console if the stream is a terminal.
      stream: where to write; stays the caller's. None: stderr.
      secrets: what no line may contain, whoever writes it (`log_secrets.secrets_of`).
      flood: leaves repeated lines out; None: with the usual bounds.

    Returns:
      what writes the lines, and counts those that could not be.
    """
    import structlog

    from outlast.log_secrets import scrubber

    lines = Lines(sys.stderr if stream is None else stream)
    number = logging.getLevelNamesMapping()[level.upper()]
    gate = Flood() if flood is None else flood
    console = form == "console" or (form == "auto" and lines.is_terminal)
    scrub = scrubber(secrets)
    last: list[Processor] = [*_renderers(console=console), lambda _logger, _method, line: scrub(str(line))]
    structlog.configure(
        processors=[*_steps(), _gate_step(gate), *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lines.logger,
        cache_logger_on_first_use=True,
    )
    handler = _Road(lines, gate)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_steps(),
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=number, force=True)
    return lines


def log_as(settings: Settings, environment: Mapping[str, str]) -> None:
    """Send logs to stderr, as the settings say. Unless somebody does, structlog writes to stdout."""
    from outlast.log_secrets import secrets_of

    secrets = secrets_of(settings, environment)
    configure_logs(level=settings.log_level, form=settings.log_format, secrets=secrets)


class Lines:
    """Writes lines to a stream, whole; one that cannot be written is counted."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.lost = 0  # lines that could not be written: the disk is full, or nobody reads any more

    @property
    def is_terminal(self) -> bool:
        return self._stream.isatty()

    def logger(self, name: str = "", *_: object) -> _Logger:
        """Make what structlog hands finished lines to."""
        return _Logger(name, self.write)

    def write(self, line: str) -> None:
        """Write one line, now."""
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):  # ValueError: it is closed, or cannot encode the line
                self.lost += 1


class _Logger:
    """What structlog wants a logger to be: a method for each level."""

    __slots__ = ("critical", "debug", "error", "exception", "info", "msg", "name", "warning")

    def __init__(self, name: str, write: Callable[[str], None]) -> None:
        self.name = name
        self.debug = self.info = self.warning = self.error = self.critical = self.exception = self.msg = write


class _Road(logging.Handler):
    """Takes what is logged through `logging`."""

    def __init__(self, lines: Lines, gate: Flood) -> None:
        super().__init__()
        self._lines = lines
        self._gate = gate

    def emit(self, record: logging.LogRecord) -> None:
        added = self._gate.admit((record.name, str(record.msg), "")) if record.name != _BOUNDLESS else {}
        if added is None:
            return
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - of whatever a library passed as arguments; telling of it must not fail
            # `logging` itself would print the arguments, and the stack, past every form and every scrubbing.
            record.msg, record.args, record.exc_info = f"a line cannot be formatted: {record.msg!r}", (), None
            line = self.format(record)
        self._lines.write(line)
        if added:
            record.msg, record.args, record.exc_info = f"{record.name} says the same often: {added}", (), None
            self._lines.write(self.format(record))


def _steps() -> list[Processor]:
    """Give what is done to every record, whoever wrote it."""
    import structlog

    return [
        structlog.contextvars.merge_contextvars,
        _say_context,
        structlog.processors.add_log_level,
        _say_logger,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="timestamp"),
        structlog.processors.StackInfoRenderer(),
    ]


def _say_context(_logger: object, _method: str, record: EventDict) -> EventDict:
    """Say what the line is about; what the line says itself counts more."""
    for key, value in log_fields().items():
        record.setdefault(key, value)
    return record


def _say_logger(logger: Any, _method: str, record: EventDict) -> EventDict:
    foreign = record.get("_record")
    record["logger"] = foreign.name if foreign is not None else getattr(logger, "name", "")
    return record


def _gate_step(gate: Flood) -> Processor:
    import structlog

    def admit(_logger: object, _method: str, record: EventDict) -> EventDict:
        if record["logger"] == _BOUNDLESS and record["level"] == "info":
            return record
        where = str(record.get("upstream") or record.get("command") or record.get("server") or "")
        added = gate.admit((record["logger"], str(record.get("event")), where))
        if added is None:
            raise structlog.DropEvent
        record.update(added)
        return record

    return admit


def _renderers(*, console: bool) -> list[Processor]:
    import structlog

    # Tracebacks are made here and not by a form: with rich installed, structlog's console form prints the values of
    # all local variables with them.
    steps: list[Processor] = [structlog.processors.format_exc_info, _tidy]
    if console:
        plain = structlog.dev.plain_traceback
        return [
            *steps,
            _escape,
            structlog.dev.ConsoleRenderer(
                timestamp_key="timestamp", exception_formatter=plain, colors=True, sort_keys=False
            ),
        ]
    # With json, slower than msgspec: that one writes a record's fields, this one its repr, which keeps secrets.
    return [*steps, structlog.processors.JSONRenderer(ensure_ascii=False)]


def _tidy(_logger: object, _method: str, record: EventDict) -> EventDict:
    """Put what every line has in front, and bound the rest."""
    tidy: MutableMapping[str, Any] = {key: record[key] for key in _FIRST if key in record}
    for key, value in record.items():
        if key not in tidy:
            tidy[key] = value
    for key, value in tidy.items():
        if isinstance(value, str) and len(value) > TEXT_CHARACTERS_MAX:
            left_out = len(value) - 2 * _CUT_CHARACTERS
            tidy[key] = f"{value[:_CUT_CHARACTERS]} ... {left_out} characters ... {value[-_CUT_CHARACTERS:]}"
    return tidy


def _escape(_logger: object, _method: str, record: EventDict) -> EventDict:
    """Escape what a terminal would obey: lines quote what clients and servers say."""
    for key, value in record.items():
        if isinstance(value, str):
            unwanted = _CONTROL if key in _TEXTS_OF_LINES else _CONTROL_OR_LINE
            record[key] = unwanted.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
    return record
