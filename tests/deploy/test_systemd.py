"""What systemd itself says of the unit: nothing against it, and that little is exposed.

No unit is started: that needs systemd as the first process. These are its own checks of a file, in its own words.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

UNIT = Path(__file__).parents[2] / "deploy" / "outlast.service"
# In systemd's scale 0 is confined in all ways, 10 in none, and a unit without a word about it has 9.6. What is left:
# the network (it serves), executable memory (Node programs behind stdio), and other users' ids.
EXPOSURE_MAX = 1.5


def analyzed(*arguments: str) -> str:
    ran = subprocess.run(
        ["systemd-analyze", "--no-pager", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.stdout + ran.stderr


def said_against(unit: Path) -> Sequence[str]:
    """What it says of this unit, but for the program's not being installed here."""
    lines = analyzed("verify", "--man=no", str(unit)).splitlines()
    return [line for line in lines if unit.name in line and "is not executable" not in line]


def exposure(unit: Path) -> float:
    said = analyzed("security", "--offline=true", str(unit))
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


def test_systemd_has_nothing_to_say_against_the_unit() -> None:
    assert said_against(UNIT) == []


def test_little_is_exposed() -> None:
    assert exposure(UNIT) <= EXPOSURE_MAX


def test_a_unit_that_is_wrong_or_open_would_be_noticed(tmp_path: Path) -> None:
    text = UNIT.read_text()
    wrong = tmp_path / "wrong.service"
    wrong.write_text(text.replace("WatchdogSec=", "WatchdogSeconds="))
    assert any("WatchdogSeconds" in line for line in said_against(wrong))
    wrong.write_text("\n".join(line for line in text.splitlines() if not line.startswith(("Protect", "Restrict"))))
    assert exposure(wrong) > EXPOSURE_MAX
