"""Train a reward model on ranked groups: its loss, and a whole ranking as one forward over one
prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import softplus
from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError, suggest
from rankdistill.forward import ResponseLogps, bind
from rankdistill.objectives.candidates import Candidates
from rankdistill.objectives.lists import RankedLists, differences
from rankdistill.train.groups import RankedGroup, load_groups
from rankdistill.train.ranking import candidates
from rankdistill.train.reference import length_limit
from rankdistill.train.reward.model import logits, score_layer
from rankdistill.train.schema import REWARD_LOSSES, RewardLoss
from rankdistill.trainer.arguments import RankingConfig
from rankdistill.trainer.modes import disable_dropout
from rankdistill.trainer.steps import NOTHING, Averages, StepTrainer

LOSSES = REWARD_LOSSES


def ranking_loss(
    rewards: Tensor,
    scores: Tensor,
    mask: Tensor,
    *,
    ranks: Tensor | None = None,
    loss: str = "pairs",
    margin: float = 0.0,
    centering: float = 0.0,
) -> Tensor:
    """How far the rewards are from the ranking, a value per prompt; nats.

    `pairs`: ``mean over i better than j of softplus(-(r_i - r_j - margin (score_i - score_j)))``.
    The mean over all pairs of a prompt, as in InstructGPT (Ouyang et al. 2022, arXiv:2203.02155,
    equation 1): pairs of one prompt are one element of the batch, not several. `plackett_luce`: the
    negative log-likelihood of the whole order (see `PlackettLuceDPO` for its ties); two candidates
    give the same as `pairs`.

    Args:
        rewards: [B, C] of the reward model; has gradient.
        scores: [B, C] higher is better, in the scorer's own scale.
        mask: [B, C] bool, False is padding, whose gradient is exactly 0.
        ranks: [B, C] int, 0 best; ties share a rank. None: from the scores, exact ties only.
        loss: `pairs` or `plackett_luce`.
        margin: Reward that a pair has to be apart for each unit of score between them (Llama 2,
            Touvron et al. 2023, arXiv:2307.09288); `pairs` only.
        centering: Weight of ``mean over pairs of (r_i + r_j)^2``, which holds the rewards around 0
            (Eisenstein et al. 2023, arXiv:2312.09244).

    Returns:
        [B], unreduced; exactly 0 for a prompt without a strict pair.

    Raises:
        UserError: an unknown loss.
    """
    if loss not in LOSSES:
        raise UserError(f"There is no reward loss '{loss}'; {suggest(loss, LOSSES)}")
    lists = RankedLists.of(
        Candidates(logps=rewards, lengths=mask.long(), scores=scores, mask=mask, ranks=ranks)
    )
    rewards = lists.logps
    if loss == "pairs":
        ranking = lists.pair_mean(softplus(margin * lists.score_gaps - differences(rewards)))
    else:
        ranking = lists.position_losses(rewards, rewards[:, None, :]).sum(dim=1)
    if centering == 0:
        return ranking
    return ranking + centering * lists.pair_mean((rewards[:, :, None] + rewards[:, None, :]) ** 2)


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
