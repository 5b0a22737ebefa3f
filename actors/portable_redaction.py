"""What of a portable session may be shown to who is not trusted with it: the export without secrets. Pure.

A session's id is a bearer secret: who has it has the session, since nothing else tells clients apart where none are
authenticated. So is the upstream's id of it. Messages (the handshake, set-up messages, the log) carry what people ask
tools and what those answer, tokens included. None of these is in a redacted export. The application's values, context
and metadata are, except for what is named or looks like a credential: that part is a best effort, as it can only be.

An id is replaced by a digest of it, the same in each export, so that sessions can still be told apart and followed. (Of
192 random bits a digest tells nothing. An id that can be guessed needs no export to be guessed.) The space in it is no
slip: no reader takes it for an id.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from actors.ids import reference_of
from actors.portable_schema import PortableHistory, PortableSession, Text

REDACTED = "[redacted]"

_CREDENTIAL_NAME = re.compile(
    r"authori[sz]ation|cookie|credential|passw(or)?d|passphrase|secret|token|bearer|session[-_ ]?id"
    r"|(api|access|private|signing)[-_ ]?key",
    re.IGNORECASE,
)
# What schemes say of themselves: Authorization values, JSON web tokens, user and password in a URL, keys in PEM.
_CREDENTIAL = re.compile(
    r"\b(?:Bearer|Basic)\s+[\w.~+/=-]+|\beyJ[\w-]+\.[\w-]+\.[\w-]*|(?<=://)[^/@\s]+@|-----BEGIN [A-Z ]*PRIVATE KEY.*",
    re.IGNORECASE | re.DOTALL,
)
_SECRET_CHARACTERS_MIN = 8  # a shorter id is no secret, and may stand in any word


def redact(session: PortableSession) -> PortableSession:
    """Give the session without its secrets."""
    clean = _cleaner(session)
    handshake, failure = session.handshake, session.failure
    if isinstance(handshake, msgspec.Struct):
        handshake = replace(
            handshake,
            request=_blank(handshake.request),
            result=_blank(handshake.result),
            upstream_session_id=_blank(handshake.upstream_session_id),
        )
    if failure is not None:
        failure = replace(failure, detail=_blank(failure.detail))
    return replace(
        session,
        id=_pseudonym(session.id),
        values=clean(session.values),
        state=clean(session.state),
        context=clean(session.context),
        metadata=clean(session.metadata),
        config=replace(session.config, url=None, headers=None),
        tool_history=UNSET,
        failure=failure,
        handshake=handshake,
        # A key may name a resource by an address that is a secret; its method says what was set up.
        setup=tuple(replace(kept, key=kept.key.split(" ")[0], message=_blank(kept.message)) for kept in session.setup),
        calls=tuple(
            replace(call, id=clean(call.id), setup=None, upstream_cursor=_blank(call.upstream_cursor))
            for call in session.calls
        ),
        asks=tuple(
            replace(ask, client_id=clean(ask.client_id), upstream_id=clean(ask.upstream_id)) for ask in session.asks
        ),
        history=None if session.history is None else _without_contents(session.history),
        standalone_cursor=_blank(session.standalone_cursor),
        streams=UNSET
        if session.streams is UNSET
        else tuple(replace(stream, request_id=clean(stream.request_id)) for stream in session.streams),
        log=replace(
            session.log, entries=tuple(replace(entry, message=_blank(entry.message)) for entry in session.log.entries)
        ),
    )


def without_credentials(text: str) -> str:
    """Give a text that people wrote, or programs about their troubles, without what looks like a credential."""
    return _CREDENTIAL.sub(REDACTED, text)


def _without_contents(history: PortableHistory) -> PortableHistory:
    """Give a history without arguments and results: that a tool was called is no secret, with what may be one."""
    pages = tuple(
        replace(
            page,
            calls=tuple(
                replace(call, arguments=without_contents(call.arguments), result=without_contents(call.result))
                for call in page.calls
            ),
        )
        for page in history.pages
    )
    return replace(history, pages=pages)


def without_contents(text: str | None) -> str | None:
    """Give what a tool was called with, or answered, as it may be shown: how long it was; None: not recorded."""
    return None if text is None else _blank(text)


def _pseudonym(session_id: str) -> str:
    return f"[redacted {reference_of(session_id)}]"


def _blank(text: Text) -> str:
    """Say no more than how long it was."""
    length = len(text if isinstance(text, str) else text.base64)
    return f"[redacted, {length} characters]" if length else ""


def _cleaner(session: PortableSession) -> Callable[[Any], Any]:
    """Give what takes credentials out of a value: those that look like some, and this session's own."""
    own = [session.id]
    if isinstance(session.handshake, msgspec.Struct):
        own.append(session.handshake.upstream_session_id)
    known = [secret for secret in own if len(secret) >= _SECRET_CHARACTERS_MIN]

    def clean(value: Any) -> Any:
        try:
            return clean_part(value)
        except RecursionError:
            return REDACTED

    def clean_part(value: Any) -> Any:
        if isinstance(value, str):
            for secret in known:
                value = value.replace(secret, REDACTED)
            return _CREDENTIAL.sub(REDACTED, value)
        if isinstance(value, list):
            if len(value) == 2 and _names_credential(value[0]):  # a pair of a "$map", or of somebody's own
                return [value[0], REDACTED]
            return [clean_part(item) for item in value]
        if isinstance(value, dict):
            if any(mark in value for mark in ("$base64", "$msgpack")):
                return REDACTED  # nobody can say what is in it
            return {
                clean_part(key): REDACTED if _names_credential(key) else clean_part(item) for key, item in value.items()
            }
        return value

    return clean


def _names_credential(key: object) -> bool:
    return isinstance(key, str) and _CREDENTIAL_NAME.search(key) is not None
