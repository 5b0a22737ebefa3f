"""What can be wrong with a portable session, and how that is said: path of the field, what is expected, what is there.

Types and ranges are the decoder's findings, put into words here. What fields must be together is checked here: streams
that calls and events name must exist, ids and places must not be there twice. Pure.

What is there is shown only where it can hold no secret: ids, messages and the application's values are not repeated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from actors.ids import STANDALONE_STREAM
from actors.portable_schema import PortableSession, PortableStream


class Misfit(Exception):
    """A session's document cannot be taken; `path` leads to the field, from the session on."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<field>.*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected (?P<expected>.*?)(?:, got .*)?$")
_KINDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}
# What stands in these may be shown: numbers, switches and times.
_SHOWABLE = re.compile(
    r"(metrics|createdAt|lastActivity|expiresAt|isInitialized|opened|revision|nextStream|shownOffset|listening"
    r"|config\.ttlSeconds|streams|log\.(epoch|nextSequence|trimmedThrough))\b"
)
_SHOWN_CHARACTERS_MAX = 40


def explain(error: Exception, text: bytes) -> Misfit:
    """Put what the decoder found into the words of a document's author.

    Args:
      error: what decoding `text` raised.
    """
    if isinstance(error, RecursionError):
        return Misfit("", "is nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        return Misfit("", f"not valid JSON: {error}")
    found = _AT.match(str(error))
    assert found is not None  # it matches anything
    what, path = found["what"], found["path"] or ""
    missing = _MISSING.match(what)
    if missing is not None:
        return Misfit(_joined(path, missing["field"]), "is missing")
    unknown = _UNKNOWN.match(what)
    if unknown is not None:
        return Misfit(_joined(path, unknown["field"]), "there is no such field")
    expected = _EXPECTED.match(what)
    if expected is None:
        return Misfit(path, what[:1].lower() + what[1:])
    return Misfit(path, f"expected {_in_words(expected['expected'])}{_shown(path, text)}")


def check_session(session: PortableSession) -> None:
    """Check what the session's fields must be together.

    Raises:
      Misfit
    """
    _check_names(session)
    _check_initialized(session)
    streams = _check_streams(session)
    if session.shown_offset >= streams.get(STANDALONE_STREAM, PortableStream(STANDALONE_STREAM)).next_offset:
        raise Misfit("shownOffset", f"is not below nextOffset of stream {STANDALONE_STREAM}")
    _check_users_of_streams(session, streams)
    _check_log(session, streams)


def _joined(path: str, field: str) -> str:
    return f"{path}.{field}" if path else field


def _in_words(expected: str) -> str:
    if "matching regex" in expected:
        return "visible ASCII characters without spaces"
    kinds, _, rest = expected.replace("`", "").partition(" of length ")
    if rest:
        return f"{_in_words(kinds)} of {rest.replace('<=', 'at most')} characters"
    kinds, sign, bound = kinds.partition(" >= ") if " >= " in kinds else kinds.partition(" <= ")
    words = " or ".join(_KINDS.get(kind, kind) for kind in kinds.split(" | "))
    least = "at least" if sign == " >= " else "at most"
    return f"{words} of {least} {bound.removesuffix('.0')}" if sign else words


def _shown(path: str, text: bytes) -> str:
    if not _SHOWABLE.match(path):
        return ""
    value: Any = msgspec.json.decode(text)
    for step in re.findall(r"[^.\[\]]+", path):
        value = value[int(step)] if isinstance(value, list) else value.get(step)
    shown = msgspec.json.encode(value).decode()
    return f", got {shown if len(shown) <= _SHOWN_CHARACTERS_MAX else shown[:_SHOWN_CHARACTERS_MAX] + '...'}"


def _check_names(session: PortableSession) -> None:
    config, capabilities = session.config, session.transport_capabilities
    if session.server_id is UNSET and config.server_id is UNSET:
        if session.client_transport_type is not UNSET or capabilities.client_transport is not UNSET:
            raise Misfit("serverId", "is missing")
    elif UNSET not in (session.server_id, config.server_id) and session.server_id != config.server_id:
        raise Misfit("config.serverId", "is another one than serverId")
    client_transport = capabilities.client_transport
    if (
        UNSET not in (session.client_transport_type, client_transport)
        and session.client_transport_type != client_transport
    ):
        raise Misfit("transportCapabilities.clientTransport", "is another one than clientTransportType")
    if session.values is not UNSET and session.state is not UNSET:
        raise Misfit("state", "is another name of values: leave one of them out")


def _check_initialized(session: PortableSession) -> None:
    if isinstance(session.is_initialized, UnsetType):
        return
    failed = session.failure is not None and bool(session.failure.reason)
    if session.is_initialized and failed:
        raise Misfit("isInitialized", "is true, but there is a failure")
    if session.is_initialized and not session.opened:
        raise Misfit("isInitialized", "is true, but opened is false")
    if not session.is_initialized and session.opened and session.failure is not None and not failed:
        raise Misfit("failure.reason", "is empty, but isInitialized is false")


def _check_streams(session: PortableSession) -> dict[int, PortableStream]:
    if isinstance(session.streams, UnsetType):
        return {STANDALONE_STREAM: PortableStream(STANDALONE_STREAM)}
    streams = {stream.id: stream for stream in session.streams}
    _check_unique((stream.id for stream in session.streams), "streams", "id")
    for index, stream in enumerate(session.streams):
        if stream.id >= session.next_stream and stream.id != STANDALONE_STREAM:
            raise Misfit(f"streams[{index}].id", f"is not below nextStream, {session.next_stream}")
        reached = [last_offset for _, last_offset in stream.former_epochs]
        if reached != sorted(set(reached)) or (reached and reached[-1] >= stream.next_offset):
            problem = "expected [epoch, last offset] pairs whose offsets rise, all of them below nextOffset"
            raise Misfit(f"streams[{index}].formerEpochs", problem)
    return streams


def _check_users_of_streams(session: PortableSession, streams: dict[int, PortableStream]) -> None:
    _check_unique((call.id for call in session.calls), "calls", "id")
    _check_unique((ask.client_id for ask in session.asks), "asks", "clientId")
    _check_unique((kept.key for kept in session.setup), "setup", "key")
    users: Sequence[tuple[str, Sequence[Any]]] = (("calls", session.calls), ("asks", session.asks))
    for name, parts in users:
        for index, part in enumerate(parts):
            # A question outlives its stream once that was forgotten; a call has its stream until it is answered.
            if part.stream not in streams and (name == "calls" or part.stream >= session.next_stream):
                raise Misfit(f"{name}[{index}].stream", f"there is no stream {part.stream}")


def _check_log(session: PortableSession, streams: dict[int, PortableStream]) -> None:
    log = session.log
    if log.trimmed_through >= log.next_sequence:
        raise Misfit("log.trimmedThrough", f"is not below nextSequence, {log.next_sequence}")
    last_sequence = 0
    last_offsets: dict[int, int] = {}
    for index, entry in enumerate(log.entries):
        path = f"log.entries[{index}]"
        stream = streams.get(entry.stream)
        if stream is None:
            raise Misfit(f"{path}.stream", f"there is no stream {entry.stream}")
        if not last_sequence < entry.sequence < log.next_sequence:
            raise Misfit(f"{path}.sequence", f"is not between {last_sequence} and nextSequence, {log.next_sequence}")
        last_offset = last_offsets.get(entry.stream, entry.offset - 1)
        if entry.offset != last_offset + 1 or entry.offset >= stream.next_offset:
            raise Misfit(
                f"{path}.offset", "does not follow the one before it in its stream, or is not below nextOffset"
            )
        last_sequence = entry.sequence
        last_offsets[entry.stream] = entry.offset


def _check_unique(ids: Iterable[object], name: str, field: str) -> None:
    seen = set()
    for index, id in enumerate(ids):
        if id in seen:
            raise Misfit(f"{name}[{index}].{field}", "is there twice")
        seen.add(id)
