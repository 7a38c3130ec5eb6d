"""The objectives against plain Python loops written from the papers.

The loops know nothing of tensors, masks or batches: one prompt is a list of `Response`.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from ranked_lists import random_lists, with_ranks

from rankdistill.objectives import (
    CPO,
    DPO,
    IPO,
    KTO,
    ORPO,
    PRO,
    RRHF,
    SFT,
    Candidates,
    HingeDPO,
    LiPO,
    ListNet,
    Objective,
    PlackettLuceDPO,
    RobustDPO,
    SimPO,
    SLiC,
)


class Response(NamedTuple):
    logp: float
    length: int
    score: float
    rank: int
    reference: float

    @property
    def mean_logp(self) -> float:
        return self.logp / self.length

    @property
    def ratio(self) -> float:
        return self.logp - self.reference


Responses = list[Response]


def log_loss(margin: float) -> float:
    return math.log(1 + math.exp(-margin))


def strict_pairs(responses: Responses) -> list[tuple[Response, Response]]:
    return [(w, o) for w in responses for o in responses if w.rank < o.rank]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def pair_mean(responses: Responses, loss: Callable[[Response, Response], float]) -> float:
    return mean([loss(w, o) for w, o in strict_pairs(responses)])


def nll(responses: Responses, per_token: bool) -> float:
    top = min(r.rank for r in responses)
    best = [r for r in responses if r.rank == top]
    return mean([-r.mean_logp if per_token else -r.logp for r in best])


def rrhf(responses: Responses) -> float:
    rank = sum(
        max(0.0, o.logp / o.length**0.7 - w.logp / w.length**0.7)
        for w, o in strict_pairs(responses)
    )
    return rank + 0.5 * nll(responses, per_token=False)


def pro(responses: Responses, tempered: bool = True) -> float:
    total = 0.0
    for k in responses:
        worse = [r for r in responses if r.rank > k.rank]
        if not worse:
            continue
        gaps = [abs(k.score - r.score) if tempered else 1.0 for r in worse]
        own = k.mean_logp * max(gaps)
        rest = [r.mean_logp * gap for r, gap in zip(worse, gaps, strict=True)]
        total += math.log(sum(math.exp(x) for x in [own, *rest])) - own
    sft_weight = 0.05 * (len(responses) - 1) ** 2
    return total + sft_weight * nll(responses, per_token=False)


def plackett_luce(responses: Responses, top_m: int = 99) -> float:
    total = 0.0
    for k in responses:
        worse = [r for r in responses if r.rank > k.rank]
        better = [r for r in responses if r.rank < k.rank]
        if worse and len(better) < top_m:
            total -= math.log(
                math.exp(0.2 * k.ratio) / sum(math.exp(0.2 * r.ratio) for r in [k, *worse])
            )
    return total


def lipo(responses: Responses, labels: str, log: Callable[[float], float]) -> float:
    """The weights are averaged over all orders in which no reward is before a higher one."""

    def wins(a: Response, b: Response) -> float:
        sign = (a.rank < b.rank) - (a.rank > b.rank)
        if labels == "ranks":
            return 0.5 + 0.5 * sign
        return 1 / (1 + math.exp(-sign * abs(a.score - b.score)))

    rewards = [0.2 * r.ratio for r in responses]
    gains = [2 ** mean([wins(a, b) for b in responses]) for a in responses]
    orders = [
        order
        for order in itertools.permutations(range(len(responses)))
        if all(rewards[a] >= rewards[b] for a, b in itertools.pairwise(order))
    ]
    total = 0.0
    for i, j in itertools.permutations(range(len(responses)), 2):
        if responses[i].rank < responses[j].rank:
            gaps = [abs(1 / log(2 + o.index(i)) - 1 / log(2 + o.index(j))) for o in orders]
            total += abs(gains[i] - gains[j]) * mean(gaps) * log_loss(rewards[i] - rewards[j])
    return total


def listnet(responses: Responses) -> float:
    if not strict_pairs(responses):
        return 0.0
    falling = sorted((r.score for r in responses), reverse=True)
    by_rank = sorted(responses, key=lambda r: r.rank)
    dealt = defaultdict(list)
    for response, score in zip(by_rank, falling, strict=True):
        dealt[response.rank].append(score)
    target = [math.exp(mean(dealt[r.rank]) / 0.5) for r in responses]
    policy = [math.exp(0.2 * r.ratio) for r in responses]
    return -sum(
        t / sum(target) * math.log(p / sum(policy)) for t, p in zip(target, policy, strict=True)
    )


def kto(responses: Responses, threshold: float | None = None) -> float:
    z = max(0.0, mean([r.ratio for r in responses]))
    losses = []
    for r in responses:
        worse = sum(o.rank > r.rank for o in responses)
        better = sum(o.rank < r.rank for o in responses)
        if threshold is not None:
            worse, better = (1, 0) if r.score >= threshold else (0, 1)
        if worse > better:
            losses.append(1.2 * (1 - 1 / (1 + math.exp(-0.2 * (r.ratio - z)))))
        elif better > worse:
            losses.append(0.8 * (1 - 1 / (1 + math.exp(-0.2 * (z - r.ratio)))))
    return mean(losses)


def odds(response: Response) -> float:
    probability = math.exp(response.mean_logp)
    return probability / (1 - probability)


LOOPS: dict[str, tuple[Objective, Callable[[Responses], float]]] = {
    "rrhf": (RRHF(sft_weight=0.5, length_exponent=0.7, sft_reduction="sum"), rrhf),
    "pro": (PRO(), pro),
    "pro untempered": (PRO(reward_temperature=False), lambda rs: pro(rs, tempered=False)),
    "dpo": (DPO(0.2), lambda rs: pair_mean(rs, lambda w, o: log_loss(0.2 * (w.ratio - o.ratio)))),
    "dpo all options": (
        DPO(0.2, label_smoothing=0.1, reference_free=True, length_normalised=True, nll_weight=0.5),
        lambda rs: (
            0.9 * pair_mean(rs, lambda w, o: log_loss(0.2 * (w.mean_logp - o.mean_logp)))
            + 0.1 * pair_mean(rs, lambda w, o: log_loss(0.2 * (o.mean_logp - w.mean_logp)))
            + 0.5 * nll(rs, per_token=True)
        ),
    ),
    "robust_dpo": (
        RobustDPO(0.2, 0.1),
        lambda rs: (
            (
                0.9 * pair_mean(rs, lambda w, o: log_loss(0.2 * (w.ratio - o.ratio)))
                - 0.1 * pair_mean(rs, lambda w, o: log_loss(0.2 * (o.ratio - w.ratio)))
            )
            / 0.8
        ),
    ),
    "hinge_dpo": (
        HingeDPO(0.2),
        lambda rs: pair_mean(rs, lambda w, o: max(0.0, 1 - 0.2 * (w.ratio - o.ratio))),
    ),
    "ipo": (IPO(0.2), lambda rs: pair_mean(rs, lambda w, o: (w.ratio - o.ratio - 2.5) ** 2)),
    "plackett_luce": (PlackettLuceDPO(0.2), plackett_luce),
    "plackett_luce top 2": (PlackettLuceDPO(0.2, top_m=2), lambda rs: plackett_luce(rs, 2)),
    "lipo": (LiPO(0.2), lambda rs: lipo(rs, "ranks", math.log)),
    "lipo scores": (LiPO(0.2, "scores", "log2"), lambda rs: lipo(rs, "scores", math.log2)),
    "listnet": (ListNet(0.2, score_temperature=0.5), listnet),
    "slic": (
        SLiC(delta=2.0, regulariser=0.3),
        lambda rs: (
            pair_mean(rs, lambda w, o: max(0.0, 2.0 - w.logp + o.logp))
            + 0.3 * nll(rs, per_token=False)
        ),
    ),
    "simpo": (
        SimPO(beta=2.5, gamma_beta_ratio=0.4),
        lambda rs: pair_mean(rs, lambda w, o: log_loss(2.5 * (w.mean_logp - o.mean_logp) - 1.0)),
    ),
    "orpo": (
        ORPO(0.3),
        lambda rs: (
            nll(rs, per_token=True)
            + 0.3 * pair_mean(rs, lambda w, o: log_loss(math.log(odds(w) / odds(o))))
        ),
    ),
    "cpo": (
        CPO(0.2, nll_weight=0.5),
        lambda rs: (
            pair_mean(rs, lambda w, o: log_loss(0.2 * (w.logp - o.logp)))
            + 0.5 * nll(rs, per_token=True)
        ),
    ),
    "kto": (KTO(0.2, 1.2, 0.8), kto),
    "kto threshold": (KTO(0.2, 1.2, 0.8, score_threshold=0.3), lambda rs: kto(rs, 0.3)),
    "sft": (SFT("sum"), lambda rs: nll(rs, per_token=False)),
}


def responses_of(candidates: Candidates, prompt: int) -> Responses:
    ranked = candidates if candidates.ranks is not None else with_ranks(candidates)
    assert ranked.ranks is not None and ranked.reference_logps is not None
    return [
        Response(
            float(ranked.logps[prompt, c]),
            int(ranked.lengths[prompt, c]),
            float(ranked.scores[prompt, c]),
            int(ranked.ranks[prompt, c]),
            float(ranked.reference_logps[prompt, c]),
        )
        for c in range(ranked.mask.shape[1])
        if ranked.mask[prompt, c]
    ]


@pytest.mark.parametrize("order", ["scores", "tie margin", "ranks against scores"])
@pytest.mark.parametrize("name", LOOPS)
def test_lists_are_the_loops(name: str, order: str):
    objective, loop = LOOPS[name]
    candidates = random_lists(prompts=12, seed=5)
    assert candidates.reference_logps is not None
    # Log-ratios of both signs (KTO's reference point), and equal ones (LiPO's tied places).
    reference = candidates.reference_logps - 1.5
    reference[4] = candidates.logps[4]
    reference[5, :3] = candidates.logps[5, :3] + 0.25
    candidates = replace(candidates, reference_logps=reference)
    if order == "tie margin":
        ranks = with_ranks(replace(candidates, scores=candidates.scores.floor())).ranks
        candidates = replace(candidates, ranks=ranks)
    elif order == "ranks against scores":
        candidates = replace(
            candidates, ranks=with_ranks(replace(candidates, scores=-candidates.scores)).ranks
        )
    expected = torch.tensor(
        [loop(responses_of(candidates, prompt)) for prompt in range(12)], dtype=torch.float64
    )
    torch.testing.assert_close(objective(candidates).loss, expected, rtol=1e-10, atol=1e-10)
