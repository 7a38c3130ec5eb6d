"""The length-controlled win rate against closed forms, a simulation and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from rankdistill.suites.alpaca_eval import length_controlled


def test_equal_lengths_leave_the_win_rate_as_it_is():
    shares = [1.0, 0.5, 0.0, 1.0, 1.0]
    found = length_controlled(shares, [10.0] * 5, [4.0] * 5)
    assert found.mean == pytest.approx(0.7, abs=1e-3)
    assert found.low is not None and found.low < 0.7 < found.high


def test_it_finds_the_rate_that_data_were_drawn_with():
    draw = np.random.default_rng(0)
    baseline = draw.integers(100, 2000, 6000).astype(float)
    lengths = baseline + draw.normal(300, 500, 6000)
    differences = lengths - baseline
    logits = -0.4 + 1.5 * np.tanh(differences / differences.std())
    shares = (draw.random(6000) < expit(logits)).astype(float)
    found = length_controlled(shares, lengths, baseline)
    assert shares.mean() > expit(-0.4) + 0.05  # the raw rate is inflated by length
    assert found.low < expit(-0.4) < found.high and found.high - found.low < 0.06


def test_a_judge_of_length_alone_prefers_nobody_at_equal_length():
    lengths = np.array([30.0, 50.0, 70.0, 90.0, 20.0, 60.0])
    shares = (lengths > 40).astype(float)
    found = length_controlled(shares, lengths, [40.0] * 6)
    assert abs(found.mean - 0.5) < abs(shares.mean() - 0.5)


def test_it_is_the_logistic_regression_of_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model")
    draw = np.random.default_rng(1)
    lengths, baseline = draw.integers(10, 200, (2, 300)).astype(float)
    shares = draw.choice([0.0, 0.5, 0.75, 1.0], 300)
    d = lengths - baseline
    x = np.tanh(d / d.std())[:, None]
    model = linear_model.LogisticRegression(C=1.0, tol=1e-10)
    both = np.concatenate([x, x])
    labels = np.repeat([1, 0], 300)
    model.fit(both, labels, sample_weight=np.concatenate([shares, 1 - shares]))
    found = length_controlled(shares, lengths, baseline)
    assert found.mean == pytest.approx(float(expit(model.intercept_[0])), abs=1e-4)


def test_without_data_there_is_no_rate():
    with pytest.raises(ValueError, match="one share and two lengths"):
        length_controlled([], [], [])
