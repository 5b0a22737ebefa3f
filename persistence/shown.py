"""What of a session's id may be shown: in errors, logs, and whatever an operator reads.

A session's id lets its bearer in where clients have no tokens, so it is a credential. Errors travel: into logs, into
reports, into answers to others. None of them has a whole one.
"""

from __future__ import annotations

# 36 of an id's 192 random bits: enough to find its lines, far too little to be let in with.
SHOWN_CHARACTERS = 6


def shown_id(session_id: str) -> str:
    """Give as much of a session's id as may be shown."""
    return session_id[:SHOWN_CHARACTERS]
