"""URLs and addresses as people write them and as they may be shown: what can be a secret is left out.

A secret can stand in a URL before the host (user:password@) and in its query (?api_key=...). Errors, logs and
reprs show URLs through `redacted` alone.
"""

from __future__ import annotations

import ipaddress
import re

import attrs

from outlast.kinds import Kind, Refused

# scheme:, then an authority if there is one, then the path, then the query and the fragment
_URL = re.compile(r"(?P<scheme>[^/?#]*?:)?(?://(?P<authority>[^/?#]*))?(?P<path>[^?#]*)(?P<rest>.*)", re.DOTALL)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_PORT = re.compile(r"[0-9]{1,5}")


def redacted(url: str) -> str:
    """Give a URL without its user, password, query and fragment; a malformed one too."""
    found = _URL.fullmatch(url)
    assert found is not None  # every part may be empty: it matches any text
    authority, path = found["authority"], found["path"]
    if authority is None:
        return f"{found['scheme'] or ''}{path.rpartition('@')[2]}{_hidden(found['rest'])}"
    if "@" not in authority and "@" in path and _port_is_odd(authority):
        # "//user:pass/word@host": a password with a slash in it, so what looks like the path holds its rest
        authority, path = "@", path.rpartition("@")[2]
    host = authority.rpartition("@")[2]
    user = "***@" if "@" in authority else ""
    return f"{found['scheme'] or ''}//{user}{host}{path}{_hidden(found['rest'])}"


def _hidden(rest: str) -> str:
    return "?***" if rest else ""


def _port_is_odd(authority: str) -> bool:
    _, colon, port = authority.rpartition(":")
    return bool(colon) and not authority.endswith("]") and not _PORT.fullmatch(port)


@attrs.frozen
class Address:
    """Where to listen: a host (name or number) and a port; port 0 lets the system choose one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def read_address(raw: object) -> Address:
    """Read `HOST:PORT`, `[IPV6]:PORT`, or an Address as it is.

    Raises:
      Refused
    """
    if isinstance(raw, Address):
        return raw
    allowed = "it must be HOST:PORT with a port from 0 to 65535, for example 127.0.0.1:8080 or [::1]:8080"
    if not isinstance(raw, str):
        raise Refused(allowed)
    host, _, port = raw.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > 65535 or not _is_host(host):
        raise Refused(allowed)
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def local_url(address: Address) -> str:
    """Give the URL by which this machine reaches who listens there."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    return f"http://{Address(everywhere.get(address.host, address.host), address.port)}"


def _shown_address(raw: object) -> str:
    return str(raw) if isinstance(raw, Address) else repr(raw)


ADDRESS: Kind[Address] = Kind(read_address, _shown_address, "HOST:PORT")


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        try:
            ipaddress.IPv6Address(text[1:-1].partition("%")[0])
        except ValueError:
            return False
        return True
    return _HOST_NAME.fullmatch(text) is not None
