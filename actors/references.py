"""Finding sessions by their references (`ids.reference_of`): what operators are shown in place of ids."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

import trio

from actors.ids import REFERENCE_CHARACTERS, reference_of

REMEMBERED_MAX = 10_000  # references of the last pages shown, and of sessions last looked at
CHUNK = 1000  # digests between two looks at what else there is to do: a millisecond


class References:
    """Finds sessions by their references. Those of the pages shown last are remembered; others are searched for."""

    def __init__(self, session_ids: Callable[[], Iterable[str]]) -> None:
        """
        Args:
          session_ids: gives the ids of all sessions; not held on to while waiting.
        """
        self._session_ids = session_ids
        self._remembered: OrderedDict[str, str] = OrderedDict()

    def of(self, session_id: str) -> str:
        """Give a session's reference, and remember whose it is."""
        reference = reference_of(session_id)
        self._remembered[reference] = session_id
        self._remembered.move_to_end(reference)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.popitem(last=False)
        return reference

    async def find(self, reference: str) -> str | None:
        """Give the id behind a reference; it may be of a session that has ended. Cancellation: safe."""
        if len(reference) != REFERENCE_CHARACTERS:
            return None
        known = self._remembered.get(reference)
        if known is not None:
            return known
        for number, session_id in enumerate(list(self._session_ids())):
            if reference_of(session_id) == reference:
                self.of(session_id)
                return session_id
            if number % CHUNK == CHUNK - 1:
                await trio.lowlevel.checkpoint()
        return None
