"""Rooms and shadows: says plainly when another module of an application hides one of our rooms.

The wheel installs four top-level packages; users import `outlast` alone. An application that has an
`actors.py` of its own, or a `transport` package, comes first on `sys.path`: without this check it would fail
somewhere deep inside, with an import error about a name that nobody has heard of.
"""

from __future__ import annotations

import importlib
import os
from importlib.machinery import ModuleSpec
from importlib.util import find_spec

ROOMS = ("transport", "actors", "persistence")


def check_rooms() -> None:
    """See to it that our rooms are the ones that importing finds; call it before importing any of them.

    Each is imported (they are empty, their files are imported when needed), so that a change of `sys.path`
    later cannot put another in its place.

    Raises:
      ImportError: another module stands in the place of a room, or a room is missing.
    """
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for room in ROOMS:
        spec = _find(room)
        expected = os.path.join(home, room, "__init__.py")
        if spec is None:
            raise ImportError(
                f"outlast is not installed completely: its package {room!r} is missing from {home}; "
                "install outlast again",
                name=room,
            )
        if not _same_file(spec.origin, expected):
            raise ImportError(_about_shadow(room, spec), name=room, path=spec.origin)
        importlib.import_module(room)


def _find(room: str) -> ModuleSpec | None:
    try:
        return find_spec(room)
    except ValueError:
        # Something put a module without a spec into sys.modules under this name: it is none of ours.
        return ModuleSpec(room, None, origin="a module made at run time")


def _about_shadow(room: str, spec: ModuleSpec) -> str:
    found = spec.origin or next(iter(spec.submodule_search_locations or ()), "a module without a file")
    return (
        f"outlast has a package of its own called {room!r}, but Python finds another module of that name first: "
        f"{found}. Rename that module, or keep its folder off the front of sys.path (`python -P` leaves out "
        "the script's folder)"
    )


def _same_file(origin: str | None, expected: str) -> bool:
    if origin is None:
        return False
    # A compiled file, or a link to the folder, is still ours.
    found, own = os.path.dirname(origin), os.path.dirname(expected)
    return found == own or os.path.realpath(found) == os.path.realpath(own)
