"""Advice: what a gateway would start with, and somebody should still know.

Mistakes are refused (`preflight.py`); these are no mistakes for certain. Each is a sentence that says what may come of
it and what to do. None of them repeats a secret.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from outlast.access import asks_for_tokens, is_loopback
from outlast.kinds import affordable_connections
from outlast.settings import Settings
from outlast.sources import CONFIG_VARIABLE
from outlast.targets import HttpTarget, SseTarget, WebSocketTarget

_OTHERS = stat.S_IRWXG | stat.S_IRWXO  # rights of group and others


def advice(
    settings: Settings,
    config: Path | None,
    environment: Mapping[str, str],
    *,
    affordable: Callable[[int], int] = affordable_connections,
) -> list[str]:
    """Give advice on these settings, a line each; nothing is changed.

    Args:
      config: the file that they came from; None: the one that OUTLAST_CONFIG names, if any.
      affordable: how many connections there is room for, at most as many as given.
    """
    named = environment.get(CONFIG_VARIABLE, "")
    file = config if config is not None else Path(named) if named else None
    return [
        *_about_key_file(settings),
        *(_about_config_file(file, settings) if file is not None else ()),
        *_about_clear_headers(settings),
        *_about_connections(settings, affordable(settings.connections_max)),
        *_about_anonymous(settings),
    ]


def _about_key_file(settings: Settings) -> Iterator[str]:
    if settings.keyfile is not None and _open_to_others(settings.keyfile):
        yield f"keyfile {settings.keyfile}: other users may read it: chmod 600, or 640 for a group of its own"


def _about_config_file(file: Path, settings: Settings) -> Iterator[str]:
    ours = settings.operators_token, settings.encryption_keys, settings.server_headers, settings.server_oauth
    if (settings.client_tokens or any(ours)) and _open_to_others(file):
        # Some of these may come from the environment; what was in the file is not told apart any more.
        yield f"{file}: other users may read it, and there are secrets in the configuration: chmod 600"


def _open_to_others(file: Path) -> bool:
    """Whether anybody may read it, or its group may change it. A group that may read is often meant (Kubernetes)."""
    try:
        mode = file.stat().st_mode
    except OSError:  # what cannot be looked at is found by whoever reads it
        return False
    return bool(mode & stat.S_IRWXO or mode & _OTHERS & stat.S_IWGRP)


def _about_clear_headers(settings: Settings) -> Iterator[str]:
    for name in {**settings.server_headers, **settings.server_oauth}:
        target = settings.servers.get(name)
        if isinstance(target, HttpTarget | SseTarget | WebSocketTarget):
            parts = urlsplit(target.url)
            if parts.scheme in ("http", "ws") and not is_loopback(parts.hostname or ""):
                setting = "server_headers" if name in settings.server_headers else "server_oauth"
                yield f"{setting}: what is for {name!r} goes to {parts.hostname} in clear: use https or wss"


def _about_connections(settings: Settings, affordable: int) -> Iterator[str]:
    if settings.connections_max > affordable:
        yield (
            f"connections_max {settings.connections_max}: the open-file limit has room for {affordable}; raise it"
            " (ulimit -n), or say auto"
        )


def _about_anonymous(settings: Settings) -> Iterator[str]:
    if settings.allow_anonymous and asks_for_tokens(settings):
        yield "allow_anonymous has no effect: tokens are asked for, since client_tokens or oauth_issuer is set"
