"""Preflight: everything that can be found wrong with a start before anything is written.

Whoever mistyped a command or a port must not be left with an empty data directory. These are looks, not
promises: what changes between the look and the act is found by the act itself, and reported in the same
words.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from outlast.access import access_troubles, authentication_of
from outlast.certificate import tls_of
from outlast.endings import StartRefused, address_refused
from outlast.server_oauth import oauth_troubles
from outlast.settings import Settings
from outlast.targets import missing_commands
from outlast.urls import Address


def _may_write(directory: Path) -> bool:
    return os.access(directory, os.W_OK | os.X_OK)


def check_start(settings: Settings, *, may_write: Callable[[Path], bool] = _may_write) -> None:
    """Look whether the gateway can start with these settings; nothing is changed.

    Args:
      may_write: whether this user may make files in a directory.

    Raises:
      StartRefused: with a line for each thing that is wrong.
    """
    lines = [
        *_server_troubles(settings),
        *access_troubles(settings),
        *oauth_troubles(settings),
        *_contradictions(settings),
        *_file_troubles(settings),
        *_store_troubles(settings.store, may_write),
        *_listen_troubles(settings.listen),
    ]
    if lines:
        raise StartRefused(*lines)


def _server_troubles(settings: Settings) -> list[str]:
    if not settings.servers:
        return ["there is no server to serve: name one, for example --server time=stdio:mcp-server-time"]
    return missing_commands(settings.servers, shutil.which)


def _contradictions(settings: Settings) -> list[str]:
    """Say which settings cannot both be meant."""
    troubles = []
    if settings.events_bytes_max < settings.event_bytes_max:
        troubles.append(
            f"events_bytes_max {settings.events_bytes_max} is less than event_bytes_max {settings.event_bytes_max}:"
            " an event that is allowed could not be kept; make the one larger or the other smaller"
        )
    least_call_seconds = min(settings.call_seconds_max, settings.call_total_seconds_max)
    if settings.answer_json_within_seconds >= least_call_seconds:
        troubles.append(
            f"answer_json_within_seconds {settings.answer_json_within_seconds:g}: calls end after"
            f" {least_call_seconds:g} s (call_seconds_max, call_total_seconds_max), so none would get a stream;"
            " make it smaller"
        )
    if not settings.oauth_issuer:
        without = {
            "oauth_audiences": settings.oauth_audiences,
            "oauth_keys": settings.oauth_keys,
            "oauth_scopes": settings.oauth_scopes,
        }
        names = ", ".join(name for name, value in without.items() if value)
        if names:
            troubles.append(f"{names}: without oauth_issuer, no tokens are checked: set it, or leave this out")
    return troubles


def _file_troubles(settings: Settings) -> list[str]:
    """Read what the start will read: certificate and key, and the issuer's keys where they are in a file."""
    lines = []
    try:
        tls_of(settings)
    except OSError as error:  # ssl.SSLError is one
        lines.append(f"certfile {settings.certfile}, keyfile {settings.keyfile}: {error.strerror or error}")
    try:
        authentication_of(settings)
    except (OSError, ValueError) as error:
        lines.append(f"oauth_issuer, oauth_keys: {error}")
    return lines


def _store_troubles(url: str, may_write: Callable[[Path], bool]) -> list[str]:
    if not url.startswith("sqlite:"):
        return []
    file = Path(url.removeprefix("sqlite:"))
    if file.is_dir():
        return [f"store {url}: {file} is a directory: name a file in it"]
    place = file.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return [f"store {url}: {place} is not a directory: choose another place with --store"]
    if not may_write(place):
        return [f"store {url}: this user may not write to {place}: allow it, or choose another with --store"]
    return []


def _listen_troubles(address: Address) -> list[str]:
    """Take the address and let it go again, as the server will take it."""
    if address.port == 0:
        return []
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return [f"cannot listen on {address}: {error.strerror or error}: choose another host with --listen"]
    for family, kind, protocol, _, place in found:
        trouble = _bind_trouble(address, family, kind, protocol, place)
        if trouble:
            return [trouble]
    return []


def _bind_trouble(address: Address, family: int, kind: int, protocol: int, place: tuple[object, ...]) -> str:
    try:
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: connections that are closing do not keep a port, another listener does.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(place)
    except OSError as error:
        refused = address_refused(address, error)
        # A family that this machine does not have (no IPv6) is the server's to skip.
        return str(refused) if refused is not None else ""
    return ""
