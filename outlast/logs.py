"""Logs: one line for each thing that happened, on stderr, as JSON for machines or coloured text for people.

stdout belongs to what a command was asked for (the ready line); a log line there would break whoever reads
it. What libraries log through `logging` (hypercorn does) takes the same road, so that there is one form to
read. structlog is imported when logs are set up, not before: it costs 140 ms, which only `serve` needs to
pay.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from structlog.typing import Processor


def configure_logs(*, level: str, form: str, stream: TextIO | None = None) -> None:
    """Send the logs of this process to one stream, in one form.

    Args:
      level: the least urgent to show: debug, info, warning, error or critical.
      form: json, console, or auto: console if the stream is a terminal.
      stream: where to write; stays the caller's. None: stderr.
    """
    import structlog

    stream = sys.stderr if stream is None else stream
    number = logging.getLevelNamesMapping()[level.upper()]
    steps = _steps()
    last = _renderer(console=form == "console" or (form == "auto" and stream.isatty()))
    structlog.configure(
        processors=[*steps, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *steps],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=number, force=True)


def _steps() -> list[Processor]:
    """Give what is done to every record, whoever wrote it."""
    import structlog

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
    ]


def _renderer(*, console: bool) -> list[Processor]:
    import structlog

    if console:
        return [structlog.dev.ConsoleRenderer(timestamp_key="at")]
    # With json, slower than msgspec: that one writes a record's fields, this one its repr, which keeps
    # secrets.
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
