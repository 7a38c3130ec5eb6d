"""The shipped prompts with demands, made once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from tiny_models import build_tokenizer

from rankdistill.prompts import load_prompts
from rankdistill.prompts.demands import Demand, Kind, demand, kinds
from rankdistill.prompts.instructions import InstructionOptions, demands_of, with_demands

ROOT = Path(__file__).parents[1]
SHIPPED = OmegaConf.to_container(
    OmegaConf.load(ROOT / "conf/prompts/instructions.yaml").instructions, resolve=False
)
SHARES = {"train": 0.66, "validation": 0.14, "heldout": 0.2}
KINDS = list(kinds().values())


def options(**changes: Any) -> InstructionOptions:
    return InstructionOptions(**{**SHIPPED, "both_sides": False, "seed": 0, **changes})  # type: ignore[arg-type]


@cache
def everyday() -> list[Any]:
    """The shipped requests."""
    rows, _ = load_prompts(
        "everyday", build_tokenizer(), max_prompt_tokens=512, splits=SHARES, limit={}, seed=0
    )
    return rows


@cache
def drawn(seed: int) -> list[Any]:
    """The shipped draw of demands for them."""
    return with_demands(everyday(), options(seed=seed))


def demands(prompt: Any) -> list[Demand]:
    return demands_of(json.loads(prompt["columns"]))


def of_split(prompts: list[Any], split: str) -> list[Any]:
    return [prompt for prompt in prompts if prompt["split"] == split]


def pairs(kind: Kind) -> Iterator[Demand]:
    """Every demand of a kind with each of its arguments and of the opposite's, in one wording."""
    for held_out in (False, True):
        places = max(len((s.held_out if held_out else s.known).arguments) for s in kind.sides)
        for side in kind.sides:
            for place in range(places):
                yield demand(kind, side, held_out, 0, place)
