"""The picture of the README: demands followed by every arm, pooled over the seeds of a recipe.

python docs/figures/first_screen.py RUN... --two-rounds RUN... --placebo RUN... --best-of-n RUN...

Each RUN is the folder of a finished verified run. Of those named first all arms are shown, of the
others the trained student. Intervals resample base prompts over all seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import pyarrow.parquet as pq

from rankdistill.evaluate.verified import DemandRow, share, subset, tally

ARMS = (
    ("start", "before warm-up", "#8a8f98"),
    ("warmed_up", "warmed up", "#8a8f98"),
    ("sharpened", "... as sure as the trained one", "#b58900"),
    ("warmed_up_prompted", "... with a better prompt", "#b58900"),
    ("warmed_up_greedy", "... greedy", "#b58900"),
    ("placebo", "trained on random ranks", "#b58900"),
    ("best_of_n", "SFT on the best of 8", "#b58900"),
    ("trained", "trained on the ranking", "#1f77b4"),
    ("trained_greedy", "... greedy", "#1f77b4"),
    ("two_rounds", "... in two rounds", "#1f77b4"),
    ("two_rounds_greedy", "... in two rounds, greedy", "#1f77b4"),
    ("teacher", "teacher", "#2e7d32"),
    ("teacher_prompted", "... with a better prompt", "#2e7d32"),
)
"""(arm, heading, colour), from the top."""
BESIDE = ("two_rounds", "placebo", "best_of_n")
"""Arms that are trained students of other runs."""


def rows_of(runs: Sequence[Path]) -> list[DemandRow]:
    """The rows of all runs."""
    tables = [pq.read_table(run / "demands.parquet") for run in runs]
    return [DemandRow(**row) for table in tables for row in table.to_pylist()]


def draw(runs: Sequence[Path], beside: Mapping[str, Sequence[Path]], to: Path) -> None:
    """Writes the picture; `beside` names the arms of runs of which trained students are shown."""
    by_arm: dict[str, list[DemandRow]] = {}
    for row in rows_of(runs):
        by_arm.setdefault(row.arm, []).append(row)
    for arm, others in beside.items():
        for row in rows_of(others):
            if row.arm in ("trained", "trained_greedy"):
                by_arm.setdefault(row.arm.replace("trained", arm), []).append(row)
    shown = [(title, colour, by_arm[arm]) for arm, title, colour in ARMS if by_arm.get(arm)]
    figure, axes = plt.subplots(figsize=(5.4, 0.3 * len(shown) + 0.8))
    for place, (_, colour, rows) in enumerate(shown):
        of = tally(subset(rows, "trained"))
        assert of is not None
        value = share(of, seed=0)
        low, high = value.low or value.mean, value.high or value.mean
        axes.plot([100 * low, 100 * high], [-place, -place], color=colour, linewidth=2)
        axes.plot(100 * value.mean, -place, "o", color=colour, markersize=6)
        axes.text(100 * high + 0.7, -place, f"{100 * value.mean:.1f}", va="center", fontsize=9)
    axes.set_yticks([-place for place in range(len(shown))], [title for title, *_ in shown])
    figure.supxlabel("demands followed, %, with 95 % intervals", fontsize=10)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", linewidth=0.4)
    axes.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(to, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", type=Path, nargs="+")
    for arm in BESIDE:
        parser.add_argument(f"--{arm.replace('_', '-')}", type=Path, nargs="*", default=[])
    parser.add_argument("--to", type=Path, default=Path("docs/figures/first_screen.svg"))
    given = parser.parse_args()
    draw(given.runs, {arm: getattr(given, arm) for arm in BESIDE}, given.to)


if __name__ == "__main__":
    main()
