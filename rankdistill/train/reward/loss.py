"""The loss that a reward model learns a ranking with."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from rankdistill.errors import UserError, suggest
from rankdistill.objectives.candidates import Candidates
from rankdistill.objectives.lists import RankedLists, differences
from rankdistill.train.schema import REWARD_LOSSES

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
