"""Operation: what is served at a path beside MCP, for operators and their tools.

The gateway routes and lets in; an operation answers. Whether a request is an operator's is decided once, by
`Operators`; an operation that shows more to operators than to others (health) is told which it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from transport.exchange import Exchange, Headers

# Answers an exchange: with the exchange, whether an operator asks, and headers to add to every answer (CORS).
Operate = Callable[[Exchange, bool, Headers], Awaitable[None]]


@attrs.frozen
class Operation:
    """One path and what answers there."""

    path: str  # such as "/metrics"; with a slash at its end, everything below it: "/admin/"
    operate: Operate
    operators_only: bool = True

    def serves(self, path: str) -> bool:
        """Whether a request for this path is answered here."""
        return path == self.path or (self.path.endswith("/") and path.startswith(self.path))
