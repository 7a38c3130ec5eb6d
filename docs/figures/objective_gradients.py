"""What each objective does to the log-probabilities of one small ranking, for objectives.md.

    python docs/figures/objective_gradients.py

Writes objective_gradients.svg and .png beside itself, one panel for every YAML in conf/objective/.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from hydra.utils import instantiate
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from omegaconf import OmegaConf

from rankdistill.objectives import Candidates, Objective

HERE = Path(__file__).parent
CONF = HERE.parents[1] / "conf" / "objective"
TOKENS = 20
REFERENCE = -20.0
SCORES = [2.0, 1.0, 0.0, -1.0]
PLACES = ["best", "2nd", "3rd", "worst"]
# Log-ratios of the four responses, best first, in nats.
STATES = {
    "the policy ranks them the wrong way round (log-ratios -1.5, -0.5, 0.5, 1.5)": [
        -1.5,
        -0.5,
        0.5,
        1.5,
    ],
    "the policy agrees, and clearly (log-ratios 6, 2, -2, -6)": [6.0, 2.0, -2.0, -6.0],
}
COLOURS = ["#1f4e79", "#f0a04b"]
# Of a kind together: likelihood and pairs without a reference, pairs with one, whole lists.
ORDER = [
    *("sft", "rrhf", "slic", "cpo"),
    *("simpo", "orpo", "dpo", "rpo"),
    *("dpo_normalised", "robust_dpo", "hinge_dpo", "ipo"),
    *("kto", "plackett_luce", "lipo", "pro"),
    "listnet",
]


def pushes(objective: Objective, log_ratios: list[float]) -> torch.Tensor:
    """[C] minus the gradient of the loss: positive makes a response more likely."""
    logps = torch.tensor([[REFERENCE + ratio for ratio in log_ratios]], dtype=torch.float64)
    logps.requires_grad_()
    candidates = Candidates(
        logps=logps,
        lengths=torch.full_like(logps, TOKENS),
        scores=torch.tensor([SCORES], dtype=torch.float64),
        mask=torch.ones_like(logps, dtype=torch.bool),
        reference_logps=torch.full_like(logps, REFERENCE),
    )
    (gradient,) = torch.autograd.grad(objective(candidates).loss.sum(), logps)
    return -gradient[0]


def panel(axes: Axes, name: str) -> None:
    """Draws the pushes of one objective, scaled to the largest, whose size is in the title."""
    objective = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
    values = [pushes(objective, log_ratios) for log_ratios in STATES.values()]
    largest = max(float(value.abs().max()) for value in values)
    axes.axhline(0, color="black", linewidth=0.8)
    for i, value in enumerate(values):
        x = [place + (i - 0.5) * 0.38 for place in range(len(PLACES))]
        axes.bar(x, (value / largest).tolist(), width=0.36, color=COLOURS[i])
    axes.set_title(name, fontsize=11, fontweight="bold", loc="left")
    axes.set_title(f"1 = {largest:.2g}", fontsize=9, color="#555555", loc="right")
    axes.set_ylim(-1.12, 1.12)
    axes.set_yticks([-1, 0, 1])
    axes.set_xticks(range(len(PLACES)), PLACES)
    axes.tick_params(labelsize=9, length=2)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    plt.rcParams.update({"svg.hashsalt": "rankdistill", "font.family": "DejaVu Sans"})
    names = ORDER + sorted({path.stem for path in CONF.glob("*.yaml")} - set(ORDER))
    rows = -(-len(names) // 4)
    figure, grid = plt.subplots(
        rows, 4, figsize=(11, 2.1 * rows + 1.4), sharex=True, sharey=True, squeeze=False
    )
    for place, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        panel(axes, name)
        # The places are said below the last panel of each column, which may be a row higher.
        axes.tick_params(labelbottom=place + 4 >= len(names))
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(
        "Push on the log-probability of four ranked responses (up: made more likely)", fontsize=13
    )
    figure.supylabel(
        "minus the gradient; 1 is the largest of a panel, given at its top right", fontsize=10
    )
    handles = [Patch(color=c, label=state) for c, state in zip(COLOURS, STATES, strict=True)]
    figure.legend(handles=handles, loc="lower center", frameon=False, fontsize=10)
    figure.tight_layout(rect=(0.01, 0.065, 1, 0.985))
    for ending in ("svg", "png"):
        figure.savefig(
            HERE / f"objective_gradients.{ending}",
            dpi=110,
            metadata={"Date": None} if ending == "svg" else None,
        )


if __name__ == "__main__":
    main()
