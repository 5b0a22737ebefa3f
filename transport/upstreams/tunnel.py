"""How a stream to a host is opened: straight, or by a tunnel through the forward proxy.

Whoever asks has a deadline for all of it: the proxy's address, its answer, and what comes behind. The proxy's answer is
read to the end of its head and no further, within `HEAD_BYTES_MAX`; what a refusal says besides its status is nobody's
to quote. What the proxy says reaches clients, so it is spoken of without its address; logs have that.
"""

from __future__ import annotations

import os
import socket
import ssl

import trio

from transport.upstreams.forward_proxy import ForwardProxy
from transport.upstreams.http_response import ResponseInvalid, ResponseReader
from transport.upstreams.tls_stream import TlsStream, open_tls

HEAD_BYTES_MAX = 16 * 1024  # proxies' answers have a few hundred; those of sign-in pages some kilobytes of cookies
_HEAD_END = b"\r\n\r\n"
_READ_BYTES = 4096
_HTTPS_PORT = 443
_FORBIDDEN = 403

_ADVICE = {
    407: "it wants a user and password that it knows: look at upstream_proxy",
    405: "it makes no tunnels (CONNECT)",
    501: "it makes no tunnels (CONNECT)",
    502: "it does not reach the upstream",
    503: "it does not reach the upstream",
    504: "it does not reach the upstream",
}


class ProxyFailed(OSError):
    """The forward proxy was not reached, or opened no tunnel; the message says why, and names no address."""


async def open_stream(host: str, port: int, proxy: ForwardProxy | None) -> trio.SocketStream | TlsStream:
    """Connect to a host.

    Args:
      proxy: makes the tunnel if the host is its to carry; None: there is none.

    Raises:
      OSError: no such host, refused or unreachable.
      ProxyFailed: no tunnel.

    Cancellation: what was opened is closed.
    """
    if proxy is None or not proxy.carries(host):
        return await trio.open_tcp_stream(host, port)
    try:
        stream: trio.SocketStream | TlsStream = await trio.open_tcp_stream(proxy.host, proxy.port)
        if proxy.is_tls:
            assert isinstance(stream, trio.SocketStream)
            stream = await open_tls(stream, proxy.host, proxy.trusted)
    except OSError as error:
        raise ProxyFailed(f"the forward proxy is not reached: {describe(error)}") from None
    try:
        await _ask(stream, proxy.request(host, port), port)
    except BaseException:  # cancelled, too
        await trio.aclose_forcefully(stream)
        raise
    return stream


def describe(error: OSError) -> str:
    """Say why connecting failed, without addresses; trio keeps the reasons, one per address tried, in the cause."""
    if isinstance(error, ProxyFailed):
        return str(error)
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    reason = cause if isinstance(cause, OSError) else error
    if isinstance(reason, ssl.SSLError | socket.gaierror):  # their numbers are not the system's
        return reason.strerror or type(reason).__name__
    return os.strerror(reason.errno) if reason.errno else type(reason).__name__


async def _ask(stream: trio.abc.Stream, request: bytes, port: int) -> None:
    """Ask for a tunnel, and return when the stream is one."""
    try:
        await stream.send_all(request)
        status, surplus = await _read_status(stream)
    except trio.BrokenResourceError:
        raise ProxyFailed("the forward proxy broke off the connection") from None
    except ResponseInvalid as invalid:
        raise ProxyFailed(f"the forward proxy's answer cannot be read: {invalid}") from None
    if not 200 <= status < 300:
        raise ProxyFailed(f"the forward proxy answered CONNECT with {status}{_advice(status, port)}")
    if surplus:  # the upstream has not been spoken to: whoever says this, it is not an answer of its
        raise ProxyFailed("the forward proxy sent more than its answer to CONNECT")


async def _read_status(stream: trio.abc.Stream) -> tuple[int, bytes]:
    """Read an answer's head; give its status, and what came behind it.

    What a 2xx says of a body is void here (RFC 9110, 9.3.6), so the head's end is looked for and only the head parsed.
    """
    reader = ResponseReader()
    received = b""
    begin = 0  # of the head that is being read: heads of 1xx come before the answer's
    parsed = 0
    while True:
        data = await stream.receive_some(min(_READ_BYTES, HEAD_BYTES_MAX - len(received)))
        if not data:
            raise ResponseInvalid("it closed the connection before an answer was complete")
        received += data
        while (found := received.find(_HEAD_END, begin)) >= 0:
            begin = found + len(_HEAD_END)
            reader.feed(received[parsed:begin])
            parsed = begin
            if reader.head is not None:
                return reader.head.status, received[begin:]
        if len(received) == HEAD_BYTES_MAX:
            raise ResponseInvalid(f"its head is larger than {HEAD_BYTES_MAX} bytes")
        reader.feed(received[parsed:])
        parsed = len(received)
        if reader.head is not None:
            raise ResponseInvalid("the lines of its head do not end as they must")


def _advice(status: int, port: int) -> str:
    advice = _ADVICE.get(status, "")
    if status == _FORBIDDEN:
        advice = "its rules do not let the gateway reach this upstream"
        if port != _HTTPS_PORT:
            advice += f"; many proxies open tunnels to port {_HTTPS_PORT} alone, and this is {port}"
    return f": {advice}" if advice else ""
