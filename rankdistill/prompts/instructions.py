"""Base prompts with demands behind them: prompts whose answers a program can check.

Both sides of every kind are asked for equally often, and the draw depends on the seed and the base
prompts alone. All prompts that are made of one base prompt have its id as their `cluster`: they
share its split, and intervals resample them together.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rankdistill.errors import UserError, suggest
from rankdistill.prompts import prompt_id
from rankdistill.prompts.demands import Demand, Kind, Side, demand, kinds
from rankdistill.rows import Prompt, row_columns
from rankdistill.schema import InstructionsConfig

COLUMNS = ("instruction_id_list", "kwargs")
"""IFEval's own columns, which every prompt here has."""


class InstructionOptions(InstructionsConfig):
    """How demands are drawn; the keys are in `conf/prompts/instructions.yaml`.

    Raises:
        UserError: an unknown kind, none to train on, or a number of demands out of range.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("kinds", "kept_out"):
            for name in getattr(self, key):
                if name not in kinds():
                    raise UserError(
                        f"prompts.instructions.{key} names '{name}', which is no kind of demand: "
                        f"{suggest(name, kinds())}"
                    )
        trained = set(self.kinds) - set(self.kept_out)
        if not trained:
            raise UserError(
                "prompts.instructions.kept_out leaves no kind to train on: name others in "
                "prompts.instructions.kinds."
            )
        if not self.demands_per_prompt or min(self.demands_per_prompt) < 1:
            raise UserError(
                "prompts.instructions.demands_per_prompt must be numbers of at least 1, such as "
                "[1, 2, 4]."
            )
        if max(self.demands_per_prompt) > len(trained):
            raise UserError(
                f"prompts.instructions.demands_per_prompt asks for {max(self.demands_per_prompt)} "
                f"demands in one prompt, and there are {len(trained)} kinds to train on: lower it, "
                "or name more prompts.instructions.kinds."
            )


def with_demands(prompts: Sequence[Prompt], options: InstructionOptions) -> list[Prompt]:
    """The prompts with demands, split by split in the order of the base prompts.

    Every base prompt gets one prompt with demands of the kinds that are trained on; with
    `both_sides`, those of train get a second one, which demands the opposite of each. Of held-out
    base prompts, shares also get one with a demand of a kept-out kind, and one without any, to see
    what an answer is like where nothing was asked for.

    Args:
        prompts: Base prompts, whose last message is the user's.
        options: How demands are drawn.
    """
    result = []
    for split in ("train", "validation", "heldout"):
        rows = [prompt for prompt in prompts if prompt["split"] == split]
        held_out = split == "heldout"
        rng = random.Random(f"{options.seed} {split}")
        twice = options.both_sides and split == "train"
        names = [k for k in options.kinds if k not in options.kept_out]
        trained = _Draw(names, held_out, twice, rng)
        kept_out = _Draw(options.kept_out, held_out, False, rng) if options.kept_out else None
        numbers = _cycled(options.demands_per_prompt, rng)
        for place, prompt in enumerate(rows):
            drawn = trained.take(next(numbers))
            result.append(_prompt(prompt, trained.worded(drawn)))
            if twice:
                opposites = [(kind, kind.opposite(side)) for kind, side in drawn]
                result.append(_prompt(prompt, trained.worded(opposites)))
            if held_out and kept_out and _every(place, options.kept_out_share):
                result.append(_prompt(prompt, kept_out.worded(kept_out.take(1))))
            if held_out and _every(place, options.plain_share):
                result.append(_prompt(prompt, []))
    return result


def demands_of(columns: Mapping[str, Any]) -> list[Demand]:
    """The demands of a prompt that `with_demands` made, from its kept columns; else none."""
    return [Demand(**row) for row in columns.get("demands", ())]


def _every(place: int, share: float) -> bool:
    """Whether the prompt at `place` is one of the evenly spread `share`."""
    return int((place + 1) * share) > int(place * share)


def _prompt(base: Prompt, drawn: Sequence[Demand]) -> Prompt:
    *before, last = base["messages"]
    text = " ".join([last["content"], *(d.text for d in drawn)])
    messages = [*before, {**last, "content": text}]
    columns = {
        **row_columns(base),
        "base": last["content"],
        "instruction_id_list": [d.rule for d in drawn],
        "kwargs": [dict(d.arguments) for d in drawn],
        "demands": [asdict(d) for d in drawn],
    }
    made = Prompt(prompt_id=prompt_id(messages), split=base["split"], messages=messages)
    made["columns"] = json.dumps(columns)
    made["cluster"] = base.get("cluster", base["prompt_id"])
    return made


def _cycled(numbers: Sequence[int], rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(list(numbers), len(numbers))


class _Draw:
    """Draws sides of some kinds, the least asked for first.

    With `twice`, the opposites of the sides that are drawn together fit together as well.
    """

    def __init__(
        self, names: Sequence[str], held_out: bool, twice: bool, rng: random.Random
    ) -> None:
        self._kinds = [kinds()[name] for name in names]
        self._held_out, self._twice, self._rng = held_out, twice, rng
        self._asked: Counter[str] = Counter()

    def take(self, number: int) -> list[tuple[Kind, Side]]:
        """Sides of as many kinds, none of which excludes another; fewer where no more fit."""
        chosen: list[tuple[Kind, Side]] = []
        while len(chosen) < number:
            fitting = [
                (self._asked[side.name], self._rng.random(), kind, side)
                for kind in self._kinds
                for side in kind.sides
                if all(self._fit((kind, side), other) for other in chosen)
            ]
            if not fitting:
                break
            *_, kind, side = min(fitting, key=lambda one: one[:2])
            chosen.append((kind, side))
            self._asked[side.name] += 1
            if self._twice:
                self._asked[kind.opposite(side).name] += 1
        return chosen

    def worded(self, sides: Sequence[tuple[Kind, Side]]) -> list[Demand]:
        """The sides as demands, each in a wording and with an argument drawn for it."""
        return [
            demand(kind, side, self._held_out, self._rng.randrange(64), self._rng.randrange(64))
            for kind, side in sides
        ]

    def _fit(self, one: tuple[Kind, Side], other: tuple[Kind, Side]) -> bool:
        (kind, side), (other_kind, other_side) = one, other
        if kind is other_kind or _excluded(side, other_side):
            return False
        return not self._twice or not _excluded(
            kind.opposite(side), other_kind.opposite(other_side)
        )


def _excluded(side: Side, other: Side) -> bool:
    return other.name in side.excludes or side.name in other.excludes
