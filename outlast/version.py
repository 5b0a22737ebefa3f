"""The version of this program, as it was installed."""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "outlast"


def version() -> str:
    """Give the version; of a folder that is not installed, say so."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "of this folder (not installed)"
