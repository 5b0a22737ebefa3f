"""Whose credentials a link carries: that decides what a server's refusal of them (401, 403) means for its sessions.

The gateway's are the operator's: a token that ran out is replaced, a rule of the server's set right, and every session
goes on; so none is given up for it. Where a user has brought them for one process (`outlast stdio`), only another
process can have others, and whoever waits is told so at once.
"""

from __future__ import annotations

import enum

from actors.link import ConnectFailed, ConnectRejected

REFUSALS = (401, 403)


class CredentialsRefused(ConnectFailed):
    """The server is there, and does not let us in. Others may be set, so it is tried again."""


class Credentials(enum.Enum):
    """Who can replace them."""

    OPERATORS = "the operator's"
    USERS = "the user's"

    def refused(self, detail: str) -> ConnectFailed | ConnectRejected:
        """Make what is raised where a link cannot be opened because of them.

        Args:
          detail: what the server said.
        """
        if self is Credentials.OPERATORS:
            return CredentialsRefused(f"the server refuses the gateway's credentials: {detail}")
        return ConnectRejected("auth_gone", detail)
