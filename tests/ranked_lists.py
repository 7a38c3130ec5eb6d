"""Ranked lists for tests of the objectives: random, padded with rubbish, from plain numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rankdistill.objectives import Candidates

FIELDS = ("logps", "lengths", "scores", "mask", "ranks", "reference_logps")


def one_list(
    logps: Sequence[float],
    scores: Sequence[float],
    lengths: Sequence[int] | None = None,
    reference: Sequence[float] | None = None,
    ranks: Sequence[int] | None = None,
) -> Candidates:
    """One prompt in float64, nothing padded; 10 tokens per response, reference 0 unless given."""
    count = len(logps)
    return Candidates(
        logps=torch.tensor([logps], dtype=torch.float64),
        lengths=torch.tensor([lengths or [10] * count]),
        scores=torch.tensor([scores], dtype=torch.float64),
        mask=torch.ones(1, count, dtype=torch.bool),
        ranks=None if ranks is None else torch.tensor([ranks]),
        reference_logps=torch.tensor([reference or [0.0] * count], dtype=torch.float64),
    )


def random_lists(prompts: int = 8, candidates: int = 5, seed: int = 0) -> Candidates:
    """Float64 lists with ties and padding. The first prompts are the edge cases, in this order:

    one candidate; all scores equal; a duplicate of the best with a lower score; nothing padded.
    Every mean log-ratio is negative, so KTO's clamped reference point is a constant.
    """
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> Tensor:
        unit = torch.rand(prompts, candidates, dtype=torch.float64, generator=generator)
        return low + (high - low) * unit

    lengths = torch.randint(3, 30, (prompts, candidates), generator=generator)
    logps = -lengths * uniform(0.2, 2.0)
    scores = (uniform(-2.0, 2.0) * 2).round() / 2
    mask = uniform(0.0, 1.0) < 0.8
    mask[:, 0] = True
    mask[0, 1:] = False
    scores[1] = 0.5
    mask[2, 1] = True
    logps[2, 1], lengths[2, 1], scores[2, 1] = logps[2, 0], lengths[2, 0], scores[2, 0] - 1.0
    mask[3] = True
    reference = logps + uniform(0.0, 3.0)
    reference[2, 1] = reference[2, 0]
    return Candidates(logps, lengths, scores, mask, reference_logps=reference)


def with_ranks(candidates: Candidates) -> Candidates:
    """The same with dense ranks that say what the scores say."""
    better = candidates.scores[:, None, :] > candidates.scores[:, :, None]
    real = candidates.mask[:, None, :] & candidates.mask[:, :, None]
    return replace(candidates, ranks=(better & real).sum(dim=2))


def padded(candidates: Candidates, places: Sequence[int]) -> Candidates:
    """The same lists with a column of rubbish inserted before each of `places`."""
    rubbish = {
        "logps": float("nan"),
        "lengths": 0,
        "scores": float("inf"),
        "mask": False,
        "ranks": -1,
        "reference_logps": float("nan"),
    }
    changed = {}
    for name in FIELDS:
        tensor = getattr(candidates, name)
        if tensor is None:
            continue
        columns = list(tensor.unbind(dim=1))
        for place in sorted(places, reverse=True):
            columns.insert(place, torch.full_like(columns[0], rubbish[name]))
        changed[name] = torch.stack(columns, dim=1)
    return replace(candidates, **changed)


def take(candidates: Candidates, index: object) -> Candidates:
    """The same with every tensor indexed by `index`."""
    tensors = {name: getattr(candidates, name) for name in FIELDS}
    return replace(candidates, **{name: t[index] for name, t in tensors.items() if t is not None})


def gradient(objective: object, candidates: Candidates) -> tuple[Tensor, Tensor]:
    """Loss [B] and the gradient [B, C] of its sum with respect to the log-probabilities."""
    logps = candidates.logps.detach().clone().requires_grad_()
    loss = objective(replace(candidates, logps=logps)).loss  # type: ignore[operator]
    (grad,) = torch.autograd.grad(loss.sum(), logps, allow_unused=False)
    return loss.detach(), grad
