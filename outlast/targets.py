"""Target: where the server behind the gateway is, as the operator writes it.

    https://host/mcp   http://host/mcp     an MCP server over Streamable HTTP, or else HTTP+SSE
    sse+https://host/sse   sse+http://...  an MCP server over HTTP+SSE of 2024-11-05
    wss://host/ws      ws://host/ws         an MCP server over WebSocket, subprotocol mcp
    stdio:COMMAND ARG...                    a program that speaks MCP on its standard input and output

Targets come from the operator's configuration and from nowhere else: what a client sends never names a
command. Their text can hold secrets (a token in the query, a key among the arguments), so `str` and `repr`
leave out everything that could be one.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

import attrs

from outlast.kinds import Kind, Refused
from outlast.urls import redacted

DEFAULT_SERVER_NAME = "default"  # what a server is called that was given without a name

# A server's name is a segment of its path, /servers/{name}/mcp: nothing in it needs escaping.
_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAMED = re.compile(r"([^=:/\s]*)=(.*)", re.DOTALL)
_ALLOWED = "a target is http(s)://HOST/PATH, sse+http(s)://HOST/PATH, ws(s)://HOST/PATH or stdio:COMMAND ARG..."
_SSE_PREFIX = "sse+"


@attrs.frozen
class HttpTarget:
    """An MCP server over Streamable HTTP, or over HTTP+SSE if it turns out to speak only that."""

    url: str = attrs.field(repr=redacted)  # absolute, http or https, without user or fragment

    def __str__(self) -> str:
        return redacted(self.url)


@attrs.frozen
class SseTarget:
    """An MCP server over HTTP+SSE."""

    url: str = attrs.field(repr=redacted)  # of its stream; as of HttpTarget

    def __str__(self) -> str:
        return f"{_SSE_PREFIX}{redacted(self.url)}"


@attrs.frozen
class WebSocketTarget:
    """An MCP server over WebSocket."""

    url: str = attrs.field(repr=redacted)  # absolute, ws or wss; as of HttpTarget

    def __str__(self) -> str:
        return redacted(self.url)


@attrs.frozen
class StdioTarget:
    """A program that speaks MCP on its standard input and output; one process serves one session."""

    # the program and its arguments, as they are executed: no shell comes between
    command: tuple[str, ...] = attrs.field(repr=lambda command: _shown_command(command))

    def __str__(self) -> str:
        return f"stdio:{_shown_command(self.command)}"


Target: TypeAlias = HttpTarget | SseTarget | WebSocketTarget | StdioTarget


def parse_target(text: str) -> Target:
    """Read a target.

    Raises:
      Refused: it cannot be understood, or is of a kind that this version does not know yet.
    """
    scheme, colon, rest = text.strip().partition(":")
    scheme = scheme.lower()
    if not colon:
        raise Refused(f"{shown_target(text)!r} names no kind of server: {_ALLOWED}")
    if scheme == "stdio":
        return StdioTarget(_command(rest))
    if scheme in ("sse+http", "sse+https"):
        return SseTarget(_checked_url(text.strip()[len(_SSE_PREFIX) :]))
    if scheme in ("ws", "wss"):
        return WebSocketTarget(_checked_url(text.strip()))
    if scheme not in ("http", "https"):
        raise Refused(f"{shown_target(text)!r}: {scheme!r} is no kind of server; {_ALLOWED}")
    return HttpTarget(_checked_url(text.strip()))


def shown_target(text: str) -> str:
    """Give a target's text without what could be a secret in it."""
    words = text.split()
    if not words:
        return ""
    if words[0].lower().startswith("stdio:"):
        first = words[0] if words[0].lower() != "stdio:" else " ".join(words[:2])
        return f"{first} ..." if len(words) > len(first.split()) else first
    return redacted(words[0])


