"""The planner's table of machines in docs/planning.md: what fits each, and how long it takes.

python docs/figures/machines.py    # writes it anew
"""

from __future__ import annotations

import shlex
from functools import cache
from pathlib import Path

from rankdistill.plan.compose import composed, planner_config
from rankdistill.plan.config import PlannerConfig
from rankdistill.plan.memory import GIB
from rankdistill.plan.planner import NOTHING, Planner, on_gpu
from rankdistill.plan.stages import stages
from rankdistill.report.stages import duration
from rankdistill.stages.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "planning.md"
BEGIN, END = "<!-- machines: docs/figures/machines.py -->\n", "<!-- end -->\n"
MODELS = {
    "0.1B": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "0.5B": "Qwen/Qwen2.5-0.5B-Instruct",
    "1.5B": "Qwen/Qwen2.5-1.5B-Instruct",
    "7B": "Qwen/Qwen2.5-7B-Instruct",
}
RUN = [
    "recipe=ranked_set", "rank.path=openbmb/UltraFeedback", "objective=dpo",
    "prompts.limit.train=10000", "prompts.max_prompt_tokens=256", "rank.max_response_tokens=256",
]  # fmt: skip
MACHINES = sorted(
    (path.stem for path in (ROOT / "conf" / "hardware").glob("*.yaml")),
    key=lambda name: (name.startswith("8x"), name != "cpu2", name),
)
MOST_HOURS = 100
"""From which minutes are left out."""
TRIES = 3
"""Times that a plan is made again with the remedies that the last one named."""


def table() -> str:
    """A row per machine of `conf/hardware/`, a column per size of the student."""
    lines = ["| `hardware=` | " + " | ".join(MODELS) + " |", "|---|" + "---|" * len(MODELS)]
    for machine in MACHINES:
        cells = " | ".join(_cell(machine, path) for path in MODELS.values())
        lines.append(f"| `{machine}` | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(machine: str, path: str) -> str:
    """Memory of a device and time, and what has to be changed for that."""
    hardware = _machine(machine).hardware
    changes: list[str] = ["student.precision=bfloat16"] if on_gpu(hardware) else []
    told: list[str] = []
    for _ in range(TRIES):
        plan = _machine(machine, *(part for part in changes if part.startswith("plan."))).plan
        own = tuple(part for part in changes if not part.startswith("plan."))
        found = stages(Planner(_settings(path, own), plan, hardware))
        missing = [stage.remedy for stage in found if not stage.fits(hardware)]
        if not missing:
            memory = max(stage.memory.total for stage in found) / GIB
            seconds = sum(stage.seconds for stage in found)
            how = f", {' '.join(f'`{change}`' for change in told)}" if told else ""
            return f"{memory:.1f} GiB, {_time(seconds)}{how}"
        if any(remedy is None or NOTHING in remedy for remedy in missing):
            break
        new = [part for remedy in missing for part in shlex.split(remedy or "")]
        told = list(dict.fromkeys([*told, *new]))
        changes = list(dict.fromkeys([*changes, *new]))
    return "does not fit"


def _time(seconds: float) -> str:
    return (
        duration(seconds, roughly=True)
        if seconds < MOST_HOURS * 3600
        else f"{seconds / 3600:,.0f} h"
    )


@cache
def _machine(name: str, *overrides: str) -> PlannerConfig:
    return planner_config([f"hardware={name}", *overrides])


@cache
def _settings(path: str, changes: tuple[str, ...]) -> Settings:
    return composed([*RUN, f"student.path={path}", f"teacher.path={path}", *changes])[0]


def page(text: str) -> str:
    """The page with the table of today."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END, 1)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
