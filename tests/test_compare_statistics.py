"""The comparison's statistics on simulated results whose truth is known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from rankdistill.compare import statistics
from rankdistill.compare.statistics import (
    Estimate,
    holm,
    of_differences,
    of_objectives,
    pair_differences,
)

PROMPTS, OBJECTIVES, TIMES = 40, 3, 120


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 600)
    of_prompts = statistics.mean_interval
    monkeypatch.setattr(
        statistics, "mean_interval", lambda v, seed: of_prompts(v, seed=seed, resamples=600)
    )


def simulated(
    draw: np.random.Generator, seeds: int, truth: list[float], own: float, shared: float = 0.0
) -> tuple[list[np.ndarray], np.ndarray]:
    """[S, P] scores of each objective, and of the student before.

    own: standard deviation that a seed adds to one objective; shared: to all of them.
    """
    prompt = draw.normal(0, 0.5, PROMPTS)
    together = draw.normal(0, shared, (seeds, 1))
    before = prompt + draw.normal(0, 0.3, (seeds, PROMPTS))
    tables = [
        prompt + true + draw.normal(0, 0.2, PROMPTS) + together
        + draw.normal(0, own, (seeds, 1)) + draw.normal(0, 0.3, (seeds, PROMPTS))
        for true in truth
    ]  # fmt: skip
    return tables, before


def pairs(tables: list[np.ndarray]) -> list[np.ndarray]:
    return [a - b for a, b in combinations(tables, 2)]


def covers(estimate: Estimate, truth: float) -> bool:
    assert estimate.low is not None and estimate.high is not None
    return estimate.low <= truth <= estimate.high


@pytest.mark.parametrize(
    ("seeds", "own", "shared"),
    [(1, 0.0, 0.0), (2, 0.0, 0.0), (2, 0.1, 0.0), (3, 0.1, 0.1), (3, 0.3, 0.0)],
)
def test_intervals_cover_and_equal_objectives_are_called_equal(seeds, own, shared):
    draw = np.random.default_rng(seeds)
    truth = [0.3] * OBJECTIVES
    leads, differences, false_alarms = [], [], 0
    for time in range(TIMES):
        tables, before = simulated(draw, seeds, truth, own, shared)
        leads += [covers(e, 0.3) for e in of_objectives([t - before for t in tables], seed=time)]
        told = of_differences(pairs(tables), OBJECTIVES, seed=time)
        differences += [covers(e, 0.0) for e in told]
        false_alarms += min(holm([e.p_value for e in told])) < 0.05
    # Stated: 95 %. 120 experiments of 3 estimates each: about +-4 points; from two seeds on the
    # intervals may be wider than that needs, which costs power and no truth.
    assert np.mean(leads) > 0.90
    assert np.mean(differences) > 0.91
    assert seeds > 1 or np.mean(differences) < 0.99
    assert false_alarms / TIMES < 0.10


def test_ignoring_the_seeds_would_not_cover():
    """What pooling the seeds' spread is for: prompts alone miss the truth far too often."""
    draw = np.random.default_rng(0)
    missed = 0
    for time in range(60):
        tables, _ = simulated(draw, 2, [0.0, 0.0], own=0.3)
        alone = of_objectives([(tables[0] - tables[1]).mean(axis=0, keepdims=True)], seed=time)
        missed += not covers(alone[0], 0.0)
    assert missed / 60 > 0.3


def test_seeds_that_differ_by_nothing_widen_nothing():
    """20 seeds of 8 prompts, all of whose difference is the noise of single answers.

    That noise is in the spread of the prompts' means already, so the interval is that of Student's
    t over 8 prompts; counted once more as a spread of the seeds, it would be a quarter wider.
    """
    draw = np.random.default_rng(5)
    widths, covered = [], []
    for time in range(60):
        tables = [draw.normal(0, 0.3, (20, 8)) for _ in range(OBJECTIVES)]
        for told in of_differences(pairs(tables), OBJECTIVES, seed=time):
            widths.append((told.high or 0) - (told.low or 0))
            covered.append(covers(told, 0.0))
    textbook = 2 * 2.3646 * 0.3 * np.sqrt(2 / (20 * 8))
    assert np.mean(widths) == pytest.approx(textbook, rel=0.12)
    assert 0.92 < np.mean(covered) < 0.985


def test_a_planted_difference_is_found():
    draw = np.random.default_rng(1)
    found = {1: 0, 2: 0, 3: 0}
    for seeds in found:
        for time in range(30):
            tables, _ = simulated(draw, seeds, [0.4, 0.0, 0.0], own=0.03)
            told = of_differences(pairs(tables), OBJECTIVES, seed=time)
            adjusted = holm([e.p_value for e in told])
            found[seeds] += adjusted[0] < 0.05 and adjusted[1] < 0.05
    # Two seeds of three objectives leave 2 degrees of freedom: what is there is missed at times.
    assert found[1] >= 28 and found[2] >= 15 and found[3] >= 28