def read_servers(raw: object) -> Mapping[str, Target]:
    """Read the servers behind the gateway, by name.

    Args:
      raw: a table NAME -> TARGET, or texts `NAME=TARGET` (in one text: a line for each). A lone target may
        go without a name.

    Raises:
      Refused: with a sentence for each server that cannot be understood.
    """
    if isinstance(raw, Mapping):
        pairs: Iterable[tuple[object, object]] = raw.items()
    elif isinstance(raw, str):
        pairs = _named([line for line in raw.splitlines() if line.strip()])
    elif isinstance(raw, list | tuple):
        pairs = _named(raw)
    else:
        raise Refused(f"it must be a table of NAME = TARGET; {_ALLOWED}")
    servers: dict[str, Target] = {}
    problems: list[str] = []
    for name, target in pairs:
        try:
            _add_server(servers, name, target)
        except Refused as refused:
            problems.extend(refused.problems)
    if problems:
        raise Refused(*problems)
    return MappingProxyType(servers)


# What is wrong with servers is said for each one by name, without its secrets; the whole value adds nothing.
SERVERS: Kind[Mapping[str, Target]] = Kind(read_servers, lambda raw: _shown_servers(raw), "NAME=TARGET")


def missing_commands(servers: Mapping[str, Target], which: Callable[[str], str | None]) -> list[str]:
    """Say for each server behind stdio whose program cannot be found what to do about it.

    Args:
      which: finds a program as the system would, or gives None (`shutil.which`).
    """
    return [
        f"server {name!r}: {_about_missing(target.command[0])}"
        for name, target in servers.items()
        if isinstance(target, StdioTarget) and which(target.command[0]) is None
    ]


def _about_missing(program: str) -> str:
    if os.sep in program and Path(program).exists():  # only names without a directory are looked for elsewhere
        return f"{program!r} is no program that this user may run; make it executable, or put its interpreter in front"
    return f"there is no program {program!r}; install it, or give its full path"


def _add_server(servers: dict[str, Target], name: object, target: object) -> None:
    from actors.store_use import EVENT_STORE_SERVER_ID  # asking for the version need not wait for the store's records

    if not isinstance(name, str) or not _SERVER_NAME.fullmatch(name):
        raise Refused(f"server {name!r}: a name is 1 to 64 letters, digits, '.', '_' or '-'")
    if name == EVENT_STORE_SERVER_ID:
        raise Refused(f"server {name!r}: this name marks the stores of SDK servers' events; choose another")
    if name in servers:
        raise Refused(f"server {name!r} is there twice: give each server a name of its own, NAME=TARGET")
    if isinstance(target, str):
        try:
            target = parse_target(target)
        except Refused as refused:
            raise Refused(*(f"server {name!r}: {problem}" for problem in refused.problems)) from None
    if not isinstance(target, Target):
        raise Refused(f"server {name!r}: its target must be a text; {_ALLOWED}")
    servers[name] = target


def _named(texts: Iterable[object]) -> list[tuple[object, object]]:
    pairs: list[tuple[object, object]] = []
    for text in texts:
        found = _NAMED.fullmatch(text.strip()) if isinstance(text, str) else None
        pairs.append((found[1], found[2]) if found else (DEFAULT_SERVER_NAME, text))
    return pairs


def _command(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise Refused(f"{shown_target('stdio:' + text)!r}: {error}: quote as in a shell") from None
    if not words or not words[0] or "\0" in text:
        raise Refused("'stdio:' names no program: write stdio:COMMAND ARG...")
    return words


def _checked_url(text: str) -> str:
    problem = _url_problem(text)
    if problem:
        raise Refused(f"{shown_target(text)!r}: {problem}")
    return text


def _url_problem(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        return "a URL has no spaces, control characters or letters beyond ASCII: escape them with %"
    try:
        parts: SplitResult = urlsplit(text)
        port = parts.port
    except ValueError as error:
        return f"this is not a URL: {error}"
    if not parts.hostname or port == 0:
        return "it names no host: write https://HOST/PATH"
    if "@" in parts.netloc:
        return "a user and password in the URL are not in this version"
    return "leave out the part after '#'" if "#" in text else ""


def _shown_command(command: tuple[str, ...]) -> str:
    arguments = len(command) - 1
    return f"{command[0]} ({arguments} argument{'' if arguments == 1 else 's'})" if arguments else command[0]


def _shown_servers(raw: object) -> str:
    if not isinstance(raw, Mapping) or not all(isinstance(target, Target) for target in raw.values()):
        return ""
    return f"{{{', '.join(f'{name!r}: {target}' for name, target in raw.items())}}}"
