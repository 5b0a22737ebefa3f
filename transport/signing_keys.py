"""Signing keys of an issuer: a JSON Web Key Set from a file, or from the issuer's URL, kept and renewed.

Where the issuer's keys are is in its metadata (RFC 8414, or OpenID Connect Discovery), unless the operator says it.

From a URL, keys are fetched when they are first needed, again when they are old, and again when a token names a key
that is not among them (keys are rotated); but not more often than every few seconds, whatever tokens are sent. While
the issuer is away the keys that are known stay good.

A fetch is bounded in time and size, follows no redirect, uses no proxy from the environment, and is HTTPS unless the
issuer is on this machine: whoever could change it on the way could make keys.
"""

from __future__ import annotations

import http.client
import json
import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import jwt
import trio

from transport.authentication import KeysUnavailable
from transport.issuer_metadata import Fetch, check_url, find_metadata

KEYS_BYTES_MAX = 256 * 1024
FETCH_SECONDS = 5.0
RENEW_SECONDS = 600.0  # a key that was withdrawn is refused after this, at the latest
FETCH_AGAIN_SECONDS = 10.0  # between two fetches, whatever asks for them

_logger = logging.getLogger("outlast.http")


class SigningKeys(Protocol):
    """The public keys of an issuer."""

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """Give a key by its id; without one, the only key.

        Raises:
          KeysUnavailable
        """
        ...


class InvalidKeys(ValueError):
    """This is no key set; the message says why."""


def parse_keys(content: bytes) -> Mapping[str | None, jwt.PyJWK]:
    """Read a JSON Web Key Set (RFC 7517, 5). Keys of kinds that are not known are left out, as the RFC asks.

    Raises:
      InvalidKeys
    """
    try:
        keys = jwt.PyJWKSet.from_dict(json.loads(content)).keys
    except (ValueError, TypeError, AttributeError, RecursionError, jwt.PyJWTError) as error:
        raise InvalidKeys(f"this is no JSON Web Key Set: {error}") from None
    usable = [key for key in keys if key.public_key_use in (None, "sig") and key.key_type != "oct"]
    if not usable:
        raise InvalidKeys("there is no public signing key in it")
    return {key.key_id: key for key in usable}


class KeysOfFile:
    """Implements `SigningKeys` for a file that was read at the start."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
          InvalidKeys, OSError
        """
        self._keys = parse_keys(path.read_bytes()[:KEYS_BYTES_MAX])

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """Give a key by its id; without one, the only key."""
        return _find(self._keys, key_id)


class FetchedKeys:
    """Implements `SigningKeys` for an issuer that publishes them."""

    def __init__(self, issuer: str, *, url: str = "", fetch: Fetch | None = None) -> None:
        """
        Args:
          issuer: the issuer's URL, as in its tokens.
          url: of its key set; "": found in its metadata.
          fetch: gives the document of a URL, or raises OSError.

        Raises:
          ValueError: the URL is not one that keys may come from.
        """
        check_url(url or issuer)
        self._issuer = issuer
        self._url = url
        self._fetch = fetch or fetch_document
        self._keys: Mapping[str | None, jwt.PyJWK] = {}
        self._fetched_at = float("-inf")  # when keys came last
        self._tried_at = float("-inf")
        self._fetching = trio.Lock()

    def __repr__(self) -> str:
        return f"FetchedKeys({self._issuer})"

    async def find(self, key_id: str | None) -> jwt.PyJWK | None:
        """Give a key by its id; fetch the keys if it is not among them, or they are old.

        Cancellation: safe; a fetch under way is left behind.
        """
        key = _find(self._keys, key_id)
        if key is not None and trio.current_time() - self._fetched_at < RENEW_SECONDS:
            return key
        async with self._fetching:
            key = _find(self._keys, key_id)  # who waited may find what it waited for
            if key is None or trio.current_time() - self._fetched_at >= RENEW_SECONDS:
                await self._renew()
        if not self._keys:
            raise KeysUnavailable("the issuer's keys cannot be had now; try again in a moment")
        return _find(self._keys, key_id)

    async def _renew(self) -> None:
        now = trio.current_time()
        if now - self._tried_at < FETCH_AGAIN_SECONDS:
            return
        self._tried_at = now
        with trio.move_on_after(2 * FETCH_SECONDS):
            try:
                url = self._url or await find_key_set(self._issuer, self._fetch)
                self._keys = parse_keys(await self._fetch(url))
            except (OSError, ValueError) as error:
                # What is known stays good; if nothing is, the caller is told.
                _logger.warning("the keys of %s cannot be had: %s", self._issuer, error)
                return
            self._fetched_at = now


async def find_key_set(issuer: str, fetch: Fetch) -> str:
    """Find the URL of an issuer's key set in its metadata.

    Raises:
      OSError: there is no metadata.
      ValueError: it is another issuer's, or names no usable URL.
    """
    url = (await find_metadata(issuer, fetch)).get("jwks_uri")
    if not isinstance(url, str):
        raise ValueError("its metadata names no key set")
    check_url(url)
    return url


async def fetch_document(url: str) -> bytes:
    """Fetch a document.

    Raises:
      OSError: not there, not 200, too large.

    Cancellation: safe; the thread is left behind, and ends by its own deadlines.
    """
    return await trio.to_thread.run_sync(_fetch_blocking, url, abandon_on_cancel=True, limiter=_threads())


_LIMITER: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar("outlast_key_fetching")


def _threads() -> trio.CapacityLimiter:
    """Give threads of our own: those that everything shares could all be waiting for a slow issuer."""
    try:
        return _LIMITER.get()
    except LookupError:
        limiter = trio.CapacityLimiter(2)
        _LIMITER.set(limiter)
        return limiter


def _fetch_blocking(url: str) -> bytes:
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, parts.port, timeout=FETCH_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=FETCH_SECONDS)
    try:
        target = parts.path or "/"
        connection.request(
            "GET", f"{target}?{parts.query}" if parts.query else target, headers={"Accept": "application/json"}
        )
        answer = connection.getresponse()
        content = answer.read(KEYS_BYTES_MAX + 1)
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP: {type(error).__name__}") from None
    finally:
        connection.close()
    if answer.status != 200:
        raise OSError(f"status {answer.status}")
    if len(content) > KEYS_BYTES_MAX:
        raise OSError(f"more than {KEYS_BYTES_MAX} bytes")
    return content


def _find(keys: Mapping[str | None, jwt.PyJWK], key_id: str | None) -> jwt.PyJWK | None:
    if key_id is None:
        return next(iter(keys.values())) if len(keys) == 1 else None
    return keys.get(key_id)
