"""Identity: session ids, event ids and principals; how they are minted, written and read.

Pure: randomness comes in as a value. A client can make up none of these: session ids are drawn from 192 random
bits, and an event id carries a MAC keyed by its session's id, so a cursor of another session (or a guessed
one) is refused before the log is touched.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import NewType

import attrs

SessionId = NewType("SessionId", str)

SESSION_ID_RANDOM_BYTES = 24  # 192 bits; MCP asks for a cryptographically secure id, RFC 4122 has 122 bits
_MAC_BYTES = 6  # a cursor only ever reads within the caller's own session: 48 bits stop accidents and guesses

STANDALONE_STREAM = 0  # the session's own stream (GET): what belongs to no request


def mint_session_id(random: bytes) -> SessionId:
    """Write a session id: visible ASCII only (MCP 2025-11-25, transports, Session Management, rule 1)."""
    if len(random) < SESSION_ID_RANDOM_BYTES:
        raise ValueError(f"a session id needs {SESSION_ID_RANDOM_BYTES} random bytes, got {len(random)}")
    return SessionId(base64.urlsafe_b64encode(random[:SESSION_ID_RANDOM_BYTES]).decode())


REFERENCE_CHARACTERS = 24
SHORT_CHARACTERS = 6  # of 32: the rest has 156 bits


def reference_of(session_id: str) -> str:
    """Give the name under which a session can be spoken of without giving it away: the same for as long as it is.

    An id is a bearer secret: where clients are not authenticated, who has it has the session. So operators, exports
    and tickets get a digest of it. Not a keyed one, on purpose: a key would have to be kept and shared by all
    instances, or references would change with each start. What a key protects against, guessing ids and comparing
    digests, is hopeless with 192 random bits; an id of somebody else's making that can be guessed needs no digest for
    that.
    """
    return hashlib.blake2b(session_id.encode(), digest_size=REFERENCE_CHARACTERS // 2).hexdigest()


def short_form(session_id: str) -> str:
    """Give the beginning of an id, as logs show it, for people who have the id. So little is no way in."""
    return f"{session_id[:SHORT_CHARACTERS]}…"


class InvalidEventId(ValueError):
    """This text is no event id of this session: malformed, made up, or another session's."""


@attrs.frozen
class EventId:
    """Names one event of one stream of one session; opaque to clients, who send it back as Last-Event-ID."""

    stream: int
    epoch: int  # which incarnation of the log: changes when events may have been lost, so ids never repeat
    offset: int  # position in the stream, from 1; 0 names the start, before the first event

    def write(self, session_id: SessionId) -> str:
        """Give the id as text, bound to its session by a MAC."""
        text = f"{self.stream:x}-{self.epoch:x}-{self.offset:x}"
        return f"{text}-{_mac(session_id, text)}"

    @classmethod
    def read(cls, session_id: SessionId, text: str) -> EventId:
        """Read an id that this session wrote.

        Raises:
          InvalidEventId
        """
        body, _, mac = text.rpartition("-")
        if not text.isascii() or not hmac.compare_digest(mac.encode(), _mac(session_id, body).encode()):
            raise InvalidEventId("not an event id of this session")
        stream, epoch, offset = body.split("-")  # we wrote it: the MAC says so
        return cls(int(stream, 16), int(epoch, 16), int(offset, 16))


def _mac(session_id: SessionId, text: str) -> str:
    key = session_id.encode()[:64]
    return hashlib.blake2b(text.encode(), key=key, digest_size=_MAC_BYTES).hexdigest()


@attrs.frozen
class Principal:
    """Who opened a session: the identity behind a credential, never the credential itself.

    A refreshed token is the same principal; another client of the same user is not.
    """

    issuer: str
    client: str
    subject: str
    digest: str = attrs.field(init=False, eq=False, repr=False)  # fixed-size: what stores keep, and requests compare

    @digest.default
    def _digest(self) -> str:
        text = "\x00".join((self.issuer, self.client, self.subject))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


# Whoever can reach the gateway without credentials: the session id alone tells these apart.
ANONYMOUS = Principal(issuer="", client="", subject="")
