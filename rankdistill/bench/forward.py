"""Training on a group of responses: our layouts, RRHF as released, and TRL's DPOTrainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rankdistill.bench.flops import Cost, Work, sequences, shared
from rankdistill.bench.results import ResultRow, free_mb
from rankdistill.bench.settings import BenchSettings, Point, random_group
from rankdistill.bench.training import (
    Step,
    TRLSteps,
    all_pairs,
    compare,
    full_logits_step,
    grouped_step,
    rrhf_step,
)
from rankdistill.console import heading, result
from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bind, bound_layout, collate, response_logps
from rankdistill.objectives import DPO, RRHF

OURS = "shared"
BETA = 0.1
NOISE = 5.0
"""Nats by which the reference differs from the policy: a policy that is its reference has a loss of
log 2 whatever its log-probabilities are."""
BATCHED_MB = 12_000
"""What the default model needs free for TRL's six pairs in one batch."""


def run(settings: BenchSettings) -> list[ResultRow]:
    """The rows of the benchmark, in the order of the docs.

    Raises:
        UserError: the model cannot share prompts, or has too few positions.
        Unequal: compared steps have other losses or gradients.
    """
    heading("forward", f"forward and backward of one group with {settings.model}")
    model, tokenizer = settings.load()
    bind(model, "shared")
    if bound_layout(model) != "shared":
        raise UserError(
            f"The model '{settings.model}' cannot share prompts, so there is nothing to compare: "
            "choose another with --model."
        )
    model.train()
    bench = _Forward(model, Cost.of(model), settings.rounds)
    bench.warm_up()
    few = max(1, settings.rounds // 2)  # of what takes minutes
    group = settings.at(K=4, P=256, R=64)
    rows = [*bench.layouts(group), bench.rrhf(group)]
    bench.trl = TRLSteps(model, tokenizer, BETA)
    rows.append(bench.one_pair(settings.at(K=2, P=256, R=64)))
    rows.append(bench.pair_by_pair(settings.at(K=4, P=512, R=64), few))
    free = free_mb()
    if free is None or free > BATCHED_MB:
        rows.append(bench.one_batch(group))
    else:
        result(f"left out TRL's six pairs in one batch: {BATCHED_MB / 1000:.0f} GB are not free")
    return rows


@dataclass
class _Forward:
    model: Any
    cost: Cost
    rounds: int
    trl: TRLSteps | None = None

    def warm_up(self) -> None:
        """What happens once only (kernels, the allocator) happens before the first turn."""
        group = random_group(Point(2, 4, 4), self.model)
        for layout in ("padded", "packed", "shared"):
            grouped_step(self.model, group, RRHF(), layout)()

    def layouts(self, point: Point) -> list[ResultRow]:
        """Full logits, then our layouts `padded` and `packed`, each against `shared`."""
        K, P, R = point.K, point.P, point.R
        group, objective = random_group(point, self.model), RRHF()
        steps = {
            "full logits": full_logits_step(self.model, group, objective),
            "padded": grouped_step(self.model, group, objective, "padded"),
            "packed": grouped_step(self.model, group, objective, "packed"),
            OURS: grouped_step(self.model, group, objective),
        }
        work = {
            "full logits": sequences(K, P, R),
            "padded": sequences(K, P, R, rows=K * R),
            "packed": sequences(K, P, R, rows=K * R),
        }
        return self._rows("layouts", point, steps, work, self.rounds)

    def rrhf(self, point: Point) -> ResultRow:
        """RRHF as its authors compute it."""
        group = random_group(point, self.model)
        theirs = "RRHF as released"
        steps = {
            theirs: rrhf_step(self.model, group),
            OURS: grouped_step(self.model, group, RRHF()),
        }
        work = {theirs: sequences(point.K, point.P, point.R)}
        return self._rows("RRHF", point, steps, work, self.rounds)[0]

    def one_pair(self, point: Point) -> ResultRow:
        """What TRL is made for: one chosen and one rejected response."""
        theirs = "TRL DPOTrainer"
        return self._dpo("DPO, one pair", point, theirs, [all_pairs(2)], self.rounds)

    def pair_by_pair(self, point: Point, rounds: int) -> ResultRow:
        """All pairs of a ranking as micro-batches of one: TRL with little memory."""
        batches = [[pair] for pair in all_pairs(point.K)]
        theirs = "TRL DPOTrainer, pair by pair"
        return self._dpo("DPO, all pairs", point, theirs, batches, rounds)

    def one_batch(self, point: Point) -> ResultRow:
        """All pairs in one batch, measured once, for its memory."""
        theirs = "TRL DPOTrainer, one batch"
        return self._dpo("DPO, all pairs", point, theirs, [all_pairs(point.K)], 1)

    def _dpo(
        self,
        what: str,
        point: Point,
        theirs: str,
        batches: Sequence[Sequence[tuple[int, int]]],
        rounds: int,
    ) -> ResultRow:
        assert self.trl is not None
        group = random_group(point, self.model)
        reference = _reference(self.model, group)
        steps = {
            theirs: self.trl.step(group, reference, batches),
            OURS: grouped_step(self.model, group, DPO(beta=BETA), reference=reference),
        }
        count = 2 * sum(len(pairs) for pairs in batches)
        # Its output layer goes over prompts too, except for what the last token predicts.
        rows = count * (point.P + point.R - 1)
        work = {theirs: sequences(count, point.P, point.R, rows=rows, head_passes=4)}
        return self._rows(what, point, steps, work, rounds)[0]

    def _rows(
        self,
        what: str,
        point: Point,
        steps: Mapping[str, Step],
        work: Mapping[str, Work],
        rounds: int,
    ) -> list[ResultRow]:
        """One row for each entry of `work`, against ours."""
        turns, differences = compare(self.model, steps, rounds, f"{what}, {point}")
        ours = shared(point.K, point.P, point.R).training(self.cost)
        rows = [
            ResultRow(
                benchmark="forward",
                what=what,
                point=str(point),
                theirs=theirs,
                ours=OURS,
                their_turns=turns[theirs],
                our_turns=turns[OURS],
                limit=theirs_work.training(self.cost) / ours,
                differences=differences,
            )
            for theirs, theirs_work in work.items()
        ]
        for row in rows:
            result(f"{what}, {point}: {row.ratio:.2f}x {row.theirs}")
        return rows


@torch.no_grad()
def _reference(model: Any, group: TokenGroup) -> list[float]:
    """Log-probabilities of a reference near the policy: the policy's, and fixed noise."""
    logps = response_logps(model, collate([group], "shared").to(model.device)).logps[0].cpu()
    noise = torch.randn(len(logps), generator=torch.Generator().manual_seed(1))
    return (logps + NOISE * noise).tolist()
