"""Long runs: ``python -m tests.simulation --seed 7 [--seeds 100] [--sessions 30] [--hours 0.2] [--ends 4]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.world import Plan, simulate


def main() -> int:
    """Simulate; the exit code says whether every promise was kept."""
    plan = Plan(seed=0)
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Worlds from seeds, judged.")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many, one after another")
    parser.add_argument("--sessions", type=int, default=plan.sessions, help="clients in each world")
    parser.add_argument("--hours", type=float, default=plan.hours, help="virtual hours of work in each world")
    parser.add_argument("--ends", type=int, default=plan.ends, help="ends of the process in that time")
    asked = parser.parse_args()
    failed, hours, counts = 0, 0.0, Counter[str]()
    for seed in range(asked.seed, asked.seed + asked.seeds):
        began = time.perf_counter()
        report = simulate(Plan(seed=seed, sessions=asked.sessions, hours=asked.hours, ends=asked.ends))
        print(f"{report} [{time.perf_counter() - began:.1f} s, digest {report.digest[:12]}]", flush=True)
        failed += bool(report.violations)
        hours += report.virtual_seconds / 3600
        counts += report.counts
    if asked.seeds > 1:
        print(f"{asked.seeds} seeds, {hours:.1f} virtual hours, {failed} failed: {dict(sorted(counts.items()))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
