"""One token of every row: temperature, then top-k, then top-p, then a draw of the row's own.

The draw is an exponential race: the token with the largest p/q, q from the row's generator, as in
vLLM. Rounding in p changes the winner only where two tokens all but tie, which is far rarer than a
boundary of the cumulated distribution that moves past a uniform draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rankdistill.sample.sampler import SamplingOptions


def choose(
    logits: Tensor, options: SamplingOptions, generators: Sequence[torch.Generator]
) -> Tensor:
    """[N] token ids drawn from [N, V] logits.

    Args:
        generators: N, one per row; each is advanced by V draws whatever the filters are. Not used
            at temperature 0.
    """
    if options.temperature == 0:
        return logits.argmax(-1)
    probabilities = filtered(logits, options)
    noise = torch.empty_like(probabilities)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return probabilities.div_(noise).argmax(-1)


def filtered(logits: Tensor, options: SamplingOptions) -> Tensor:
    """[N, V] float32: the distribution that is sampled from, 0 outside top-k and top-p.

    Tokens as likely as the last one that is kept are kept as well. Not normalised after top-p: a
    race does not need it.
    """
    logits = logits.float() / options.temperature
    if 0 < options.top_k < logits.shape[-1]:
        least = logits.topk(options.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    probabilities = logits.softmax(-1)
    if options.top_p < 1:
        least = _least_in_nucleus(probabilities, options.top_p)
        probabilities = probabilities.masked_fill(probabilities < least, 0.0)
    return probabilities


def _least_in_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """[N, 1] the last probability of the smallest set whose sum reaches `top_p`."""
    # Tokens below this sum to less than 1 - top_p, so none of them is needed, and far fewer than
    # the vocabulary remain to be ordered: sorting all of it costs as much as the model's layers.
    likely = probabilities >= (1 - top_p) / probabilities.shape[-1]
    count = likely.sum(-1)
    ordered = probabilities.topk(int(count.max()), dim=-1).values
    inside = (ordered.cumsum(-1) - ordered < top_p).sum(-1)
    return ordered.gather(-1, torch.minimum(inside, count)[:, None] - 1)
