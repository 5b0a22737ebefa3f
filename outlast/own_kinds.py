"""Kinds that belong to one setting each: what a store, a host, an origin, an audience, a scope and a path look like.

`kinds.py` has those that many settings share.
"""

from __future__ import annotations

import re

from outlast.kinds import Kind, Refused, texts
from outlast.urls import redacted
from persistence.redis_url import is_redis_url, read_redis_url
from persistence.store import StoreUrlInvalid


def _read_store(raw: object) -> str:
    """Check what can be checked of a store URL without touching anything; opening it finds out the rest."""
    allowed = (
        "it must be memory:, sqlite:PATH, redis://HOST:PORT/DATABASE, rediss://..., unix:///PATH/OF/SOCKET or"
        " redis+sentinel://HOST:PORT,HOST:PORT/DATABASE?service=NAME, for example sqlite:./data/outlast.db"
    )
    if not isinstance(raw, str) or "\0" in raw:
        raise Refused(allowed)
    if is_redis_url(raw):
        try:
            read_redis_url(raw)
        except StoreUrlInvalid as invalid:
            raise Refused(str(invalid)) from None
        return raw
    scheme, _, rest = raw.partition(":")
    if not (raw == "memory:" or (scheme == "sqlite" and rest)):
        raise Refused(allowed)
    return raw


def _shown_store(raw: object) -> str:
    """A path holds no secret; the URL of anything else may."""
    if not isinstance(raw, str) or raw.startswith("sqlite:"):
        return repr(raw)
    first, *others = raw.split() or [""]
    return repr(redacted(first) + (" ..." if others else ""))


def _is_host_pattern(text: str) -> bool:
    return text.isascii() and text.isprintable() and not any(sign in text for sign in " /?#@")


def _is_origin(text: str) -> bool:
    scheme, separator, host = text.partition("://")
    return text in ("*", "null") or bool(separator and scheme and host and _is_host_pattern(host))


def _read_path_prefix(raw: object) -> str:
    if not isinstance(raw, str) or (raw and not _PATH_PREFIX_TEXT.fullmatch(raw)):
        raise Refused("it must be a path such as /tools: letters, digits and any of -._~%/, '/' first and not last")
    return raw


# A double slash in front would name a host: clients would be sent elsewhere.
_PATH_PREFIX_TEXT = re.compile(r"(/[A-Za-z0-9._~%-]+)+")
PATH_PREFIX = Kind(_read_path_prefix, metavar="PATH")
STORE = Kind(_read_store, _shown_store, "URL")
HOSTS = texts("a host as in the Host header, such as mcp.example.com, or *", _is_host_pattern)
ORIGINS = texts("an origin such as https://app.example.com, null, or *", _is_origin)
AUDIENCES = texts(
    "a name as in the audience of tokens, without spaces", lambda text: text.isprintable() and " " not in text
)
SCOPES = texts(
    'a scope, without spaces or "', lambda text: text.isascii() and text.isprintable() and not set(text) & set(' "\\')
)
