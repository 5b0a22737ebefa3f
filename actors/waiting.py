"""Waiting: who waits for what comes of a command, by ticket.

A ticket is numbered when its command is queued, and told once. Bounded by the mailbox, and by what a session may have
in flight.
"""

from __future__ import annotations

from collections.abc import Mapping

from actors.mailbox import OneShot
from actors.messages import Outcome

# Nearly always nobody waits: this stands in until somebody does. A dict that was emptied keeps its table, and takes 240
# bytes for each idle session.
_NOBODY: dict[int, OneShot[Outcome]] = {}


class Waiting:
    """Those who wait for one session."""

    __slots__ = ("_last_ticket", "_one_shots")

    def __init__(self) -> None:
        self._last_ticket = 0
        self._one_shots = _NOBODY

    def __len__(self) -> int:
        return len(self._one_shots)

    @property
    def tickets(self) -> frozenset[int]:
        """The tickets under which somebody waits."""
        return frozenset(self._one_shots)

    def new_ticket(self, further: int = 0) -> int:
        """Give the next ticket; nobody waits under it yet.

        Args:
          further: how many tickets right behind it are taken with it.
        """
        ticket = self._last_ticket + 1
        self._last_ticket = ticket + further
        return ticket

    def add(self, ticket: int, one_shot: OneShot[Outcome]) -> None:
        """Have what comes of this ticket told through the one-shot."""
        if self._one_shots is _NOBODY:
            self._one_shots = {}
        self._one_shots[ticket] = one_shot

    def tell(self, ticket: int, outcome: Outcome) -> None:
        """Tell whoever waits under this ticket, if somebody does."""
        one_shot = self._one_shots.pop(ticket, None)
        if one_shot is not None:
            one_shot.set(outcome)
            if not self._one_shots:
                self._one_shots = _NOBODY

    def tell_all(self, outcome: Outcome, instead: Mapping[int, Outcome]) -> None:
        """Tell everybody; some something else."""
        told, self._one_shots = self._one_shots, _NOBODY
        for ticket, one_shot in told.items():
            one_shot.set(instead.get(ticket, outcome))
