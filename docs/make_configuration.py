"""Writes the table of settings in docs/configuration.md from the settings themselves.

    python docs/make_configuration.py            writes it
    python docs/make_configuration.py --check    fails if it is not up to date (a test does this, too)

What is allowed is said by each setting's own refusal, so the table cannot say anything else than an error would.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from outlast.kinds import Refused
from outlast.settings import NOT_YET, Facts, facts

DOCUMENT = Path(__file__).parent / "configuration.md"
BEGIN = "<!-- settings: written by make_configuration.py -->"
END = "<!-- settings: end -->"


def updated(text: str) -> str:
    """Give the document with the present settings in their place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n{END}{after}"


def table() -> str:
    """Write all settings: one row each, in the order of the record."""
    rows = ["| setting (file) | environment | flag | default | meaning | allowed |", "|---|---|---|---|---|---|"]
    rows += [_row(fact) for fact in facts().values()]
    later = [f"- `{not_yet.variable}`: to {not_yet.promise}" for not_yet in NOT_YET.values()]
    if later:
        rows += ["", "Of a later version, refused until then rather than ignored:", "", *later]
    return "\n".join([*rows, ""])


def _row(fact: Facts) -> str:
    flag = f"`{fact.flag}`" if fact.flag else ""
    words = [text.replace("*", "\\*").replace("|", "\\|") for text in (fact.about, _allowed(fact))]
    return f"| {' | '.join([f'`{fact.name}`', f'`{fact.variable}`', flag, f'`{fact.default_text}`', *words])} |"


def _allowed(fact: Facts) -> str:
    """Ask the kind what it allows, by giving it what no setting can be."""
    try:
        fact.kind.read(object())
    except Refused as refused:
        return re.split(r", for example|;", str(refused).removeprefix("it must be "))[0]
    raise AssertionError(f"{fact.name} takes anything")


def main(arguments: list[str]) -> int:
    text = DOCUMENT.read_text()
    new = updated(text)
    if "--check" in arguments:
        return 0 if new == text else 1
    DOCUMENT.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
