"""Kind: what the value of a setting may be, how it is read, and how it may be shown.

One kind reads all three spellings of a value: TOML's (already typed), the text of a variable or a flag, and
the value itself (so reading twice changes nothing). A kind refuses with a sentence that says what is allowed;
it does not know where the value came from: that is added by who asked (sources.py).
"""

from __future__ import annotations

import math
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


class Refused(ValueError):
    """A value is not allowed; one sentence for each thing that is wrong with it."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@attrs.frozen
class Kind(Generic[T]):
    """One kind of value."""

    read: Callable[[object], T]  # raises Refused
    # How a value is shown in errors and in `repr`. Kinds whose values can hold a secret bring their own.
    show: Callable[[object], str] = repr
    metavar: str = "VALUE"  # what it is called in the help of a flag


def count(least: int, most: int) -> Kind[int]:
    """A whole number in a range."""
    return Kind(lambda raw: _read_count(raw, least, most), metavar="NUMBER")


def seconds(least: float, most: float) -> Kind[float]:
    """A duration in a range, in seconds."""
    return Kind(lambda raw: _read_seconds(raw, least, most), metavar="SECONDS")


def choice(*names: str) -> Kind[str]:
    """One of some words."""

    def read(raw: object) -> str:
        if not isinstance(raw, str) or raw.lower() not in names:
            raise Refused(f"it must be one of {', '.join(names)}")
        return raw.lower()

    return Kind(read, metavar="WORD")


def texts(what: str, accepts: Callable[[str], bool]) -> Kind[tuple[str, ...]]:
    """Some texts: a list in TOML, separated by commas elsewhere.

    Args:
      what: what each must be, for the error: "each must be ...".
      accepts: whether one of them is allowed.
    """

    def read(raw: object) -> tuple[str, ...]:
        parts = [part.strip() for part in raw.split(",")] if isinstance(raw, str) else raw
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise Refused(f"it must be a list of texts, each {what}")
        given = tuple(part for part in parts if part)
        wrong = [part for part in given if not accepts(part)]
        if wrong:
            raise Refused(*(f"{part!r} must be {what}" for part in wrong))
        return given

    return Kind(read, metavar="LIST")


def _read_switch(raw: object) -> bool:
    spellings = {"true": True, "yes": True, "on": True, "1": True}
    spellings |= {"false": False, "no": False, "off": False, "0": False}
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in spellings:
        return spellings[raw.lower()]
    raise Refused("it must be true or false")


SWITCH = Kind(_read_switch)


def _read_directory(raw: object) -> Path:
    if not isinstance(raw, str | Path) or not str(raw) or "\0" in str(raw):
        raise Refused("it must be the path of a directory")
    try:
        return Path(raw).expanduser()
    except RuntimeError:  # "~somebody" whom this machine does not know
        raise Refused("it begins with the home of a user that is not known here") from None


DIRECTORY = Kind(_read_directory, metavar="PATH")


def connections(most: int) -> Kind[int]:
    """A number of connections, or `auto`: what the open-file limit of this process allows."""

    def read(raw: object) -> int:
        if raw == "auto":
            return affordable_connections(most)
        return _read_count(raw, 1, most, or_else=", or auto")

    return Kind(read)


def affordable_connections(most: int) -> int:
    """Give how many connections the open-file limit leaves room for, at most `most`.

    200 descriptors are kept for the store, logs, upstream connections and pipes: an accept loop without
    descriptors cannot even refuse politely.
    """
    open_files_max, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if open_files_max == resource.RLIM_INFINITY:
        return most
    return min(most, max(open_files_max - 200, 16))


def _read_count(raw: object, least: int, most: int, *, or_else: str = "") -> int:
    allowed = f"it must be a whole number from {least} to {most}{or_else}"
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise Refused(allowed)
    try:
        number = int(raw)
    except ValueError:
        raise Refused(allowed) from None
    if not least <= number <= most:
        raise Refused(allowed)
    return number


def _read_seconds(raw: object, least: float, most: float) -> float:
    allowed = f"it must be a number of seconds from {least:g} to {most:.0f}"
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise Refused(allowed)
    try:
        number = float(raw)
    except (ValueError, OverflowError):
        raise Refused(allowed) from None
    if not math.isfinite(number) or not least <= number <= most:
        raise Refused(allowed)
    return number
