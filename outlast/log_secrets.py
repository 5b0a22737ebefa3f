"""Scrubbing: the last look at a log line before it is written, so that no secret is in it.

Nobody here logs a secret on purpose. But lines quote errors, errors quote what they choked on, and libraries log what
they like; so every line, ours or not, passes here when it is finished. Two things are taken out: the secrets that this
process was configured with, wherever they stand; and what looks like a credential of somebody else. A line is text by
then, so neither a nested value nor a traceback is passed over.

What the settings hide when they are shown (`Kind.show`) is what is taken out: one rule for `repr`, errors and logs.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias
from urllib.parse import parse_qsl, quote_plus, unquote

from outlast.server_oauth import ServerOAuth
from outlast.settings import Settings, facts
from outlast.targets import HttpTarget, SseTarget, StdioTarget, WebSocketTarget
from persistence.key_ring import KeyRing
from persistence.redis_url import PLAIN_OPTIONS, is_redis_url

Scrub: TypeAlias = Callable[[str], str]

HIDDEN = "<hidden>"

# Shorter ones are no secrets, and taking each "1" or "true" out would leave nothing to read.
_SECRET_CHARACTERS_MIN = 8

# Variables whose names say that they hold a credential: programs behind stdio are given some, and may print them.
_TELLING_NAME = re.compile(r"(?i)(secret|passw|token|credential|private|(^|[_-])(api_?)?key($|[_-])|auth)")

# No pattern reaches across a quote or a backslash: what is left of a line of JSON stays a line of JSON.
_CREDENTIALS = (
    (re.compile(r"(?i)\b(bearer|basic)[ =]+[a-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*"), HIDDEN),  # a JWT: base64url of '{"'
    (re.compile(r"(://)[^\s/@\"'\\?#]+@"), rf"\1{HIDDEN}@"),  # the user and password of a URL
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s\"'\\?#<>]+)\?[^\s\"'\\<>]+"), rf"\1?{HIDDEN}"),  # its query
    (
        re.compile(
            r"(?i)\b(authorization|proxy-authorization|cookie|set-cookie|mcp-session-id|last-event-id)"
            r"([\"']?\)?\s*[:=,]\s*b?[\"']?)(?!<hidden>|[\"',\s])[^\s\"'\\,]+"
        ),
        rf"\1\2{HIDDEN}",
    ),
)


def scrubber(secrets: Iterable[str]) -> Scrub:
    """Make what takes secrets out of finished lines.

    Args:
      secrets: known ones; what is too short to be one is left alone.
    """
    known = sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)
    known_pattern = re.compile("|".join(map(re.escape, known))) if known else None

    def scrub(line: str) -> str:
        if known_pattern is not None:
            line = known_pattern.sub(HIDDEN, line)
        for pattern, replacement in _CREDENTIALS:
            line = pattern.sub(replacement, line)
        return line

    return scrub


def secrets_of(settings: Settings, environment: Mapping[str, str]) -> frozenset[str]:
    """Give every secret that this process was configured with.

    Args:
      environment: `os.environ`: what its telling names hold is secret, too.
    """
    found = {value for name, value in environment.items() if _TELLING_NAME.search(name)}
    for fact in facts().values():
        value = getattr(settings, fact.name)
        shown = fact.kind.show(value)
        found.update(leaf for leaf in secret_texts(value) if leaf not in shown)
    return frozenset(secret for secret in found if len(secret) >= _SECRET_CHARACTERS_MIN)


def secret_texts(value: object) -> Iterator[str]:
    """Give the texts within a setting's value that can be secrets."""
    match value:
        case str():
            yield value
            yield from _of_url(value)
        case Mapping():
            for inner in value.values():
                yield from secret_texts(inner)
        case HttpTarget(url=url) | SseTarget(url=url) | WebSocketTarget(url=url):
            yield from _of_url(url)
        case StdioTarget(command=command):
            yield from _of_command(command)
        case ServerOAuth(client_id=client_id, client_secret=secret):
            yield secret
            yield quote_plus(secret)
            yield base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()
        case KeyRing(keys=keys):
            for key in keys:
                yield from (encode(key.secret).decode().rstrip("=") for encode in _ENCODINGS)


_ENCODINGS = (base64.urlsafe_b64encode, base64.standard_b64encode, base64.b16encode)


# Not urlsplit's: it refuses URLs with several hosts, one of which is in brackets.
_AUTHORITY_AND_QUERY = re.compile(r"://([^/?#]*)[^?#]*\??([^#]*)")


def _of_url(text: str) -> Iterator[str]:
    """Give the parts of a URL that can be secrets; of any other text, the part behind `Bearer`."""
    scheme, space, rest = text.partition(" ")
    if space and scheme.lower() in ("bearer", "basic"):
        yield rest
    if "://" not in text:
        return
    authority, query = _AUTHORITY_AND_QUERY.findall(text)[0]
    password = authority.rpartition("@")[0].partition(":")[2]
    yield password
    yield unquote(password)
    yield query
    plain = PLAIN_OPTIONS if is_redis_url(text) else ()  # or no line could say "replicated"
    for name, value in parse_qsl(query):
        if name not in plain:
            yield value


def _of_command(command: tuple[str, ...]) -> Iterator[str]:
    """Give the arguments whose names tell that they are secrets: `--token X`, `--token=X`, `API_KEY=X`.

    Others are left alone: paths and switches, which logs are hard to read without.
    """
    previous = ""
    for argument in command[1:]:
        name, equals, value = argument.partition("=")
        if equals and _TELLING_NAME.search(name):
            yield value
        elif previous.startswith("-") and _TELLING_NAME.search(previous):
            yield argument
        if "://" in argument:
            yield from _of_url(value if equals and "://" in value else argument)
        previous = "" if equals else argument


def _forms(secret: str) -> Iterator[str]:
    """Give the ways in which a line may write a text."""
    if len(secret) < _SECRET_CHARACTERS_MIN:
        return
    escaped = secret.encode("unicode_escape").decode()
    for text in {secret, repr(secret)[1:-1], escaped, escaped.replace("'", "\\'")}:  # as it is, and within a `repr`
        yield text
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
