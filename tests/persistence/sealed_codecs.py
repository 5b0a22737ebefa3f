"""Codecs for tests, one for each way of writing records, and the keys that they use. The keys guard nothing."""

from __future__ import annotations

from persistence.codec import Codec
from persistence.compression import Compression
from persistence.key_ring import Key, KeyRing
from persistence.sealing import Sealing

OLD_KEY = Key(bytes(range(32)))
NEW_KEY = Key(bytes(range(32, 64)))
OTHER_KEY = Key(bytes(range(64, 96)))


def codec(*keys: Key, compress: bool = False, secrets_in_clear: bool = False) -> Codec:
    """Make a codec with these keys, the newest first; without any, it writes in clear."""
    return Codec(
        compression=Compression() if compress else None,
        sealing=Sealing(KeyRing(keys)) if keys else None,
        secrets_in_clear=secrets_in_clear,
    )


# Secrets are allowed, because properties are to hold for fields of any name.
CODECS = {
    "plain": codec(secrets_in_clear=True),
    "compressed": codec(compress=True, secrets_in_clear=True),
    "sealed": codec(OLD_KEY),
    "compressed and sealed": codec(OLD_KEY, compress=True),
}
