"""Draws warmups.svg: what every warm-up of some run folders reached on held-out prompts.

python docs/figures/warmups.py multirun/*/*
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def main(folders: list[str]) -> None:
    plt.rcParams.update({"svg.hashsalt": "rankdistill", "font.size": 9})
    figure, axes = plt.subplots(figsize=(6.4, 4.0))
    for folder in folders:
        metrics = json.loads((Path(folder) / "metrics.json").read_text())
        overrides = (Path(folder) / ".hydra" / "overrides.yaml").read_text().splitlines()
        name = ", ".join(o[2:] for o in overrides if "recipe=" not in o) or "warmup=logits"
        found = metrics["models"][metrics["trained"]]
        score = found["score"]
        errors = [[score["mean"] - score["low"]], [score["high"] - score["mean"]]]
        axes.errorbar(found["kl_to_teacher"], score["mean"], yerr=errors, fmt="o", capsize=2)
        right = found["kl_to_teacher"] > 1.9
        axes.annotate(
            name.removeprefix("warmup=").replace("student.layer_choice=", "logits, layers "),
            (found["kl_to_teacher"], score["mean"]),
            xytext=(-6 if right else 6, -13),
            textcoords="offset points",
            ha="right" if right else "left",
        )
    axes.set_xlabel("KL to the teacher on held-out prompts, nats per token (left is nearer)")
    axes.set_ylabel("teacher's score of what it writes, nats per token")
    axes.margins(x=0.16)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(HERE / "warmups.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(sys.argv[1:])
