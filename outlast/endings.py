"""How a command ends: the exit codes, and the one line that says why.

    0         done, or stopped as asked
    1         `health`: alive but not ready. Anything else: a defect, with a traceback to report
    2         bad input: flags, configuration, store, port, a server's program. Nothing was written
    3         the store was lost: another owner, a failing device, contents that have gone
    130, 143  ended at once by a second SIGINT or SIGTERM

An operator needs the one line; a traceback is for defects, which is why an unknown exception is not dressed
up here.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterator

import attrs

from outlast.urls import Address
from persistence import store as stores

OK = 0
DEFECT = 1
BAD_INPUT = 2
STORE_LOST = 3

# What the system says of an address that cannot be listened on, and what to do about it.
_ADDRESS_TROUBLES = {
    errno.EADDRINUSE: "the port is in use: stop what listens there, or choose another with --listen",
    errno.EADDRNOTAVAIL: "this machine has no such address: choose another with --listen",
    errno.EACCES: "this user may not listen there: choose a port above 1023 with --listen",
}

_CAUSES = (stores.FenceLost, stores.StoreBroken)  # what else fails beside these follows from them


@attrs.frozen
class Ending:
    """A failure in an operator's words."""

    code: int
    lines: tuple[str, ...]  # one for each thing to mend


class StartRefused(Exception):
    """The gateway cannot start as it was configured; `lines` say what is wrong, one thing each."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def ending_of(error: BaseException, *, listen: Address, ready: bool) -> Ending | None:
    """Say how the process ends for this failure; None: it is none that an operator can mend.

    Args:
      error: what escaped; groups are taken apart, and what concerns the store comes before what followed from
      it. listen: where the gateway was to listen. ready: whether the gateway was serving already.
    """
    leaves = sorted(_leaves(error), key=lambda leaf: not isinstance(leaf, _CAUSES))
    endings = [_ending(leaf, listen, ready=ready) for leaf in leaves]
    known = [ending for ending in endings if ending is not None]
    if not known or len(known) < len(endings):
        return None
    return known[0]


def address_refused(address: Address, error: OSError) -> StartRefused | None:
    """Say why an address cannot be listened on; None: the error is not about that."""
    if error.errno in _ADDRESS_TROUBLES:
        return StartRefused(f"cannot listen on {address}: {_ADDRESS_TROUBLES[error.errno]}")
    return None


def _ending(error: BaseException, listen: Address, *, ready: bool) -> Ending | None:
    match error:
        case StartRefused():
            return Ending(BAD_INPUT, error.lines)
        case stores.FenceLost():
            return Ending(STORE_LOST, (f"another process has taken over the store: {error}",))
        case stores.StoreReplaced():
            hint = "bring them back before you start again: a start now goes on with what it holds"
            return Ending(STORE_LOST, (f"the store's contents have gone: {error}; {hint}",))
        case stores.StoreBroken():
            hint = "check the device, then start again: what was acknowledged is recovered"
            return Ending(STORE_LOST, (f"the store's device failed: {error}; {hint}",))
        case stores.StoreError():
            return Ending(STORE_LOST if ready else BAD_INPUT, (_about_store(error),))
        case OSError() if not ready:
            refused = address_refused(listen, error)
            return Ending(BAD_INPUT, refused.lines if refused is not None else (f"cannot start: {error}",))
        case KeyboardInterrupt():  # before the gateway has begun to heed signals
            return Ending(128 + signal.SIGINT, ())
    return None


def _about_store(error: stores.StoreError) -> str:
    match error:
        case stores.StoreDamaged():
            return f"the store is damaged: {error}"
        case stores.StoreUnavailable():
            return f"the store cannot be reached: {error}; see to it, or choose another with --store"
        case stores.StoreFull():
            return f"the store has no room: {error}; make room on its disk or server, or choose another with --store"
    return f"store: {error}"  # what is in use, or no store, says itself what to do


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def tell_defect(error: BaseException) -> int:
    """Log what whoever has to mend it needs: the traceback, where all logs go, without the values of variables.

    Returns:
      the exit code.
    """
    import structlog  # logs are set up by now

    structlog.get_logger("outlast").critical("crashed: this is a defect, please report it", exc_info=error)
    return DEFECT
