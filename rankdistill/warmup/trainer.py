"""Train a student against a teacher's distributions, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainerCallback

from rankdistill.forward import bind, bound_layout, collate, micro_batches
from rankdistill.trainer.arguments import RankingConfig
from rankdistill.trainer.batches import RankedBatch
from rankdistill.trainer.modes import disable_dropout
from rankdistill.trainer.steps import StepTrainer
from rankdistill.warmup.head import DistillationHead, DistillationSums
from rankdistill.warmup.matching import MODULE, StateMatching
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Teacher


class DistillationTrainer(StepTrainer):
    """The loss of a step is the mean of ``alpha T^2 D + beta CE`` over its response tokens.

    A student with a `StateMatching` (see `matching.attach`) adds that to the loss. The mean runs
    over the tokens of all micro-batches, accumulation steps and processes together. The parts of
    the loss are logged beside it, per token.

    Args:
        model: The student; bound and freed of dropout, in place.
        args: As of a `RankingTrainer`; `prompts_per_step` counts responses.
        rows: Responses with their prompts.
        teacher: What gives the target of a batch.
        weights: Of the divergence and of the cross-entropy.
        validation: Rows that the divergence is measured on while it trains.
        processing_class: The student's tokenizer; saved with the checkpoints.
    """

    adds_to = ("_sums",)

    def __init__(
        self,
        model: Any,
        args: RankingConfig,
        rows: Sequence[TokenRow],
        teacher: Teacher,
        weights: tuple[float, float],
        *,
        validation: Sequence[TokenRow] = (),
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        disable_dropout(model)
        bind(model, args.layout)
        super().__init__(
            model=model,
            args=args,
            data_collator=RankedBatch,  # type: ignore[arg-type]
            train_dataset=rows,  # type: ignore[arg-type]
            eval_dataset=validation or None,  # type: ignore[arg-type]
            processing_class=processing_class,
            callbacks=callbacks,
        )
        self._teacher, self._weights = teacher.to(args.device), weights
        self._matching = getattr(model, MODULE, None)
        self._sums = torch.zeros(4, device=args.device)

    def losses(self, model: nn.Module, rows: Sequence[TokenRow]) -> Tensor:
        """[1] the sum of the loss over the rows' response tokens."""
        if not rows:  # any row takes part in the collectives
            first: Any = self.train_dataset
            sums = distil(model, self._teacher, [first[0]], self._weights, self._matching)
            return sums.loss[None] * 0.0
        sums = distil(model, self._teacher, rows, self._weights, self._matching)
        count = torch.tensor(float(self.weight(rows)), device=self.args.device)
        self._sums += torch.stack([*sums[1:], count]).detach().to(self._sums)
        return sums.loss[None]

    def weight(self, rows: Sequence[TokenRow]) -> int:
        """Response tokens."""
        return sum(len(row.response) for row in rows)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The divergence on the validation rows, nats per token: `eval_divergence`.

        Every process measures all of them, so that none waits for another.
        """
        wrapped, rows = cast(nn.Module, self.model_wrapped), cast(Any, self.eval_dataset)
        wrapped.eval()
        found = mean_divergence(wrapped, self._teacher, rows, self.args.max_batch_tokens)
        metrics = {"eval_divergence": found}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's, with the two parts of the loss beside it."""
        if "loss" in logs:
            sums: Any = self.accelerator.reduce(self._sums, reduction="sum")
            *parts, count = sums.tolist()
            names = ("divergence", "cross_entropy", "matching")
            logs.update({name: part / count for name, part in zip(names, parts, strict=True)})
            if self._matching is None:
                del logs["matching"]
            self._sums = torch.zeros_like(self._sums)
        super().log(logs, start_time)


def distil(
    model: nn.Module,
    teacher: Teacher,
    rows: Sequence[TokenRow],
    weights: tuple[float, float] = (1.0, 0.0),
    matching: StateMatching | None = None,
) -> DistillationSums:
    """The loss of a bound (and perhaps wrapped) student on a batch, summed over response tokens."""
    device = next(model.parameters()).device
    batch = collate([row.tokens for row in rows], bound_layout(model)).to(device)
    if matching is not None:
        matching.recorder.arm()
    head = DistillationHead(teacher.target(batch, rows), *weights, matching)
    # The method: of a dataclass FSDP would round all that is in it, the target too.
    return model(group_batch=batch, head=head.__call__)


@torch.no_grad()
def mean_divergence(
    model: nn.Module, teacher: Teacher, rows: Sequence[TokenRow], max_batch_tokens: int = 4096
) -> float:
    """Nats per response token, times T^2: how far a bound student is from the teacher on rows."""
    tokens = [row.tokens for row in rows]
    total = sum(
        distil(model, teacher, [rows[i] for i in indices]).divergence.item()
        for indices in micro_batches(tokens, max_batch_tokens, bound_layout(model))
    )
    return total / sum(len(row.response) for row in rows)
