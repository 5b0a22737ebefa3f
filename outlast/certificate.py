"""The gateway's certificate: made into a TLS context at the start, and again whenever its files have changed.

Certificates live for weeks, gateways for longer: whatever renews the files need not tell the gateway, and no connection
is closed for it. New connections are served with the new certificate some seconds later.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

if TYPE_CHECKING:
    import ssl

    from outlast.settings import Settings

LOOK_SECONDS = 5.0  # two calls of stat

log = structlog.get_logger("outlast.certificate")

_FileState = tuple[int, int, int]
FilesState = tuple[_FileState, _FileState]


@attrs.frozen
class CertificateFiles:
    """Where the certificate is."""

    certfile: Path  # the chain, PEM
    keyfile: Path  # its private key, PEM

    def load(self) -> ssl.SSLContext:
        """Make a TLS context.

        Raises:
          OSError, ssl.SSLError: the files cannot be read, or do not belong together.
        """
        import ssl  # 20 ms, for those who serve TLS

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996: older ones must not be used
        context.load_cert_chain(self.certfile, self.keyfile)
        context.set_alpn_protocols(["http/1.1"])
        return context

    def state(self) -> FilesState | None:
        """Tell what both files are now, so that a change shows; None: one of them is not there.

        Links are followed: renewed certificates come as other targets of the same links.
        """
        try:
            return _state(self.certfile), _state(self.keyfile)
        except OSError:
            return None


def certificate_files(settings: Settings) -> CertificateFiles | None:
    """Name the files of the gateway's certificate; None: plain HTTP."""
    if settings.certfile is None or settings.keyfile is None:
        return None
    return CertificateFiles(settings.certfile, settings.keyfile)


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """Make the TLS context of the listening address; None: plain HTTP.

    Raises:
      OSError, ssl.SSLError: the files cannot be read, or do not belong together.
    """
    files = certificate_files(settings)
    return None if files is None else files.load()


async def keep_fresh(
    files: CertificateFiles,
    seen: FilesState | None,
    install: Callable[[ssl.SSLContext], None],
    *,
    look_seconds: float = LOOK_SECONDS,
) -> None:
    """Install a new context whenever the files have changed; run until cancelled.

    Args:
      files: where the certificate is.
      seen: their state before the context that is in use was made; a later one could be of files that are newer.
      install: takes the new context.
      look_seconds: between two looks at the files.

    Files that cannot be used, such as a new chain whose key is still to come, are logged and looked at again when they
    change: until then the certificate that is there stays.
    """
    while True:
        await trio.sleep(look_seconds)
        state = await trio.to_thread.run_sync(files.state)
        if state in (seen, None):
            continue
        seen = state
        try:
            context = await trio.to_thread.run_sync(files.load)
        except OSError as error:  # ssl.SSLError is one
            log.warning("the new certificate cannot be used, the old one stays", why=error.strerror or str(error))
            continue
        install(context)
        log.info("the certificate was renewed", certfile=str(files.certfile))


def _state(path: Path) -> _FileState:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
