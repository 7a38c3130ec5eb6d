"""Values a reader can redo on paper, identities between objectives, metrics, and refusals."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log, log1p

import pytest
import torch
from ranked_lists import gradient, one_list

from rankdistill.errors import UserError
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

# Best first. Mean log-probabilities -1, -1.2, -2.5; log-ratios 2, -1, -5; the policy agrees.
LIST = one_list(
    logps=[-10.0, -12.0, -25.0],
    scores=[2.0, 1.9, 0.0],
    lengths=[10, 10, 10],
    reference=[-12.0, -11.0, -20.0],
)
# The first is the better one and the policy disagrees: mean log-probabilities -2 and -0.5.
PAIR = one_list([-10.0, -4.0], [1.0, 0.0], lengths=[5, 8], reference=[-11.0, -8.0])


def log_loss(margin: float) -> float:
    """-log sigmoid(margin)."""
    return log1p(exp(-margin))


VALUES = [
    (RRHF(), PAIR, (-0.5 - -2) + 10 / 5),
    (RRHF(sft_reduction="sum"), PAIR, (-0.5 - -2) + 10),
    (RRHF(sft_weight=0, length_exponent=0), PAIR, -4 - -10),
    (RRHF(), LIST, 0 + 10 / 10),
    # Gaps 0.1 and 2 from the first (so its own temperature is 1 / 2), 1.9 from the second.
    (
        PRO(),
        LIST,
        log(exp(-1 * 2) + exp(-1.2 * 0.1) + exp(-2.5 * 2)) + 1 * 2
        + log(exp(-1.2 * 1.9) + exp(-2.5 * 1.9)) + 1.2 * 1.9
        + 0.05 * (3 - 1) ** 2 * 10,
    ),
    (
        PRO(sft_weight=0, reward_temperature=False),
        LIST,
        log(exp(-1) + exp(-1.2) + exp(-2.5)) + 1 + log(exp(-1.2) + exp(-2.5)) + 1.2,
    ),
    (DPO(), LIST, (log_loss(0.1 * 3) + log_loss(0.1 * 7) + log_loss(0.1 * 4)) / 3),
    (DPO(label_smoothing=0.25), PAIR, 0.75 * log_loss(0.1 * -3) + 0.25 * log_loss(0.1 * 3)),
    (DPO(reference_free=True), PAIR, log_loss(0.1 * -6)),
    (DPO(beta=5, length_normalised=True), PAIR, log_loss(5 * (1 / 5 - 4 / 8))),
    (DPO(nll_weight=0.5), PAIR, log_loss(0.1 * -3) + 0.5 * 10 / 5),
    (RobustDPO(), PAIR, (0.9 * log_loss(-0.3) - 0.1 * log_loss(0.3)) / 0.8),
    (HingeDPO(beta=0.2), LIST, ((1 - 0.6) + 0 + (1 - 0.8)) / 3),
    (IPO(), LIST, ((3 - 5) ** 2 + (7 - 5) ** 2 + (4 - 5) ** 2) / 3),
    (IPO(length_normalised=True), PAIR, (1 / 5 - 4 / 8 - 5) ** 2),
    (
        PlackettLuceDPO(),
        LIST,
        log(exp(0.2) + exp(-0.1) + exp(-0.5)) - 0.2 + log(exp(-0.1) + exp(-0.5)) + 0.1,
    ),
    (PlackettLuceDPO(top_m=1), LIST, log(exp(0.2) + exp(-0.1) + exp(-0.5)) - 0.2),
    # The policy's rewards rank as the teacher does: places 1, 2, 3; labels 5/6, 3/6, 1/6.
    (
        LiPO(),
        LIST,
        (2 ** (5 / 6) - 2 ** (3 / 6)) * (1 / log(2) - 1 / log(3)) * log_loss(0.05 * 3)
        + (2 ** (5 / 6) - 2 ** (1 / 6)) * (1 / log(2) - 1 / log(4)) * log_loss(0.05 * 7)
        + (2 ** (3 / 6) - 2 ** (1 / 6)) * (1 / log(3) - 1 / log(4)) * log_loss(0.05 * 4),
    ),
    # softmax of (1, 0) against softmax of the rewards 0.1 and 0.4.
    (ListNet(), PAIR, (exp(1) * log_loss(0.1 - 0.4) + log_loss(0.4 - 0.1)) / (exp(1) + 1)),
    (SLiC(), PAIR, (1 + 10 - 4) + 0.1 * 10),
    (SLiC(delta=5, regulariser=0), LIST, ((5 - 2) + 0 + 0) / 3),
    (SimPO(), PAIR, log_loss(2 * (-2 + 0.5) - 2 * 0.25)),
    # Odds e^-2 / (1 - e^-2) and e^-0.5 / (1 - e^-0.5).
    (
        ORPO(),
        PAIR,
        10 / 5 + 0.1 * log_loss(log(exp(-2) / (1 - exp(-2)) / (exp(-0.5) / (1 - exp(-0.5))))),
    ),
    (CPO(), PAIR, log_loss(0.1 * (-10 + 4)) + 10 / 5),
    # Log-ratios 1 and 4, reference point 2.5.
    (KTO(), PAIR, (1 / (1 + exp(0.1 * (1 - 2.5))) + 1 / (1 + exp(0.1 * (2.5 - 4)))) / 2),
    # The worse one's score is the threshold, so both are desirable.
    (KTO(score_threshold=0, desirable_weight=2), PAIR,
     2 * (1 / (1 + exp(0.1 * (1 - 2.5))) + 1 / (1 + exp(0.1 * (4 - 2.5)))) / 2),
    (SFT(), PAIR, 10 / 5),
    (SFT("sum"), PAIR, 10),
]  # fmt: skip


@pytest.mark.parametrize(("objective", "candidates", "expected"), VALUES)
def test_value_on_paper(objective: Objective, candidates: Candidates, expected: float):
    assert objective(candidates).loss.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_policy_equal_to_reference(count: int):
    logps = [-3.0 * (i + 1) for i in range(count)]
    scores = [float(i) for i in range(count)]
    same = one_list(logps, scores, reference=logps)
    factorial = torch.arange(1, count + 1).prod().item()
    for objective, expected in [
        (DPO(), log(2)),
        (DPO(label_smoothing=0.3), log(2)),
        (DPO(length_normalised=True), log(2)),
        (RobustDPO(), log(2)),
        (HingeDPO(), 1),
        (IPO(beta=0.2), 1 / (4 * 0.2**2)),
        (PlackettLuceDPO(), log(factorial)),
        (ListNet(), log(count)),
        (KTO(), 0.5),
    ]:
        assert objective(same).loss.item() == pytest.approx(expected, rel=1e-12), objective


def test_lipo_has_a_gradient_at_the_reference():
    """Places are tied there: every pair has the mean weight over the orders."""
    logps = [-3.0, -6.0, -9.0]
    same = one_list(logps, [2.0, 1.0, 0.0], reference=logps)
    gaps = (1 / log(2) - 1 / log(3), 1 / log(2) - 1 / log(4), 1 / log(3) - 1 / log(4))
    gains = 2 ** (5 / 6) - 2 ** (3 / 6), 2 ** (5 / 6) - 2 ** (1 / 6), 2 ** (3 / 6) - 2 ** (1 / 6)
    expected = sum(gains) * sum(gaps) / 3 * log(2)
    assert LiPO()(same).loss.item() == pytest.approx(expected, rel=1e-12)


def test_two_candidates_are_one_loss():
    """Plackett-Luce = DPO = PRO and LiPO on implicit rewards, by definition or up to a constant."""
    pair = PAIR
    dpo = DPO(beta=0.3)(pair).loss.item()
    assert PlackettLuceDPO(beta=0.3)(pair).loss.item() == pytest.approx(dpo, rel=1e-12)
    rewards = replace(
        pair, logps=0.3 * (pair.logps - pair.reference_logps), lengths=torch.ones(1, 2)
    )
    untempered = PRO(sft_weight=0, reward_temperature=False)
    assert untempered(rewards).loss.item() == pytest.approx(dpo, rel=1e-12)
    constant = (2**0.75 - 2**0.25) * (1 / log(2) - 1 / log(3))
    assert LiPO(beta=0.3)(pair).loss.item() == pytest.approx(constant * dpo, rel=1e-12)
    sharp = ListNet(beta=0.3, score_temperature=1e-3)
    assert sharp(pair).loss.item() == pytest.approx(dpo, rel=1e-12)


def test_pro_with_temperature_of_two_is_scaled_by_the_gap():
    """s is -2 and -0.5; the gap of 3 multiplies both."""
    pair = replace(PAIR, scores=torch.tensor([[3.0, 0.0]]))
    expected = log_loss(3 * (-2 + 0.5))
    assert PRO(sft_weight=0)(pair).loss.item() == pytest.approx(expected, rel=1e-12)


def test_pro_survives_where_the_released_code_does_not():
    """Gap 70: the epsilon beside a plain sum of exponentials would make this 151.97."""
    pair = one_list([-25.0, -26.0], [70.0, 0.0])
    expected = log_loss(70 * 0.1)
    assert PRO(sft_weight=0)(pair).loss.item() == pytest.approx(expected, rel=1e-9)


def test_two_responses_that_tie_are_all_ties():
    tied = one_list([-10.0, -4.0], [1.0, 1.0], lengths=[5, 8])
    assert RRHF()(tied).metrics["tie_share"].tolist() == [1.0]
    assert RRHF()(PAIR).metrics["tie_share"].tolist() == [0.0]


def test_ties_for_the_best_share_the_likelihood_term():
    tied = one_list([-10.0, -30.0, -50.0], [1.0, 1.0, 0.0], lengths=[10, 20, 10])
    assert SFT()(tied).loss.item() == pytest.approx((10 / 10 + 30 / 20) / 2)
    assert SFT("sum")(tied).loss.item() == pytest.approx((10 + 30) / 2)
    assert RRHF()(tied).metrics["sft_loss"].item() == pytest.approx((1 + 1.5) / 2)


def test_ties_never_enter_each_others_denominator():
    tied = one_list([-1.0, -2.0, -4.0], [1.0, 1.0, 0.0], lengths=[1, 1, 1])
    expected = log_loss(3) + log_loss(2)
    assert PRO(sft_weight=0)(tied).loss.item() == pytest.approx(expected, rel=1e-12)
    assert PlackettLuceDPO(beta=1)(tied).loss.item() == pytest.approx(expected, rel=1e-12)


def test_kto_leaves_the_middle_without_a_label():
    middle_moved = replace(LIST, logps=LIST.logps + torch.tensor([0.0, -2.0, 0.0]))
    # The mean log-ratio is negative before and after, so the reference point stays at 0.
    assert KTO()(middle_moved).loss.item() == KTO()(LIST).loss.item()


def test_ktos_reference_point_has_no_gradient():
    """Log-ratios 1 and 4 around 2.5: sigmoid' at -0.15 and 0.15, which are equal."""
    _, grad = gradient(KTO(desirable_weight=2), PAIR)
    slope = 0.1 * exp(0.15) / (1 + exp(0.15)) ** 2 / 2
    assert grad[0].tolist() == pytest.approx([-2 * slope, slope], rel=1e-12)


