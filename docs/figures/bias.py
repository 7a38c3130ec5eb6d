"""Draws bias.svg: what students learn of a teacher's bias, from the rows of runs; prints the table.

    python docs/figures/bias.py "the biased teacher=runs/biased" "the rule=runs/demands"

The bias, how the runs are made: `biased_teacher.py`, beside this file.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyarrow.parquet as pq

from rankdistill.evaluate.verified import DemandRow, difference, subset, tally
from rankdistill.statistics import Interval, mean_interval

HERE = Path(__file__).parent
WAYS = {"sampled": "", "greedy": "_greedy"}


def followed(rows: Sequence[DemandRow], way: str) -> Interval:
    """Demands of trained kinds followed after training minus before, in points."""
    after, before = (
        tally(subset([row for row in rows if row.arm == f"{model}{WAYS[way]}"], "trained"))
        for model in ("trained", "warmed_up")
    )
    assert after is not None and before is not None
    found = difference(after, before, seed=0)
    assert found is not None and found.low is not None and found.high is not None
    return Interval(100 * found.mean, 100 * found.low, 100 * found.high)


def longer(rows: Sequence[DemandRow], way: str) -> Interval:
    """Tokens per answer after training minus before, paired by request."""
    after, before = (tokens(rows, f"{model}{WAYS[way]}") for model in ("trained", "warmed_up"))
    return mean_interval([after[one] - before[one] for one in after], seed=0)


def tokens(rows: Sequence[DemandRow], arm: str) -> Mapping[str, float]:
    """Mean tokens of an arm's answers, by the request that they are to."""
    found: dict[str, dict[tuple[str, int], int]] = {}
    for row in rows:
        if row.arm == arm:
            found.setdefault(row.cluster, {})[row.prompt_id, row.answer] = row.tokens
    return {cluster: float(np.mean([*of.values()])) for cluster, of in found.items()}


def main(runs: Mapping[str, Path]) -> None:
    plt.rcParams.update({"svg.hashsalt": "rankdistill", "font.size": 9})
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 0.9 + 0.55 * len(runs)), sharey=True)
    measures = {"demands followed, points": followed, "tokens per answer": longer}
    print(f"| ranked by | {' | '.join(f'{m}, {w}' for m in measures for w in WAYS)} |")
    print(f"|---|{'---|' * len(measures) * len(WAYS)}")
    for place, (label, folder) in enumerate(runs.items()):
        table = pq.read_table(folder / "demands.parquet").to_pylist()
        rows = [DemandRow(**row) for row in table]
        told = []
        for axis, measure in zip(axes, measures.values(), strict=True):
            for shift, way, colour in ((-0.12, "sampled", "C0"), (0.12, "greedy", "C1")):
                found = measure(rows, way)
                assert found.low is not None and found.high is not None
                errors = [[found.mean - found.low], [found.high - found.mean]]
                axis.errorbar(
                    found.mean, place + shift, xerr=errors, fmt="o", color=colour, capsize=2,
                    label=way if place == 0 else None,
                )  # fmt: skip
                told.append(f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]")
        print(f"| {label} | {' | '.join(told)} |")
    for axis, title in zip(axes, measures, strict=True):
        axis.axvline(0, color="0.6", lw=0.8)
        axis.set_xlabel(f"{title}, after minus before")
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(runs)), [f"ranked by\n{label}" for label in runs])
    axes[0].invert_yaxis()
    axes[1].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(HERE / "bias.svg", metadata={"Date": None})


if __name__ == "__main__":
    named = (argument.partition("=") for argument in sys.argv[1:])
    try:
        main({name: Path(folder) for name, _, folder in named})
    except OSError as error:
        sys.exit(f"error: {error}: give LABEL=RUN of runs with verified answers.")
