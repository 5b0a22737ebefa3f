"""The forward proxy as settings: how servers behind the gateway are reached where nothing else is let out.

HTTPS_PROXY, NO_PROXY and their like are not read: where a gateway sends what people say through it is its operator's
decision, not that of whatever environment it happens to be started in. Programs behind `stdio:` get these variables as
they get any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from outlast.kinds import Kind, Refused, texts
from outlast.urls import redacted

if TYPE_CHECKING:
    from outlast.settings import Settings
    from transport.upstreams.forward_proxy import ForwardProxy


def _read_proxy(raw: object) -> str:
    if raw == "":
        return ""
    if not isinstance(raw, str):
        raise Refused("it must be http://[USER:PASSWORD@]HOST:PORT, or https:// for TLS to the proxy itself")
    from transport.upstreams.forward_proxy import ForwardProxy  # here: few have one, and all read settings

    try:
        ForwardProxy.parse(raw)
    except ValueError as error:
        raise Refused(str(error)) from None
    return raw


def _is_straight(text: str) -> bool:
    from transport.upstreams.forward_proxy import StraightHosts  # as above

    try:
        StraightHosts.parse([text])
    except ValueError:
        return False
    return True


def _shown_proxy(raw: object) -> str:
    """What is no proxy's URL may be a password alone, put in the wrong place."""
    try:
        return repr(redacted(_read_proxy(raw)))
    except Refused:
        return "<not shown>"


PROXY: Kind[str] = Kind(_read_proxy, _shown_proxy, "URL")
_STRAIGHT = texts(
    "a host, a domain such as .example.com, an address, or a network by its first address, such as 10.0.0.0/8",
    _is_straight,
)


def _read_straight(raw: object) -> tuple[str, ...]:
    if "@" in str(raw):  # the proxy's own URL, in the wrong place: nothing of it may be quoted
        raise Refused(
            "it has a user in it: the proxy itself belongs into upstream_proxy, and here what is reached past it"
        )
    return _STRAIGHT.read(raw)


def _shown_straight(raw: object) -> str:
    return "<not shown>" if "@" in str(raw) else repr(raw)


STRAIGHT = Kind(_read_straight, _shown_straight, "LIST")


def proxy_of(settings: Settings) -> ForwardProxy | None:
    """Make the proxy that upstreams are reached through; None: they are reached straight."""
    if not settings.upstream_proxy:
        return None
    from transport.upstreams.forward_proxy import ForwardProxy

    return ForwardProxy.parse(settings.upstream_proxy, settings.upstream_proxy_except)


def proxy_troubles(settings: Settings) -> list[str]:
    """Say what was set that would have no effect."""
    if settings.upstream_proxy_except and not settings.upstream_proxy:
        return ["upstream_proxy_except: without upstream_proxy, all is reached straight: set it, or leave this out"]
    return []
