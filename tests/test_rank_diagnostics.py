"""Diagnostics: planted biases are named and undone, agreement as published, the gate."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from judge_data import group

from rankdistill.errors import UserError
from rankdistill.rank import rank_groups
from rankdistill.rank.combine import combine, debiased, scale_of
from rankdistill.rank.diagnostics import agreement, diagnose, krippendorff_alpha
from rankdistill.schema import Aggregate, RankConfig, Select
from rankdistill.stages.rank import _require_agreement, _tell_little_agreement


def simulated(prompts: int, candidates: int, *, position: float, length: float):
    """Groups with a true quality in `quality`, judged in all pairs, both orders.

    The judge prefers the first with the logit: quality gap + `position` + `length` * gap of length.
    """
    draw = random.Random(0)
    groups = []
    for n in range(prompts):
        g = group(str(n), *("x" for _ in range(candidates)))
        g["quality"] = [draw.gauss(0, 1) for _ in range(candidates)]
        for response in g["responses"]:
            response["token_ids"] = list(range(draw.randint(5, 100)))
        ballots = []
        for i in range(candidates):
            for j in range(candidates):
                if i == j:
                    continue
                lengths = [len(g["responses"][k]["token_ids"]) / 30 for k in (i, j)]
                logit = 3 * (g["quality"][i] - g["quality"][j]) + position
                logit += length * (lengths[0] - lengths[1])
                first = draw.random() < 1 / (1 + math.exp(-logit))
                ballots.append(
                    {"scorer": "judge", "shown": [i, j], "ranks": [1 - first, int(first)]}
                )
                ballots[-1]["ranks"] = [0, 1] if first else [1, 0]
        g["ballots"] = ballots
        g["split"] = "validation" if n % 4 == 0 else "train"
        for i, response in enumerate(g["responses"]):
            won = [b["ranks"][b["shown"].index(i)] == 0 for b in ballots if i in b["shown"]]
            response["scores"] = {"judge": float(np.mean(won))}
            response["score"] = response["scores"]["judge"]
        groups.append(g)
    return groups


def recovered(groups) -> float:
    """Share of pairs in the true order."""
    right = pairs = 0
    for g in groups:
        for i, a in enumerate(g["responses"]):
            for j, b in enumerate(g["responses"]):
                if g["quality"][i] > g["quality"][j]:
                    pairs += 1
                    right += (a["score"] > b["score"]) + 0.5 * (a["score"] == b["score"])
    return right / pairs


def test_a_fair_judge_is_found_fair():
    found = diagnose(simulated(120, 4, position=0.0, length=0.0))["scorers"]["judge"]
    first, length = found["ballots"]["first_wins"], found["length"]
    assert first["low"] < 0.5 < first["high"]
    assert length["low"] < 0.0 < length["high"]


@pytest.mark.parametrize("how", ["borda", "bradley_terry", "elo"])
def test_a_position_bias_is_named_and_both_orders_undo_it(how):
    biased = simulated(120, 4, position=2.0, length=0.0)
    found = diagnose(biased)["scorers"]["judge"]["ballots"]
    assert found["first_wins"]["low"] > 0.5 and found["flips"]["mean"] > 0.2
    assert found["pairs_in_both_orders"] == 120 * 6
    both = recovered(combine(biased, {"judge": 1.0}, how))
    for g in biased:  # one order only: the earlier place is shown first
        g["ballots"] = [b for b in g["ballots"] if b["shown"][0] < b["shown"][1]]
    one = recovered(combine(biased, {"judge": 1.0}, how))
    fair = recovered(combine(simulated(120, 4, position=0.0, length=0.0), {"judge": 1.0}, how))
    # A verdict that follows the position says less: some loss against a fair judge remains.
    assert both > one + 0.02 and fair - 0.06 < both and both > 0.8


def test_a_length_bias_is_named_and_regressed_out():
    biased = simulated(150, 5, position=0.0, length=2.0)
    assert diagnose(biased)["scorers"]["judge"]["length"]["low"] > 0.2
    scored = combine(biased, {"judge": 1.0}, "bradley_terry")
    corrected, slope = debiased(scored)
    # 2 nats in 30 tokens; sampling and the prior make it no better than about a fifth.
    assert slope == pytest.approx(2.0 / 30, rel=0.35)
    for row in (scored, corrected):
        for g, truth in zip(row, biased, strict=True):
            g["quality"] = truth["quality"]
    assert recovered(corrected) > recovered(scored) + 0.05


def test_flips_cycles_and_ties_by_hand():
    g = group("p", "a", "b", "c")

    def ballot(i, j, *ranks):
        return {"scorer": "judge", "shown": [i, j], "ranks": list(ranks)}

    g["ballots"] = [
        ballot(0, 1, 0, 1), ballot(1, 0, 1, 0),  # 0 beats 1, whatever the order
        ballot(1, 2, 0, 1), ballot(2, 1, 1, 0),  # 1 beats 2
        ballot(2, 0, 0, 1), ballot(0, 2, 0, 1), ballot(2, 0, 0, 1), ballot(0, 2, 1, 0),
        ballot(0, 1, 0, 0),
    ]  # fmt: skip
    for r in g["responses"]:
        r["scores"] = {"judge": 0.0}
    found = diagnose([g])["scorers"]["judge"]["ballots"]
    assert found["pairs_in_both_orders"] == 4  # the tie was asked in one order only
    assert found["flips"]["mean"] == 1 / 4 and found["ties"]["mean"] == 1 / 9
    assert found["first_wins"]["mean"] == 5 / 8
    assert (found["triples"], found["cyclic"]) == (1, 1.0)
    # A prompt without ballots takes nothing from those of the others.
    silent = group("q", "a", "b")
    for r in silent["responses"]:
        r["scores"] = {"judge": 0.0}
    both = diagnose([g, silent])
    assert both["scorers"]["judge"]["ballots"] == found and both["raters"] == "ballots"
    assert diagnose([silent])["raters"] is None


def test_krippendorffs_alpha_of_his_own_example():
    """Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section E; interval data."""
    nan = math.nan
    raters = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    assert krippendorff_alpha(zip(*raters, strict=True)) == pytest.approx(0.849, abs=5e-4)
    assert krippendorff_alpha([[1, 1], [2, 2]]) == 1.0
    assert krippendorff_alpha([[1, nan], [2, nan]]) is None
    assert krippendorff_alpha([[1, 1], [1, 1]]) is None


def two_scorers(*pairs):
    g = group("p", *("x" * (i + 1) for i in range(len(pairs))))
    for response, (a, b) in zip(g["responses"], pairs, strict=True):
        response["scores"] = {"human": a, "likelihood": b}
    return g


def test_scorers_agree_or_are_disputed():
    same, opposite = two_scorers((3, 9), (2, 5), (1, 1)), two_scorers((3, 1), (2, 5), (1, 9))
    found = diagnose([same, {**opposite, "prompt_id": "q"}])
    [pair] = found["agreement"]
    assert (pair["a"], pair["b"], pair["human"], pair["mean"]) == ("human", "likelihood", True, 0.0)
    assert [one["prompt_id"] for one in found["disputed"]] == ["q"]
    assert agreement([same]) == 1.0 and agreement([opposite]) < 0
    assert found["raters"] == "scorers" and found["validation"] is None


def test_the_gate():
    good = {"validation": 0.6, "raters": "scorers"}
    _require_agreement(good, None)
    _require_agreement(good, 0.5)
    with pytest.raises(UserError, match=r"alpha is 0.60 .* below rank.min_agreement=0.7"):
        _require_agreement(good, 0.7)
    with pytest.raises(UserError, match="no agreement to measure"):
        _require_agreement({"validation": None, "raters": None}, 0.1)


def test_little_agreement_is_told_before_the_training(capsys):
    _tell_little_agreement({"alpha": 0.18, "raters": "scorers"})
    said = " ".join(capsys.readouterr().out.split())
    assert "the scorers agree with Krippendorff's alpha 0.18" in said
    assert "rank.min_agreement stops such a run" in said
    _tell_little_agreement({"alpha": 0.2, "raters": "scorers"})
    _tell_little_agreement({"alpha": None, "raters": None})
    assert capsys.readouterr().out == ""


def test_an_ensemble_is_standardised_and_weighted():
    groups = [two_scorers((1, 100), (2, 300)), two_scorers((3, 100), (2, 100))]
    scale = scale_of(groups, {"human": 1.0, "likelihood": 1.0})
    assert scale["human"] == pytest.approx((2.0, math.sqrt(0.5)))
    combined = combine(groups, {"human": 1.0, "likelihood": 3.0}, "mean")
    z = [(1 - 2) / math.sqrt(0.5), (100 - 150) / math.sqrt(7500)]
    assert combined[0]["responses"][0]["score"] == pytest.approx((z[0] + 3 * z[1]) / 4)
    alone = combine(groups, {"likelihood": 2.0}, "mean")
    assert [r["score"] for r in alone[0]["responses"]] == [100, 300]
    with pytest.raises(UserError, match="did you mean 'human'"):
        combine(groups, {"humans": 1.0}, "mean")


def test_scorers_share_the_votes_by_weight_however_many_ballots_they_cast():
    g = two_scorers((1, 2), (2, 1))
    g["ballots"] = [{"scorer": "human", "shown": [0, 1], "ranks": [1, 0]}] * 9
    [even] = combine([g], {"human": 1.0, "likelihood": 1.0}, "borda")
    assert [r["score"] for r in even["responses"]] == [0.5, 0.5]
    [mine] = combine([g], {"human": 1.0, "likelihood": 3.0}, "borda")
    assert [r["score"] for r in mine["responses"]] == [0.75, 0.25]


def test_a_response_without_a_score_is_left_out_and_ballots_follow():
    g = group("p", "a", "b", "c", "d")
    for response, score in zip(g["responses"], (0.2, math.nan, 0.9, 0.2), strict=True):
        response["scores"], response["score"] = {"judge": score}, score
    g["ballots"] = [{"scorer": "judge", "shown": [3, 1, 2, 0], "ranks": [2, 1, 0, 2]},
                    {"scorer": "judge", "shown": [1, 0], "ranks": [0, 1]}]  # fmt: skip
    config = RankConfig(None, None, None, None, 0.0, Select.all, 2, Aggregate.mean)
    [kept], counts = rank_groups([g], config, seed=0)
    assert [r["text"] for r in kept["responses"]] == ["c", "a", "d"]
    assert kept["ballots"] == [{"scorer": "judge", "shown": [2, 0, 1], "ranks": [1, 0, 1]}]
    assert counts["responses_without_score"] == 1 and "place" not in kept["responses"][0]
