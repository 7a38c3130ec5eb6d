"""Train a reward model on ranked groups: a whole ranking is one forward over one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rankdistill.forward import ResponseLogps, bind
from rankdistill.objectives.lists import RankedLists, differences
from rankdistill.train.groups import RankedGroup, load_groups
from rankdistill.train.ranking import candidates
from rankdistill.train.reference import length_limit
from rankdistill.train.reward.loss import ranking_loss
from rankdistill.train.reward.model import logits, score_layer
from rankdistill.train.schema import RewardLoss
from rankdistill.trainer.arguments import RankingConfig
from rankdistill.trainer.modes import disable_dropout
from rankdistill.trainer.steps import NOTHING, Averages, StepTrainer

PAIRS = RewardLoss()


class RewardTrainer(StepTrainer):
    """transformers' Trainer on ranked groups; the model learns one number per response.

    The loss of a step is the mean of `ranking_loss` over its prompts, whatever the processes, the
    accumulation steps and `max_batch_tokens`. The share of pairs in the right order is logged
    beside it as `pair_accuracy`.

    Args:
        model: See `load_reward_model`; bound and freed of dropout, in place.
        args: As of a `RankingTrainer`.
        rows: `Group` rows, or what `RankingTrainer` takes.
        processing_class: The model's tokenizer.
        loss: See `RewardLoss`.

    Raises:
        UserError: a row that cannot be trained on, named by its `prompt_id`.
    """

    def __init__(
        self,
        model: Any,
        args: RankingConfig,
        rows: Sequence[Any],
        processing_class: PreTrainedTokenizerBase,
        loss: RewardLoss = PAIRS,
    ) -> None:
        score_layer(model)
        disable_dropout(model)
        bind(model, args.layout)
        # transformers' classes want to know it, though groups are never padded with it.
        model.config.pad_token_id = processing_class.pad_token_id
        limit = length_limit(model, args)
        super().__init__(
            model=model,
            args=args,
            # The token after a response takes a position, see `with_next_token`.
            train_dataset=load_groups(rows, processing_class, limit and limit - 1),  # type: ignore[arg-type]
            processing_class=processing_class,
        )
        self._loss, self._logged = loss, Averages()

    def losses(self, model: nn.Module, rows: Sequence[RankedGroup]) -> Tensor:
        """[B] the ranking losses."""
        if not rows:  # any row takes part in the collectives
            return logits(model, [NOTHING])[0][0] * 0.0
        rewards, mask = logits(model, [row.tokens for row in rows])
        given = candidates(rows, ResponseLogps(rewards, rewards, mask.long()))
        losses = ranking_loss(
            rewards,
            given.scores,
            given.mask,
            ranks=given.ranks,
            loss=self._loss.loss,
            margin=self._loss.margin,
            centering=self._loss.centering,
        )
        lists = RankedLists.of(given)
        right = (differences(lists.logps.detach()) > 0).to(losses.dtype)
        self._logged.add({"loss": losses, "pair_accuracy": lists.pair_mean(right)})
        return losses

    def weight(self, rows: Sequence[RankedGroup]) -> int:
        """Prompts."""
        return len(rows)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's, with the pair accuracy beside the loss."""
        if "loss" in logs:
            logs |= {k: v for k, v in self._logged.collect().items() if k != "loss"}
        super().log(logs, start_time)
