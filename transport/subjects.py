"""Subjects: the tokens that clients present now, for servers whose tokens are got in exchange for these (RFC 8693).

The door notes the token of each request to such a server, once it was verified. The newest of each principal is kept,
in memory, until it runs out. With that its sessions are opened upstream: one that is woken is woken with the token of
the request that wakes it, or of another that its owner makes in that moment; never with one that was stored.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import attrs
import trio

from actors.ids import Principal
from transport.exchange import RequestHead

SUBJECTS_MAX = 10_000  # principals; a token has one or two kilobytes
_DIGEST_BYTES = 16


@attrs.frozen
class Subject:
    """Somebody, as a token shows it that is good now."""

    principal: Principal
    token: str = attrs.field(repr=False)
    until_seconds: float  # trio's clock: when it runs out
    digest: bytes = attrs.field(init=False, repr=False)  # of the token, to tell it from another of the same principal

    @digest.default
    def _digest(self) -> bytes:
        return hashlib.blake2b(self.token.encode(), digest_size=_DIGEST_BYTES).digest()

    @property
    def is_live(self) -> bool:
        """Whether the token has not run out."""
        return trio.current_time() < self.until_seconds


@attrs.define(eq=False)
class _Present:
    """Who is asked for in a task, as long as it lasts: contexts are inherited by tasks that live longer."""

    task: trio.lowlevel.Task
    subject: Subject | None


_PRESENT: ContextVar[_Present | None] = ContextVar("outlast_subject", default=None)


class LiveSubjects:
    """Who has presented which token lately."""

    def __init__(self, issuer: str, servers: Collection[str], *, subjects_max: int = SUBJECTS_MAX) -> None:
        """
        Args:
          issuer: whose tokens can be exchanged.
          servers: by name, those whose tokens are got so; nobody else's requests are noted.
          subjects_max: principals to know of; the longest unseen are forgotten.
        """
        self.issuer = issuer
        self.servers = frozenset(servers)
        self._newest: OrderedDict[Principal, Subject] = OrderedDict()
        self._subjects_max = subjects_max

    def __repr__(self) -> str:
        return f"<LiveSubjects of {self.issuer}, {len(self._newest)}>"

    @contextmanager
    def present(self, principal: Principal, head: RequestHead, until_seconds: float) -> Iterator[None]:
        """Note who asks, for the length of a request.

        Args:
          head: of the request; its token was verified, and is this principal's.
          until_seconds: trio's clock: when it runs out.
        """
        subject = None
        if principal.issuer == self.issuer:
            token = head.headers["authorization"].partition(" ")[2].strip()
            subject = self._note(Subject(principal, token, until_seconds))
        present = _Present(trio.lowlevel.current_task(), subject)
        _PRESENT.set(present)
        try:
            yield
        finally:
            present.subject = None

    def _note(self, subject: Subject) -> Subject:
        self._newest[subject.principal] = subject
        self._newest.move_to_end(subject.principal)
        while len(self._newest) > self._subjects_max or not next(iter(self._newest.values())).is_live:
            self._newest.popitem(last=False)
            if not self._newest:
                break
        return subject

    def newest(self, principal: Principal) -> Subject | None:
        """Give the token that a principal has presented last; None: it has run out, or there was none."""
        subject = self._newest.get(principal)
        if subject is None:
            return None
        if not subject.is_live:
            del self._newest[principal]
            return None
        self._newest.move_to_end(principal)  # a socket is at the door once, and used for long
        return subject

    def of_request(self) -> Subject | None:
        """Give who the request is asked for that the current task serves."""
        present = _PRESENT.get()
        return present.subject if present is not None and present.task is trio.lowlevel.current_task() else None