def test_many_seeds_come_to_the_textbook_interval():
    """With many seeds and no difference between prompts the t interval over seeds is right."""
    draw = np.random.default_rng(3)
    seeds = draw.normal(0.2, 0.3, (40, 1))
    (told,) = of_objectives([seeds + np.zeros((40, 25))], seed=0)
    half = 2.0227 * float(seeds.std(ddof=1)) / np.sqrt(40)
    assert told.mean == pytest.approx(float(seeds.mean()))
    assert told.low == pytest.approx(told.mean - half, abs=0.1 * half)
    assert told.high == pytest.approx(told.mean + half, abs=0.1 * half)


def test_more_seeds_narrow_what_fewer_cannot_tell():
    draw = np.random.default_rng(4)
    widths = []
    for seeds in (2, 3, 6):
        told: list[Estimate] = []
        for time in range(15):
            tables, before = simulated(draw, seeds, [0.0] * OBJECTIVES, own=0.3)
            told += of_objectives([t - before for t in tables], seed=time)
        widths.append(np.mean([(e.high or 0) - (e.low or 0) for e in told]))
    assert widths[0] > widths[1] > widths[2]


def test_few_prompts_widen_the_interval_as_students_t_does(monkeypatch):
    """Seeds that agree leave the prompts' spread alone: t(5) of six of them."""
    monkeypatch.setattr(statistics, "RESAMPLES", 20_000)
    prompts = np.array([-1.0, -0.6, -0.1, 0.2, 0.5, 1.0])
    (told,) = of_objectives([np.stack([prompts, prompts])], seed=0)
    half = 2.571 * prompts.std(ddof=1) / np.sqrt(6)
    assert ((told.high or 0) - (told.low or 0)) / 2 == pytest.approx(half, rel=0.08)


def test_two_prompts_are_tested_by_flipping_their_signs():
    (told,) = of_differences([np.array([[1.0, 3.0]])], 2, seed=0)
    assert told.p_value == 0.5  # of four ways of signs, two are as far from 0


def test_what_no_draw_reaches_has_the_smallest_p_value():
    table = 1e6 + np.random.default_rng(4).normal(size=(2, 12))
    (told,) = of_differences([table], 2, seed=0)
    assert told.p_value == 2 / (statistics.RESAMPLES + 1)


def test_a_table_that_is_given_twice_is_as_wide_as_alone():
    table = np.random.default_rng(3).normal(size=(3, 12))
    alone, first, second = (
        estimate
        for tables in ([table], [table, table])
        for estimate in of_differences(tables, 2, seed=0)
    )
    assert (first.low, first.high) == pytest.approx((alone.low, alone.high))
    assert (second.low, second.high) == pytest.approx((alone.low, alone.high), abs=0.05)


def test_a_long_tail_is_on_its_own_side_of_the_interval():
    values = np.array([[0.0] * 18 + [10.0, 10.0]] * 2)  # of two seeds that are alike
    tail, mirrored = (of_differences([t], 2, seed=0)[0] for t in (values, -values))
    assert tail.high - tail.mean > 1.2 * (tail.mean - tail.low)
    assert mirrored.mean - mirrored.low > 1.2 * (mirrored.high - mirrored.mean)


def test_objectives_without_a_seed_in_common_are_compared_by_their_means():
    two_seeds, another = {0: np.full(9, 1.0), 1: np.full(9, 1.2)}, {2: np.full(9, 1.5)}
    (found,) = pair_differences({"two": two_seeds, "one": another}, seed=0)
    assert (found.better, found.worse, found.paired_seeds) == ("one", "two", 0)
    assert found.tested.estimate.mean == pytest.approx(0.4)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_what_is_the_same_everywhere_is_no_difference():
    (told,) = of_differences([np.zeros((1, 10))], 2, seed=0)
    assert (told.mean, told.low, told.high, told.p_value) == (0.0, 0.0, 0.0, 1.0)
    (told,) = of_differences([np.ones((1, 1))], 2, seed=0)
    assert (told.low, told.p_value) == (None, 1.0)


def test_tables_over_other_prompts_are_refused():
    with pytest.raises(ValueError, match="same prompts"):
        of_objectives([np.zeros((1, 3)), np.zeros((1, 4))], seed=0)


def test_objectives_that_go_up_and_down_together_tell_as_much_as_one():
    """Kish's design effect at its two ends: seeds that are all in common, and not at all."""
    draw = np.random.default_rng(5)
    seeds = draw.normal(0, 1, (4, 1)) + np.zeros((4, 10))
    assert statistics._shared_freedom([seeds] * 3) == pytest.approx(3)
    apart = [sign * seeds for sign in (1, -1)]  # no less alike than by chance: r is taken as 0
    assert statistics._shared_freedom(apart) == pytest.approx(2 * 3)

    # In between, by hand: leads of two objectives at three seeds, mean squares 0.06 and 0.02 of
    # the seeds and of what is left, so r = (0.06 - 0.02) / (0.06 + 0.02).
    leads = np.array([[0.3, 0.5, 0.7], [-0.1, 0.3, 0.1]])
    of_prompts = [row[:, None] + np.zeros((3, 4)) for row in leads]
    assert statistics._shared_freedom(of_prompts) == pytest.approx(2 * 2 / (1 + 0.5))
