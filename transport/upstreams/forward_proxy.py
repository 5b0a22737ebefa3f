"""A forward proxy: where it is, what it is shown, and which hosts are reached past it. Pure.

Everything goes through a tunnel (CONNECT; RFC 9110, 9.3.6), plain-text requests too: there is one way to reach what is
behind it, the proxy sees neither headers nor sessions, and a connection belongs to one origin as any other does.

Whether a host is reached past the proxy is told from how it is written. No name is resolved here: behind a proxy there
often is nobody to ask, and what such a name means is the proxy's to say.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import ssl
from collections.abc import Iterable
from typing import TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit

import attrs

from transport.upstreams.http_target import default_user_agent

_IpAddress: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
_Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

_EXPECTED = "it must be http://[USER:PASSWORD@]HOST:PORT, or https:// for TLS to the proxy itself"
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?\Z")  # in lower case and ASCII, without the dot at its end
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")


@attrs.frozen
class StraightHosts:
    """What is reached past the proxy, beside this machine itself, which always is."""

    names: frozenset[str] = frozenset()
    domains: tuple[str, ...] = ()  # each begins with a dot
    networks: tuple[_Network, ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> StraightHosts:
        """Read hosts, domains (`.example.com`: that name and all below it), addresses and networks.

        Raises:
          ValueError: one is none of these.
        """
        names: set[str] = set()
        domains: list[str] = []
        networks: list[_Network] = []
        for text in texts:
            network = _network(text)
            if network is not None:
                networks.append(network)
            elif text.startswith("."):
                domains.append("." + _name(text[1:]))
            else:
                names.add(_name(text))
        return cls(frozenset(names), tuple(domains), tuple(networks))

    def __contains__(self, host: str) -> bool:
        address = _address(host)
        if address is not None:
            # The unspecified address leads to this machine, too: a proxy would take it for itself.
            is_here = address.is_loopback or address.is_unspecified
            return is_here or any(address in network for network in self.networks)
        name = host.lower().removesuffix(".")
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761, 6.3
            return True
        return name in self.names or any(f".{name}".endswith(domain) for domain in self.domains)


@attrs.frozen
class ForwardProxy:
    """One proxy, and what is not its to carry."""

    host: str
    port: int
    authorization: str = attrs.field(default="", repr=False)  # for Proxy-Authorization; "": none
    straight: StraightHosts = StraightHosts()
    is_tls: bool = False  # the way to the proxy; what goes through it has its own
    # For that way alone; None: what the system trusts.
    trusted: ssl.SSLContext | None = attrs.field(default=None, eq=False, repr=False)

    @classmethod
    def parse(cls, url: str, straight: Iterable[str] = ()) -> ForwardProxy:
        """Read a proxy's URL.

        Args:
          straight: as for `StraightHosts.parse`.

        Raises:
          ValueError: not such a URL. The message quotes nothing of it, since any part may be one of a password.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError(_EXPECTED) from None
        if parts.scheme not in ("http", "https") or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(_EXPECTED)
        if not host or not port:
            raise ValueError(f"{_EXPECTED}: host and port are both needed, since proxies have no usual port")
        if _address(host) is None:
            host = _name(host)
        user_and_password, at, _ = parts.netloc.rpartition("@")
        authorization = _basic(user_and_password) if at else ""
        return cls(host, port, authorization, StraightHosts.parse(straight), parts.scheme == "https")

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{_authority(self.host, self.port)}"

    def carries(self, host: str) -> bool:
        """Whether a host is to be reached through the proxy."""
        return host not in self.straight

    def request(self, host: str, port: int) -> bytes:
        """Write what asks the proxy for a tunnel."""
        authority = _authority(host, port)
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", f"User-Agent: {default_user_agent()}"]
        if self.authorization:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _basic(user_and_password: str) -> str:
    """Write credentials as RFC 7617 has them, in UTF-8."""
    user, colon, password = user_and_password.partition(":")
    user_bytes, password_bytes = unquote_to_bytes(user), unquote_to_bytes(password)
    if not user or not colon:
        raise ValueError(f"{_EXPECTED}: before the @ there must be a user, a colon and a password")
    if b":" in user_bytes or _CONTROL.search(user_bytes + password_bytes):
        raise ValueError(f"{_EXPECTED}: a user has no colon in it, and neither user nor password a control character")
    return "Basic " + base64.b64encode(user_bytes + b":" + password_bytes).decode()


def _name(text: str) -> str:
    """Give a host's name in the form in which it is compared and sent."""
    try:
        name = text.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        name = ""
    if not _NAME.match(name):
        raise ValueError("it must be a host, a domain such as .example.com, an address or a network such as 10.0.0.0/8")
    return name


def _address(host: str) -> _IpAddress | None:
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _network(text: str) -> _Network | None:
    """Read an address or a network; None: it is neither."""
    try:
        return ipaddress.ip_network(text.strip("[]"))
    except ValueError:
        if "/" in text:
            raise ValueError(f"{text} is no network: write its first address, as in 10.0.0.0/8") from None
        return None
