"""Divergences between the teacher's and the student's next-token distributions, in nats.

Axes: **V** vocabulary; the leading axes are tokens. ``p`` is the teacher's distribution and ``q``
the student's, both ``softmax(logits / temperature)``. Every function multiplies by temperature
squared, so that the gradient of the soft targets keeps its size when the temperature changes
(Hinton et al. 2015, arXiv:1503.02531, section 2.1): for `forward_kl` it is ``T (q - p)``.

    (student_logits [..., V], teacher_logits [..., V], temperature) -> [...]

All are pure, differentiable, computed in at least float32, and send no gradient to the teacher. A
logit of minus infinity is probability 0: it adds nothing where ``0 log 0`` stands, and an infinite
divergence where the other distribution needs it.

>>> student, teacher = torch.tensor([0.0, 0.0]), torch.tensor([0.0, math.log(3)])
>>> round(forward_kl(student, teacher).item(), 6)  # log 2 - H(1/4, 3/4)
0.130812
>>> round(reverse_kl(student, teacher).item(), 6)  # log(4) - log(3) / 2 - log 2
0.143841
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from rankdistill.errors import UserError, suggest


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """[...] ``T^2 KL(p || q)``: the student has to cover whatever the teacher may say.

    student_logits, teacher_logits: [..., V], any float type. ValueError: shapes differ or T <= 0.
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    return _kl(log_p, log_q) * temperature**2


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """[...] ``T^2 KL(q || p)``: the student avoids what the teacher would not say (mode seeking).

    student_logits, teacher_logits: [..., V], any float type. ValueError: shapes differ or T <= 0.
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    return _kl(log_q, log_p) * temperature**2


def jsd(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, beta: float = 0.5
) -> Tensor:
    """[...] ``T^2 (beta KL(p || m) + (1 - beta) KL(q || m))`` with ``m = beta p + (1 - beta) q``.

    The generalised Jensen-Shannon divergence of GKD (Agarwal et al. 2024, arXiv:2306.13649, eq. 1).
    Symmetric and at most ``T^2 log 2`` at beta 0.5. The formula vanishes at both ends; as in GKD
    and TRL, beta 0 is `forward_kl` and beta 1 `reverse_kl` (the limits of JSD / beta and JSD / (1 -
    beta)). TRL's version has no T^2.

    student_logits, teacher_logits: [..., V]. ValueError: shapes differ, T <= 0, beta outside [0,
    1].
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta is a weight in [0, 1], not {beta}")
    if beta == 0.0:
        return forward_kl(student_logits, teacher_logits, temperature)
    if beta == 1.0:
        return reverse_kl(student_logits, teacher_logits, temperature)
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    log_m = _log_mix(log_p, log_q, beta)
    return (beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)) * temperature**2


def skew_forward_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, skew: float = 0.1
) -> Tensor:
    """[...] ``T^2 KL(p || skew p + (1 - skew) q)``: forward KL with a bounded gradient.

    DistiLLM (Ko et al. 2024, arXiv:2402.03898, eq. 5). The authors' code returns its cross-entropy
    part only, which has the same gradient but is not 0 where p equals q; this is the whole
    divergence.

    student_logits, teacher_logits: [..., V]. ValueError: shapes differ, T <= 0, skew outside [0,
    1).
    """
    _check_skew(skew)
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    return _kl(log_p, _log_mix(log_p, log_q, skew)) * temperature**2


def skew_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, skew: float = 0.1
) -> Tensor:
    """[...] ``T^2 KL(q || (1 - skew) p + skew q)`` (DistiLLM, see `skew_forward_kl`).

    student_logits, teacher_logits: [..., V]. ValueError: shapes differ, T <= 0, skew outside [0,
    1).
    """
    _check_skew(skew)
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    return _kl(log_q, _log_mix(log_q, log_p, skew)) * temperature**2


def total_variation(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> Tensor:
    """[...] ``T^2 (1/2) sum_v |p_v - q_v|``, in [0, T^2] (Wen et al. 2023, arXiv:2307.15190, eq.
    9).

    student_logits, teacher_logits: [..., V]. ValueError: shapes differ or T <= 0.
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature)
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(dim=-1) * temperature**2


DIVERGENCES = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
}
"""The names that `warmup.divergence` and `train.divergence` take."""

WEIGHTS = {"jsd": "beta", "skew_forward_kl": "skew", "skew_reverse_kl": "skew"}
"""The weight that a name may bring along, as in ``jsd:0.1``."""


def divergence_named(name: str, key: str = "warmup.divergence") -> Callable[..., Tensor]:
    """The function of a name of `DIVERGENCES`, its weight after a colon: ``jsd:0.1``.

    UserError, which calls it `key`: there is no such divergence, or the weight is none that it
    takes.
    """
    kind, _, weight = name.partition(":")
    if kind not in DIVERGENCES:
        raise UserError(f"{key} '{kind}' is unknown: {suggest(kind, DIVERGENCES)}")
    if not weight:
        return DIVERGENCES[kind]
    if kind not in WEIGHTS:
        raise UserError(f"{key}={name}: {kind} has no weight; {', '.join(WEIGHTS)} have one.")
    try:
        found = partial(DIVERGENCES[kind], **{WEIGHTS[kind]: float(weight)})
        found(torch.zeros(2), torch.zeros(2))
    except ValueError:
        raise UserError(
            f"{key}={name}: '{weight}' is no {WEIGHTS[kind]}, a number from 0 to 1."
        ) from None
    return found


def shared_vocabulary(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Both logits cut to the ids that both models have: [..., min(V_student, V_teacher)] views.

    For models of one tokenizer whose embedding tables are padded to different sizes (Qwen2.5:
    151,936 rows up to 3B, 152,064 from 7B on, 151,665 tokens). The softmax then runs over the
    shared ids, so each distribution is conditional on them. Filling up with zero logits instead
    would give ids that do not exist a probability of ``exp(0) / Z``; rows that both tables have
    stay in, so that the student learns not to use them.

    >>> cut, _ = shared_vocabulary(torch.zeros(2, 6), torch.zeros(2, 8))
    >>> cut.shape
    torch.Size([2, 6])
    """
    size = min(student_logits.shape[-1], teacher_logits.shape[-1])
    return student_logits[..., :size], teacher_logits[..., :size]


def _log_probs(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    if student.shape != teacher.shape:
        raise ValueError(
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} logits differ in "
            "shape; for tables of one tokenizer padded to two sizes use shared_vocabulary()"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    return _log_softmax(student, temperature), _log_softmax(teacher.detach(), temperature)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """[...] KL(a || b) of log-probabilities [..., V]; ``0 log 0`` is 0."""
    ratio = (log_a - log_b).masked_fill(log_a == -math.inf, 0.0)
    return (log_a.exp() * ratio).sum(dim=-1)


def _log_mix(log_a: Tensor, log_b: Tensor, weight: float) -> Tensor:
    """log(weight a + (1 - weight) b)."""
    if weight == 0.0:
        return log_b
    log_a, log_b = log_a + math.log(weight), log_b + math.log1p(-weight)
    absent = (log_a == -math.inf) & (log_b == -math.inf)  # logaddexp's gradient there is NaN
    return torch.logaddexp(log_a.masked_fill(absent, 0.0), log_b).masked_fill(absent, -math.inf)


def _check_skew(skew: float) -> None:
    if not 0.0 <= skew < 1.0:
        raise ValueError(f"skew is a weight in [0, 1), not {skew}")
