"""The canary: a few sealed bytes that a store keeps beside its records, to know at once that a key is wrong.

It is sealed with the key that the last owner wrote with, and looked at before anything else is done. Without it a
store opened with the wrong key would seem full of sessions that cannot be read, and new records under another key
would come between them. Records of *other* keys that are missing are single sessions' trouble: `KeyMissing`.
"""

from __future__ import annotations

from persistence.key_ring import key_name
from persistence.sealing import SealBroken, Sealing
from persistence.store import StoreInvalid

CANARY = "key_canary"  # its name among the facts that a store keeps of itself

_ABOUT = b"outlast key canary"
_PAYLOAD = b"this key opens what this store holds"
_KEY_ID_BYTES = 4


def make_canary(sealing: Sealing) -> bytes:
    """Seal a canary with the key that records are sealed with."""
    return sealing.key_id.to_bytes(_KEY_ID_BYTES, "big") + sealing.seal(_PAYLOAD, _ABOUT)


def check_canary(canary: bytes | None, sealing: Sealing | None, where: str) -> None:
    """Check that the key a store was last written with is here, and is that key.

    Args:
      canary: as the store keeps it; None: the store was never written with a key.
      sealing: with the keys at hand; None: there are none.
      where: which store, for the error.

    Raises:
      StoreInvalid: it names the missing key by its id.
    """
    if canary is None:
        return
    key_id = int.from_bytes(canary[:_KEY_ID_BYTES], "big")
    named = f"{where} was last written with the key {key_name(key_id)}"
    if sealing is None:
        raise StoreInvalid(f"{named}, and no key was given; it was not touched. Set SESSION_ENCRYPTION_KEY")
    if not sealing.has(key_id):
        raise StoreInvalid(
            f"{named}, which is not in SESSION_ENCRYPTION_KEY; it was not touched. Add that key, behind the newest"
        )
    try:
        opened = sealing.open(key_id, canary[_KEY_ID_BYTES:], _ABOUT)
    except SealBroken as broken:
        raise StoreInvalid(
            f"{where}: the key {key_name(key_id)} is not the one that the store was written with, or the store's"
            " canary is damaged; it was not touched"
        ) from broken
    assert opened == _PAYLOAD, "sealed by us, for this, and something else"
