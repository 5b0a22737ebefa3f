"""Metadata of an authorization server: where its keys are, where its tokens come from (RFC 8414, OpenID Connect).

Whoever could change it on the way could make keys, or be told secrets. So it is HTTPS unless the server is on this
machine, and metadata that names another issuer than the one it was asked of is refused (RFC 8414, 3.3).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from transport.guard import LOOPBACK

Fetch = Callable[[str], Awaitable[bytes]]  # gives the document of a URL, or raises OSError


async def find_metadata(issuer: str, fetch: Fetch) -> dict[str, Any]:
    """Find an issuer's metadata.

    Raises:
      OSError: there is none.
      ValueError: it is another issuer's.

    Cancellation: as of `fetch`.
    """
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    places = (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{issuer.rstrip('/')}/.well-known/openid-configuration",
    )
    failure = OSError("it has no metadata")
    for place in places:
        try:
            metadata = json.loads(await fetch(place))
        except (OSError, ValueError, RecursionError) as error:
            failure = OSError(f"no metadata: {error}")
            continue
        if not isinstance(metadata, dict) or metadata.get("issuer") != issuer:
            raise ValueError("its metadata is of another issuer")
        return metadata
    raise failure


def check_url(url: str) -> None:
    """Refuse URLs that neither keys nor tokens may come from.

    Raises:
      ValueError
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and host and "@" not in parts.netloc:
        return
    if parts.scheme == "http" and (host in LOOPBACK or host == "::1"):
        return
    raise ValueError("keys and tokens are fetched over https:// (http:// from this machine only)")
