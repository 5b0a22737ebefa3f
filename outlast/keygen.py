"""keygen: a new encryption key, made from the system's random numbers, and what to do with it."""

from __future__ import annotations

from persistence.key_ring import Key, key_name, new_key


def make_key() -> tuple[str, str]:
    """Make a key.

    Returns:
      the key as SESSION_ENCRYPTION_KEY takes it, which is the caller's to show to nobody else; and a line about it
      that holds nothing of it.
    """
    text = new_key()
    about = (
        f"the id of this key is {key_name(Key.read(text).id)}; set SESSION_ENCRYPTION_KEY to it, in front of older"
        " keys and a comma if there are any. What is encrypted with a key is lost with it: keep a copy in a safe place"
    )
    return text, about
