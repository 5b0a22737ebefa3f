"""Concealment: what one upstream is shown of ours is kept out of what we tell of the upstream's answers.

Proxies and frameworks write error pages that repeat the request they are about, its Authorization and its URL
included. We quote such pages, since nothing else tells why a server refuses: to clients, and to operators. So what is
quoted passes here first. Messages do not: they are relayed as they are, and what a server says in them is its own.
Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from urllib.parse import parse_qsl, unquote

import attrs

HIDDEN = "<hidden>"

# Shorter ones are no secrets ("true", "7"), and taking each out would leave nothing to read. As for logs.
_CHARACTERS_MIN = 8


def _none() -> Iterable[str]:
    return ()


@attrs.frozen(repr=False)
class Concealment:
    """The texts that may not be quoted, longest first."""

    texts: tuple[str, ...] = ()
    changing: Callable[[], Iterable[str]] = _none  # more of them, as of now: tokens that are renewed

    @classmethod
    def of(cls, headers: Mapping[str, str], query: str, changing: Callable[[], Iterable[str]] = _none) -> Concealment:
        """Gather what an operator has set for one upstream.

        Args:
          headers: sent with every request. Of `Bearer X`, X is one by itself.
          query: of its URL, percent-encoded.
          changing: gives what else it may have been shown lately.
        """
        texts = {form for text in _parts(headers, query) if len(text) >= _CHARACTERS_MIN for form in _forms(text)}
        return cls(_longest_first(texts), changing)

    def __repr__(self) -> str:
        return f"<Concealment of {len(self.texts)}>"

    def excerpt(self, body: bytes, characters_max: int) -> str:
        """Give the beginning of what an upstream said, as a line without them."""
        # Hidden first, cut after that: half a secret is none that could be found. Each character of the excerpt stands
        # for one secret at most, so more than this is not looked at.
        secrets = self._all()
        longest = len(secrets[0]) if secrets else 0
        text = _hide(secrets, body[: characters_max * (1 + longest)].decode("utf-8", "replace"))[:characters_max]
        return " ".join("".join(char if char.isprintable() else " " for char in text).split())

    def hide(self, text: str) -> str:
        """Take them out of a text."""
        return _hide(self._all(), text)

    def _all(self) -> tuple[str, ...]:
        changing = {form for text in self.changing() for form in _forms(text)}
        return _longest_first({*self.texts, *changing}) if changing else self.texts


def _longest_first(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(texts, key=len, reverse=True))


def _hide(secrets: Iterable[str], text: str) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def _parts(headers: Mapping[str, str], query: str) -> Iterator[str]:
    for value in headers.values():
        yield value.strip()
        yield value.strip().partition(" ")[2].strip()
    yield query
    yield unquote(query)
    for _, value in parse_qsl(query):
        yield value


def _forms(text: str) -> Iterator[str]:
    """Give the ways in which a page may write a text."""
    yield from (text, escape(text), json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
