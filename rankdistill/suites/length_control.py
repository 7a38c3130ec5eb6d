"""The length-controlled win rate (Dubois et al. 2024, arXiv:2404.04475).

A logistic regression of the judge's preferences on the difference in length tells what would be
preferred if both responses were equally long. Their model of a preference for m over the baseline b
on the instruction x, equation 2, is

    logit P(m over b | x) = theta_m + phi_m * tanh(d / std(d)) + psi_m * gamma_x,  d = len_m - len_b

with gamma_x, the difficulty of x, estimated once from all models of their leaderboard; the
controlled win rate sets the length term to 0 and averages over x. We have no leaderboard, so the
term of difficulty is left out, and the average is P at theta alone. As theirs, phi is regularised:
by a standard normal prior, which matters where preferences and lengths separate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from rankdistill.statistics import Interval

_Z = 1.959963984540054
_THETA_PRECISION = 1e-3
"""Of a weak prior that keeps theta finite where everything is won; it moves no rate visibly."""


def length_controlled(
    shares: Sequence[float], lengths: Sequence[float], baseline_lengths: Sequence[float]
) -> Interval:
    """The win rate at equal length, and its 95 % interval.

    The interval is Wald's on the logit with a robust (sandwich) variance, since shares may be
    fractions.

    Args:
        shares: Preference for the model, in [0, 1], one per instruction.
        lengths: Of its responses, characters.
        baseline_lengths: Of the baseline's.

    Raises:
        ValueError: no instruction, or different numbers of them.
    """
    y = np.asarray(shares, dtype=np.float64)
    if not len(shares) == len(lengths) == len(baseline_lengths) or not len(shares):
        raise ValueError("a length-controlled win rate needs one share and two lengths each")
    x = _length_term(np.asarray(lengths, float) - np.asarray(baseline_lengths, float))
    design = np.stack([np.ones_like(x), x], axis=1)
    prior = np.array([_THETA_PRECISION, 1.0])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logits = design @ weights
        value = np.logaddexp(0.0, logits) - y * logits
        slope = design.T @ (expit(logits) - y) + prior * weights
        return float(value.sum() + 0.5 * (prior * weights**2).sum()), slope

    theta, phi = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    mean = float(expit(theta))
    if len(y) == 1:
        return Interval(mean, None, None)
    rates = expit(design @ np.array([theta, phi]))
    bread = np.linalg.inv((design.T * (rates * (1 - rates))) @ design + np.diag(prior))
    meat = (design.T * (y - rates) ** 2) @ design
    error = math.sqrt(float((bread @ meat @ bread)[0, 0]))
    return Interval(mean, float(expit(theta - _Z * error)), float(expit(theta + _Z * error)))


def _length_term(differences: np.ndarray) -> np.ndarray:
    """tanh of the differences over their standard deviation; 0 where all are the same.

    Lengths that always differ by the same amount cannot be told apart from the model.
    """
    spread = float(differences.std())
    return np.tanh(differences / spread) if spread > 0 else np.zeros_like(differences)
