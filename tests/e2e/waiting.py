"""Waiting for conditions in real time: what end-to-end tests do instead of guessing with sleeps.

Every wait has a deadline and names what it waited for, so a red test says what never came true.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

DEADLINE_SECONDS = 60.0  # generous: it is only reached by a red test, and the machine may be busy with others
_POLL_SECONDS = 0.01  # the conditions live in other processes and in files: nothing there can wake us


async def wait_until(what: str, condition: Callable[[], bool], *, seconds: float = DEADLINE_SECONDS) -> None:
    """Wait until `condition` holds.

    Raises:
      AssertionError: it did not within `seconds`; the message says `what` was awaited.
    """
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(_POLL_SECONDS)
        return
    raise AssertionError(f"waited {seconds} s in vain until {what}")


async def wait_until_asked(
    what: str, question: Callable[[], Awaitable[bool]], *, seconds: float = DEADLINE_SECONDS
) -> None:
    """Ask until the answer is yes.

    Raises:
      AssertionError: it was not within `seconds`; the message says `what` was awaited.
    """
    with trio.move_on_after(seconds):
        while not await question():  # noqa: ASYNC110
            await trio.sleep(_POLL_SECONDS)
        return
    raise AssertionError(f"waited {seconds} s in vain until {what}")
