"""Which era a server speaks: found out by asking `server/discover`, remembered for a while.

Requests of 2026-07-28 must not reach a server of the handshake era: some answer them with errors that tell clients
nothing, some run them under other rules (2026-07-28, basic/versioning, Compatibility Matrix). So it is asked first.
Only what is recognized as modern counts as modern, never the absence of a particular error: what older servers
say to an unknown request is theirs to choose, and some say nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from typing import Any

import attrs
import msgspec
import structlog
import trio

from actors.jsonrpc import Message
from actors.reading import reader
from transport import modern

_log = structlog.get_logger(__name__)


class Era(enum.Enum):
    """What a server speaks, as far as this gateway cares."""

    MODERN = "modern"  # 2026-07-28; perhaps the handshake's revisions, too
    HANDSHAKE = "handshake"


class EraUnknown(Exception):
    """The server could not be asked now."""


@attrs.frozen
class EraLimits:
    """How long what was found out holds."""

    sure_seconds: float = 300.0  # a server that is replaced by one of another era is noticed after this
    # After silence or a broken connection: a server that was only slow to start is not taken for an old one for long.
    unsure_seconds: float = 30.0
    unknown_seconds: float = 1.0  # those who wait while one asks in vain are not to ask one after the other


@attrs.frozen
class Verdict:
    """What one attempt to ask has found."""

    era: Era
    sure: bool


class EraKnowledge:
    """What is known of one server. Many may want to know at once; one of them asks."""

    def __init__(self, name: str, ask: Callable[[], Awaitable[Verdict]], limits: EraLimits = EraLimits()) -> None:
        """Args:
        name: of the server, for the log.
        ask: finds out; raises `EraUnknown` where nothing can be said.
        """
        self._name = name
        self._ask = ask
        self._limits = limits
        self._lock = trio.Lock()
        self._era: Era | None = None
        self._good_until = 0.0  # trio's clock
        self._unknown = ""
        self._unknown_until = 0.0

    @property
    def known(self) -> Era | None:
        """What is known at this moment, without asking."""
        return self._era if trio.current_time() < self._good_until else None

    def forget(self) -> None:
        """Ask again at the next opportunity: the server has said something that does not fit."""
        self._good_until = 0.0

    async def find(self) -> Era:
        """Tell the era, and ask the server if it is not known.

        Raises:
          EraUnknown

        Cancellation: safe; whoever else wants to know asks in turn.
        """
        async with self._lock:
            era = self.known
            if era is not None:
                return era
            if trio.current_time() < self._unknown_until:
                raise EraUnknown(self._unknown)
            try:
                verdict = await self._ask()
            except EraUnknown as error:
                self._unknown = str(error)
                self._unknown_until = trio.current_time() + self._limits.unknown_seconds
                raise
            if verdict.era is not self._era:
                _log.info("upstream_era", upstream=self._name, era=verdict.era.value, sure=verdict.sure)
            seconds = self._limits.sure_seconds if verdict.sure else self._limits.unsure_seconds
            self._era, self._good_until = verdict.era, trio.current_time() + seconds
            return verdict.era


class _Supported(msgspec.Struct):
    supportedVersions: list[Any] = []  # the protocol's name


class _ErrorData(msgspec.Struct):
    supported: list[Any] | msgspec.UnsetType = msgspec.UNSET


class _Error(msgspec.Struct):
    code: int = 0
    data: _ErrorData | msgspec.UnsetType | None = msgspec.UNSET


class _DiscoverAnswer(msgspec.Struct):
    result: _Supported | msgspec.UnsetType = msgspec.UNSET
    error: _Error | msgspec.UnsetType = msgspec.UNSET


_decode_answer = reader(_DiscoverAnswer)


def judge(answer: Message) -> Era:
    """Say what the answer to `server/discover` tells of a server (2026-07-28, basic/transports/stdio, Backward
    Compatibility)."""
    try:
        decoded = _decode_answer(answer.raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        code = modern.error_code(answer) if answer.is_error else 0
        return Era.MODERN if code in modern.ERA_CODES else Era.HANDSHAKE
    if decoded.result is not msgspec.UNSET:
        return Era.MODERN if modern.REVISION in decoded.result.supportedVersions else Era.HANDSHAKE
    if decoded.error is msgspec.UNSET or decoded.error.code not in modern.ERA_CODES:
        return Era.HANDSHAKE
    data = decoded.error.data
    if decoded.error.code == modern.UNSUPPORTED_VERSION and isinstance(data, _ErrorData):
        supported = data.supported  # it knows of eras, and may say that ours is not among its own
        return Era.MODERN if supported is msgspec.UNSET or modern.REVISION in supported else Era.HANDSHAKE
    return Era.MODERN
