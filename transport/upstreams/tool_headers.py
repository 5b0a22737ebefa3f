"""Which parameters of a server's tools headers mirror: asked of the server, and remembered for a while.

A server over stdio is told no headers, so it cannot check them (MCP 2026-07-28 has servers over HTTP do that). The
gateway is the last who has both, and checks. For that it lists the server's tools, by itself: before the first call
that could be wrong, again when what it knows is old or the server says that its tools have changed, and once more
before it refuses a call, for the client may know a newer list than we do.

While a server cannot be asked at all, its calls are held to nothing: they are passed on, as by the reference server
when it cannot list its own tools. Nothing that worked is to be lost to a check.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import msgspec
import structlog
import trio

from actors.jsonrpc import Message
from actors.reading import reader
from transport.modern import PARAM_PREFIX, ModernRequest
from transport.param_headers import Declared, InvalidDeclaration, declared_in, difference
from transport.upstreams.renaming import value_at

CALL = "tools/call"
CHANGED = "notifications/tools/list_changed"

_log = structlog.get_logger(__name__)


class ToolsUnknown(Exception):
    """The server could not be asked for its tools now."""


@attrs.frozen
class ToolHeadersLimits:
    """How long what was found out holds, and what finding out may cost."""

    fresh_seconds: float = 300.0  # a change that is not announced is noticed after this, or what the server says
    fresh_seconds_min: float = 1.0  # ... though a server that says 0 is not asked with every call
    unknown_seconds: float = 30.0  # after asking in vain
    asking_seconds_max: float = 10.0  # calls wait for it: all pages together
    pages_max: int = 64
    tools_max: int = 10_000  # with mirrored parameters; servers have some


@attrs.frozen
class _Page:
    cursor: str  # of the next one; "": it is the last
    declared: Mapping[str, tuple[Declared, ...]]
    fresh_seconds: float


class ToolHeaders:
    """What is known of one server's tools. Many may want to know at once; one of them asks."""

    def __init__(
        self,
        name: str,
        ask: Callable[[str], Awaitable[Message]],
        limits: ToolHeadersLimits = ToolHeadersLimits(),
    ) -> None:
        """
        Args:
          name: of the server, for the log.
          ask: gives the server's answer to `tools/list` for a cursor ("": the first page); raises `ToolsUnknown`.
        """
        self._name = name
        self._ask = ask
        self._limits = limits
        self._lock = trio.Lock()
        self._declared: Mapping[str, tuple[Declared, ...]] = {}  # by tool; those alone that have any
        self._asked = 0  # how often
        self._asked_at = -math.inf  # trio's clock
        self._good_until = -math.inf

    def forget(self) -> None:
        """Ask again before the next call: the server's tools have changed."""
        self._good_until = -math.inf

    async def difference(self, request: ModernRequest) -> str:
        """Say in what the headers of a call and its body differ; "" if they agree, or nobody knows.

        Cancellation: safe; whoever else wants to know asks in turn.
        """
        if request.message.method != CALL:
            return ""
        if trio.current_time() >= self._good_until:
            if not _could_differ(request):
                return ""
            await self._find()
        found = self._difference(request)
        if found and trio.current_time() - self._asked_at >= self._limits.fresh_seconds_min:
            await self._find()
            found = self._difference(request)
        return found

    def _difference(self, request: ModernRequest) -> str:
        declared = self._declared.get(request.name)
        return "" if declared is None else difference(declared, request)

    async def _find(self) -> None:
        """Ask the server, or wait for somebody who does so meanwhile."""
        asked_before = self._asked
        async with self._lock:
            if self._asked > asked_before:
                return
            seconds = self._limits.asking_seconds_max
            try:
                with trio.fail_after(seconds):
                    declared, fresh_seconds = await self._all_pages()
            except trio.TooSlowError:
                self._give_up(f"its tools were not listed within {seconds:g} s")
            except ToolsUnknown as error:
                self._give_up(str(error))
            else:
                self._note(declared, fresh_seconds)

    def _give_up(self, why: str) -> None:
        _log.warning("upstream_tools_unknown", upstream=self._name, why=why)
        self._note(self._declared, self._limits.unknown_seconds)  # what was known is better than nothing

    def _note(self, declared: Mapping[str, tuple[Declared, ...]], good_seconds: float) -> None:
        self._asked += 1
        self._declared = declared
        self._asked_at = trio.current_time()
        self._good_until = self._asked_at + good_seconds

    async def _all_pages(self) -> tuple[Mapping[str, tuple[Declared, ...]], float]:
        declared: dict[str, tuple[Declared, ...]] = {}
        fresh_seconds, cursor = self._limits.fresh_seconds, ""
        for _ in range(self._limits.pages_max):
            page = _read_page(await self._ask(cursor), self._name)
            declared |= page.declared
            fresh_seconds = min(fresh_seconds, page.fresh_seconds)
            if len(declared) > self._limits.tools_max:
                raise ToolsUnknown(f"more than {self._limits.tools_max} of its tools have parameters in headers")
            if not page.cursor:
                return declared, max(fresh_seconds, self._limits.fresh_seconds_min)
            cursor = page.cursor
        raise ToolsUnknown(f"its tools have more than {self._limits.pages_max} pages")


def _could_differ(request: ModernRequest) -> bool:
    """Whether there is a header or an argument: without either, no tool's declarations matter."""
    if any(name.startswith(PARAM_PREFIX) for name, _ in request.headers):
        return True
    return value_at(request.message.raw, ("params", "arguments")) not in (None, b"{}", b"null")


class _Result(msgspec.Struct):
    tools: list[msgspec.Raw] = []
    nextCursor: str | None = None  # the protocol's names
    ttlMs: Any = None


class _ListAnswer(msgspec.Struct):
    result: _Result


class _Tool(msgspec.Struct):
    name: str
    inputSchema: msgspec.Raw


_decode_answer = reader(_ListAnswer)
_decode_tool = reader(_Tool)


def _read_page(answer: Message, server: str) -> _Page:
    try:
        result = _decode_answer(answer.raw).result
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ToolsUnknown("it does not list its tools" if answer.is_error else f"its list of tools: {error}") from None
    declared = {}
    for raw in result.tools:
        try:
            tool = _decode_tool(raw)
            found = declared_in(bytes(tool.inputSchema))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # no tool that anybody could call
        except InvalidDeclaration as invalid:
            _log.warning("upstream_tool_invalid", upstream=server, tool=tool.name[:100], why=str(invalid))
            continue
        if found:
            declared[tool.name] = found
    seconds = result.ttlMs / 1000 if isinstance(result.ttlMs, int) and result.ttlMs >= 0 else math.inf
    return _Page(result.nextCursor or "", declared, seconds)
