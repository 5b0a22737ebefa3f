"""TLS in front of a server's socket, as a proxy ends it, with certificates made for the test.

Not every server that tests run on is built with TLS; what is shown is the client's side.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)
_RECEIVE_BYTES = 65536


class Authority:
    """A certificate authority of its own.

    Args:
      name: what its files are called, in this directory.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _certificate(self._name, self._name, self._key.public_key())
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = builder.add_extension(constraints, critical=True).sign(self._key, hashes.SHA256())
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *addresses: str) -> Path:
        """Make a certificate for these addresses; give the file that has it with its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _certificate(subject, self._name, key.public_key())
        if addresses:
            names = [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        file = self._directory / f"{name}.pem"
        plain = serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
        return file


@attrs.define(eq=False)
class TlsFront:
    """Listens with TLS on a port of 127.0.0.1, and passes bytes on to a socket in the file system."""

    port: int
    accepted: int = 0  # connections whose handshake succeeded


@contextlib.contextmanager
def tls_front(behind: Path, certificate: Path, *, clients: Path | None = None) -> Iterator[TlsFront]:
    """Run a front for the length of a block.

    Args:
      behind: the server's socket.
      certificate: what it shows, with its key.
      clients: the authority whose certificates clients must show; None: they need none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        front = TlsFront(listener.getsockname()[1])
        thread = threading.Thread(target=_serve, args=(listener, context, behind, front), daemon=True)
        thread.start()
        try:
            yield front
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _serve(listener: socket.socket, context: ssl.SSLContext, behind: Path, front: TlsFront) -> None:
    while True:
        try:
            accepted, _ = listener.accept()
        except OSError:
            return  # the end of the block
        threading.Thread(target=_relay, args=(accepted, context, behind, front), daemon=True).start()


def _relay(accepted: socket.socket, context: ssl.SSLContext, behind: Path, front: TlsFront) -> None:
    """Ask and answer by turns, as the store does: all of a question is sent before its answer is waited for."""
    with contextlib.suppress(OSError), accepted, socket.socket(socket.AF_UNIX) as server:
        server.connect(str(behind))
        with context.wrap_socket(accepted, server_side=True) as client:
            front.accepted += 1
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            server.shutdown(socket.SHUT_RDWR)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_RECEIVE_BYTES):
            target.sendall(data)


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
    )
