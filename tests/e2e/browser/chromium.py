"""Chromium without a window: what web pages may do is decided by a browser, and only one can say what that comes to.

It is driven by nothing but the page that it opens, which reports by itself. Names of hosts are what the test says they
are; the profile is new and empty; nothing is fetched in the background.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.process import ChildProcess

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def program() -> str:
    """Give the browser of this machine; "" if there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), "")


def why_no_browser() -> str:
    """Tell why tests with a browser cannot run on this machine; empty if they can."""
    return "" if program() else "Chromium is not installed (Debian: apt install chromium)"


@contextmanager
def browsing(url: str, profile: Path, hosts: Mapping[str, str]) -> Iterator[ChildProcess]:
    """Have a browser show a page for the length of a block.

    Args:
      profile: a folder that is not there yet.
      hosts: the address of each name that it is to know.
    """
    rules = ", ".join(f"MAP {name} {address}" for name, address in hosts.items())
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()  # which Chromium refuses to make for root
    arguments = [*_FLAGS[1:], *sandbox, f"--user-data-dir={profile}", f"--host-resolver-rules={rules}", url]
    browser = ChildProcess(_FLAGS[0], arguments, program=(program(),))
    try:
        yield browser
    finally:
        browser.kill()
