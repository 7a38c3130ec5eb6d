"""Intervals on simulated truth, and closed-form values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rankdistill.statistics import (
    Interval,
    bootstrap,
    mean_agreement,
    mean_interval,
    paired_difference,
    tau_b,
    win_rate,
)


def test_interval_covers_the_true_difference_at_the_stated_rate():
    """400 evaluations of 60 prompts: prompts differ far more than the models do."""
    generator = np.random.default_rng(0)
    trials, truth, covered = 400, 0.3, 0
    for trial in range(trials):
        prompts = generator.normal(0.0, 2.0, 60)
        a = prompts + truth + generator.gamma(2.0, 0.5, 60) - 1.0  # skewed, mean 0
        b = prompts + generator.normal(0.0, 0.5, 60)
        interval = paired_difference(a.tolist(), b.tolist(), seed=trial, resamples=1_000)
        covered += not interval.excludes(truth)
    error = math.sqrt(0.95 * 0.05 / trials)
    assert abs(covered / trials - 0.95) < 3.0 * error


def test_equal_models_are_called_equal_at_the_stated_rate():
    generator = np.random.default_rng(1)
    trials, wrong = 400, 0
    for trial in range(trials):
        a, b = generator.normal(size=(2, 40))
        wrong += paired_difference(a.tolist(), b.tolist(), seed=trial, resamples=1_000).excludes()
    assert wrong / trials < 0.05 + 3.0 * math.sqrt(0.95 * 0.05 / trials)


def test_win_rate_interval_covers_the_true_rate():
    generator = np.random.default_rng(2)
    trials, covered = 400, 0
    truth = 0.5 * (1.0 + math.erf(0.4 / 2.0))  # P(N(0.4, 1) > N(0, 1))
    for trial in range(trials):
        a, b = generator.normal(size=(2, 50, 2))
        interval = win_rate((a + 0.4).tolist(), b.tolist(), seed=trial, resamples=1_000)
        covered += not interval.excludes(truth)
    assert abs(covered / trials - 0.95) < 3.0 * math.sqrt(0.95 * 0.05 / trials)


def test_pairing_removes_what_prompts_have_in_common():
    prompts = np.random.default_rng(3).normal(0.0, 100.0, 50)
    paired = paired_difference((prompts + 1.0).tolist(), prompts.tolist(), seed=0)
    assert paired.mean == pytest.approx(1.0)
    assert paired.excludes(0.0)


def test_the_seed_decides_the_interval():
    values = np.random.default_rng(4).normal(size=30).tolist()
    assert mean_interval(values, seed=1) == mean_interval(values, seed=1)
    assert mean_interval(values, seed=1) != mean_interval(values, seed=2)


def test_a_wider_level_gives_a_wider_interval():
    values = np.random.default_rng(5).normal(size=30).tolist()
    narrow, wide = (mean_interval(values, seed=0, level=level) for level in (0.8, 0.99))
    assert narrow.low is not None and narrow.high is not None
    assert wide.low is not None and wide.high is not None
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_constant_differences_have_an_interval_of_no_width():
    assert paired_difference([1.5, 2.5, 3.5], [1.0, 2.0, 3.0], seed=0) == Interval(0.5, 0.5, 0.5)
    assert paired_difference([1.0, 2.0], [1.0, 2.0], seed=0) == Interval(0.0, 0.0, 0.0)
    assert not Interval(0.0, 0.0, 0.0).excludes(0.0)


def test_one_prompt_has_no_interval_and_excludes_nothing():
    interval = paired_difference([3.0], [1.0], seed=0)
    assert interval == Interval(2.0, None, None)
    assert not interval.excludes(0.0)


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 0.0, 1.0], [0.0] * 9 + [1.0]])
def test_few_or_nearly_constant_values_have_a_finite_interval(values):
    interval = mean_interval(values, seed=0)
    assert interval.low is not None and interval.high is not None
    assert 0.0 <= interval.low <= interval.mean <= interval.high <= 1.0


def test_an_end_that_bca_puts_at_infinity_is_the_percentiles():
    """As of a ratio whose denominator vanishes in some resamples."""
    values = np.random.default_rng(6).exponential(size=20)
    high = mean_interval(values.tolist(), seed=0).high

    def until_there(drawn: np.ndarray, axis: int = -1) -> np.ndarray:
        means = drawn.mean(axis)
        return np.where(means < high, means, math.inf)

    low, end = bootstrap([values], until_there, 0)
    assert high is not None and low < values.mean() < end < high


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 1.0]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError):
        mean_interval(values, seed=0)


def test_unpaired_lists_are_refused():
    with pytest.raises(ValueError):
        paired_difference([1.0, 2.0], [1.0], seed=0)
    with pytest.raises(ValueError):
        win_rate([1.0, 2.0], [1.0], seed=0)


def test_ties_count_half():
    assert win_rate([1.0, 2.0, 3.0, 4.0], [0.0, 2.0, 4.0, 3.0]).mean == (1 + 0.5 + 0 + 1) / 4


def test_differences_within_the_margin_are_ties():
    assert win_rate([1.0, 2.0], [0.75, 1.0], tie_margin=0.25).mean == (0.5 + 1) / 2


def test_every_response_meets_every_other_and_prompts_count_once():
    a: list[list[float]] = [[3.0, 1.0], [5.0]]
    b: list[list[float]] = [[2.0, 2.0, 0.0], [5.0, 6.0]]
    assert win_rate(a, b).mean == pytest.approx(((3 + 1) / 6 + 0.5 / 2) / 2)


def test_win_rates_of_both_sides_add_up_to_one():
    a, b = np.random.default_rng(6).normal(size=(2, 20, 3)).round(1)
    assert win_rate(a.tolist(), b.tolist()).mean + win_rate(b.tolist(), a.tolist()).mean == (
        pytest.approx(1.0)
    )


def test_winning_every_prompt_leaves_the_exact_bound():
    interval = win_rate([1.0] * 10, [0.0] * 10)
    assert (interval.mean, interval.high) == (1.0, 1.0)
    assert interval.low == pytest.approx(0.025 ** (1 / 10))  # 0.69: 10 of 10 is no proof of 0.9
    lost = win_rate([0.0] * 10, [1.0] * 10)
    assert lost == Interval(0.0, 0.0, 1.0 - 0.025 ** (1 / 10))


def test_a_prompt_without_a_response_is_refused():
    with pytest.raises(ValueError, match="no response"):
        win_rate([[]], [[1.0]])


def test_tau_of_small_groups():
    assert tau_b([1, 2, 3], [10, 20, 30]) == pytest.approx(1.0)
    assert tau_b([1, 2, 3], [30, 20, 10]) == pytest.approx(-1.0)
    assert tau_b([1, 2, 3], [10, 30, 20]) == pytest.approx((2 - 1) / 3)
    # One tie among the scores: (concordant - discordant) / sqrt(all pairs * untied pairs).
    assert tau_b([1, 2, 3], [10, 10, 20]) == pytest.approx(2 / math.sqrt(3 * 2))


def test_groups_without_a_tau_are_skipped_and_counted():
    values, scores = [[1, 2], [1, 2], [1, 1], [1], [3, 4]], [[1, 2], [2, 1], [1, 2], [1], [5, 5]]
    agreement = mean_agreement(list(map(tau_b, values, scores)), seed=0)
    assert (agreement.mean, agreement.groups, agreement.skipped) == (0.0, 2, 3)


def test_no_group_with_a_tau():
    agreement = mean_agreement([None, None], seed=0)
    assert (agreement.mean, agreement.groups, agreement.skipped) == (None, 0, 2)


def test_groups_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="2 policy values but 1 teacher scores"):
        tau_b([1, 2], [1])