def test_metrics_of_a_list():
    """Ranked 1, 1, 2: two strict pairs; the policy has one right, one tied by mean logp."""
    candidates = one_list(
        [-10.0, -40.0, -20.0],
        [1.0, 1.0, 0.0],
        lengths=[10, 20, 10],
        reference=[-10.0, -42.0, -23.0],
    )
    metrics = {name: m.item() for name, m in DPO(beta=0.5)(candidates).metrics.items()}
    assert metrics == pytest.approx(
        {
            "rank_accuracy": (1 + 0.5) / 2,  # -1 > -2, and -2 = -2
            "margin_accuracy": 0,  # rewards 0 and 1 against 1.5
            "margin": ((0 - 1.5) + (1 - 1.5)) / 2,
            "chosen_mean_logp": (-1 + -2) / 2,
            "rejected_mean_logp": -2,
            "length_difference": (10 + 20) / 2 - 10,
            "tie_share": 1 / 3,
            "chosen_log_ratio": (0 + 2) / 2,
            "rejected_log_ratio": 3,
            "chosen_reward": 0.5 * (0 + 2) / 2,
            "rejected_reward": 0.5 * 3,
            "rank_loss": (log_loss(-1.5) + log_loss(-0.5)) / 2,
            "sft_loss": (1 + 2) / 2,
        }
    )


