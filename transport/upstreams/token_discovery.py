"""Where tokens for an upstream come from: as the operator says, or as the upstream and its authorization server do.

Without a word of the operator's, the upstream's protected-resource metadata (RFC 9728) names its authorization server,
whose own metadata (RFC 8414) names the token endpoint: MCP 2025-11-25, basic/authorization, "Authorization Server
Location". Then the upstream chooses who is shown the gateway's secret; whoever does not want that names the issuer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from transport.issuer_metadata import check_url, find_metadata
from transport.upstreams.side_requests import SideRequests

_WELL_KNOWN = "/.well-known/oauth-protected-resource"
_RESOURCE_METADATA = re.compile(r'\bresource_metadata="([\x21\x23-\x5b\x5d-\x7e]{1,2048})"')
BASIC = "client_secret_basic"
POST = "client_secret_post"


@attrs.frozen
class TokenClient:
    """What the gateway is to the authorization server of one upstream."""

    client_id: str
    client_secret: str = attrs.field(repr=False)
    server_url: str = attrs.field(repr=False)  # of the upstream, http or https; its query may be a secret
    token_endpoint: str = ""  # "": found
    issuer: str = ""  # whose metadata names it; "": the upstream's metadata names the issuer
    authentication: str = ""  # BASIC or POST; "": as the metadata says, else BASIC
    scope: str = ""
    resource: str | None = None  # RFC 8707; "": not sent, None: the upstream's own name
    audience: str = ""  # RFC 8693; "": not sent

    @property
    def server_name(self) -> str:
        """The upstream's URL as a resource: without a query or fragment (RFC 8707, 2)."""
        return self.server_url.partition("#")[0].partition("?")[0]


@attrs.frozen
class TokenEndpoint:
    """Where to ask, how to say who asks, and for what."""

    url: str
    authentication: str
    resource: str


async def find_token_endpoint(client: TokenClient, requests: SideRequests) -> TokenEndpoint:
    """Find it.

    Raises:
      OSError: something is not there.
      ValueError: something is there and cannot be used; the message says what.

    Cancellation: safe.
    """
    resource, methods = client.server_name, None
    url: object = client.token_endpoint
    if not url:
        issuer = client.issuer
        if not issuer:
            issuer, resource = await _find_issuer(client.server_name, requests)
        metadata = await find_metadata(issuer, requests.fetch)
        url, methods = metadata.get("token_endpoint"), metadata.get("token_endpoint_auth_methods_supported")
    if not isinstance(url, str):
        raise ValueError("the authorization server's metadata names no token endpoint")
    check_url(url)
    return TokenEndpoint(
        url, client.authentication or _choose(methods), resource if client.resource is None else client.resource
    )


def _choose(methods: object) -> str:
    """Choose how to authenticate: RFC 8414, 2, has BASIC where nothing is said."""
    return POST if isinstance(methods, list) and POST in methods and BASIC not in methods else BASIC


async def _find_issuer(server_url: str, requests: SideRequests) -> tuple[str, str]:
    """Ask the upstream. Returns its authorization server, and its own name there.

    At the well-known places first: most servers have it there, and nothing is asked of MCP for it.
    """
    check_url(server_url)
    failure: OSError | None = None
    for place in _places(server_url):
        try:
            metadata = await _fetch_json(place, requests)
        except (OSError, ValueError) as error:
            failure = OSError(f"the server says nothing of its authorization server: {error}")
            continue
        return _issuer_of(metadata, server_url)
    place = await _challenged_place(server_url, requests)
    if not place:
        assert failure is not None
        raise failure
    check_url(place)
    return _issuer_of(await _fetch_json(place, requests), server_url)


async def _fetch_json(place: str, requests: SideRequests) -> Any:
    try:
        return json.loads(await requests.fetch(place))
    except RecursionError:
        raise ValueError("the server's protected-resource metadata is nested too deeply") from None


async def _challenged_place(server_url: str, requests: SideRequests) -> str:
    """Ask the server where its metadata is, by asking it without a token (RFC 9728, 5.1)."""
    match = _RESOURCE_METADATA.search(await requests.challenge(server_url))
    return match[1] if match is not None else ""


def _places(server_url: str) -> Iterator[str]:
    """Give where the metadata may be (RFC 9728, 3.1)."""
    parts = urlsplit(server_url)
    origin = f"{parts.scheme}://{parts.netloc}"
    yield f"{origin}{_WELL_KNOWN}{parts.path.rstrip('/')}"
    if parts.path.rstrip("/"):
        yield f"{origin}{_WELL_KNOWN}"


def _issuer_of(metadata: Any, server_url: str) -> tuple[str, str]:
    if not isinstance(metadata, Mapping):
        raise ValueError("the server's protected-resource metadata is no object")
    resource = metadata.get("resource")
    # Servers of several endpoints have one document for all of them (as the TypeScript SDK takes it, too).
    if not isinstance(resource, str) or not _is_within(server_url, resource):
        raise ValueError("the server's protected-resource metadata is of another resource")
    issuers = metadata.get("authorization_servers")
    if not isinstance(issuers, list) or not issuers or not isinstance(issuers[0], str):
        raise ValueError("the server's protected-resource metadata names no authorization server")
    check_url(issuers[0])
    return issuers[0], resource


def _is_within(url: str, resource: str) -> bool:
    resource = resource.rstrip("/")
    return url.rstrip("/") == resource or url.startswith(resource + "/")