REFUSED = [
    (DPO, {"beta": -0.1}, "DPO: beta must be a number above 0, not -0.1"),
    (DPO, {"beta": 0}, "beta must be a number above 0"),
    (DPO, {"beta": float("nan")}, "beta must be a number above 0"),
    (DPO, {"beta": "high"}, "beta must be a number above 0, not 'high'"),
    (DPO, {"label_smoothing": 0.5}, r"label_smoothing must be a number in \[0, 0.5\), not 0.5"),
    (DPO, {"label_smoothing": -0.1}, "label_smoothing must be"),
    (DPO, {"nll_weight": -1}, "nll_weight must be a number, 0 or above"),
    (DPO, {"reference_free": "flase"}, "reference_free must be true or false, not 'flase'"),
    (DPO, {"length_normalised": 1}, "length_normalised must be true or false"),
    (IPO, {"length_normalised": None}, "IPO: length_normalised"),
    (PRO, {"reward_temperature": "on"}, "PRO: reward_temperature"),
    (RobustDPO, {"label_smoothing": 0.5}, "RobustDPO: label_smoothing"),
    (RobustDPO, {"beta": 0}, "beta"),
    (HingeDPO, {"beta": 0}, "beta"),
    (IPO, {"beta": 0}, "IPO: beta"),
    (PlackettLuceDPO, {"beta": -1}, "beta"),
    (PlackettLuceDPO, {"top_m": 0}, "top_m must be a whole number, 1 or above"),
    (PlackettLuceDPO, {"top_m": 1.5}, "top_m must be a whole number"),
    (LiPO, {"beta": -1}, "beta"),
    (LiPO, {"labels": "rank"}, "labels='rank' is unknown; did you mean 'ranks'?"),
    (LiPO, {"discount": "ln"}, "LiPO: discount='ln' is unknown; valid names are 'log', 'log2'"),
    (ListNet, {"beta": 0}, "beta"),
    (ListNet, {"score_temperature": 0}, "score_temperature must be a number above 0"),
    (RRHF, {"sft_weight": -1}, "RRHF: sft_weight must be a number, 0 or above, not -1"),
    (RRHF, {"length_exponent": float("inf")}, "length_exponent"),
    (RRHF, {"sft_reduction": "avg"}, "sft_reduction='avg' is unknown"),
    (PRO, {"sft_weight": -0.05}, "PRO: sft_weight"),
    (SLiC, {"delta": -1}, "delta"),
    (SLiC, {"regulariser": -1}, "regulariser"),
    (SimPO, {"beta": 0}, "beta"),
    (SimPO, {"gamma_beta_ratio": -0.5}, "gamma_beta_ratio"),
    (ORPO, {"odds_weight": -0.1}, "odds_weight"),
    (CPO, {"beta": 0}, "beta"),
    (CPO, {"nll_weight": -1}, "nll_weight"),
    (KTO, {"beta": 0}, "beta"),
    (KTO, {"desirable_weight": -1}, "KTO: desirable_weight"),
    (KTO, {"undesirable_weight": -1}, "undesirable_weight"),
    (KTO, {"score_threshold": float("nan")}, "score_threshold must be a finite number"),
    (SFT, {"reduction": "max"}, "SFT: reduction='max' is unknown"),
]


@pytest.mark.parametrize(("objective", "arguments", "message"), REFUSED)
def test_a_value_out_of_range_is_refused(objective: type, arguments: dict, message: str):
    with pytest.raises(UserError, match=message):
        objective(**arguments)


def test_a_missing_reference_is_refused_with_the_remedy():
    bare = replace(PAIR, reference_logps=None)
    for objective in (o for o, _, _ in VALUES):
        if objective.needs_reference:
            with pytest.raises(UserError, match=r"reference_logps.*compute them.*objective=simpo"):
                objective(bare)
        else:
            objective(bare)
    assert not DPO(reference_free=True).needs_reference


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"scores has shape \(1, 3\), logps \(1, 2\)"):
        RRHF()(replace(PAIR, scores=torch.zeros(1, 3)))
