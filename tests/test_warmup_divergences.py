"""Divergences against sums written out in probabilities, in float64, with gradients."""

from __future__ import annotations

import doctest
import math
from functools import partial

import pytest
import torch

from rankdistill.errors import UserError
from rankdistill.objectives import divergences as d

TEMPERATURES = [1.0, 2.0, 4.0]


def softmax(logits, temperature):
    weights = [math.e ** (z / temperature) for z in logits]
    return [w / sum(weights) for w in weights]


def kl(a, b):
    return sum(x * (x / y).log() for x, y in zip(a, b, strict=True))


def mix(a, b, weight):
    return [weight * x + (1 - weight) * y for x, y in zip(a, b, strict=True)]


# name -> (ours, the definition in probabilities of one token; p teacher, q student)
DEFINITIONS = {
    "forward_kl": (d.forward_kl, lambda p, q: kl(p, q)),
    "reverse_kl": (d.reverse_kl, lambda p, q: kl(q, p)),
    "jsd": (d.jsd, lambda p, q: (kl(p, mix(p, q, 0.5)) + kl(q, mix(p, q, 0.5))) / 2),
    "jsd_0.2": (
        partial(d.jsd, beta=0.2),
        lambda p, q: 0.2 * kl(p, mix(p, q, 0.2)) + 0.8 * kl(q, mix(p, q, 0.2)),
    ),
    "skew_forward_kl": (d.skew_forward_kl, lambda p, q: kl(p, mix(p, q, 0.1))),
    "skew_reverse_kl": (d.skew_reverse_kl, lambda p, q: kl(q, mix(q, p, 0.1))),
    "total_variation": (
        d.total_variation,
        lambda p, q: sum((x - y).abs() for x, y in zip(p, q, strict=True)) / 2,
    ),
}


def logits(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(*shape, generator=generator, dtype=dtype)


@pytest.fixture(params=DEFINITIONS)
def divergence(request):
    return DEFINITIONS[request.param][0]


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", DEFINITIONS)
def test_value_and_gradient_are_the_definitions(name, temperature):
    ours, definition = DEFINITIONS[name]
    student, teacher = logits(2, 3, 7).requires_grad_(), logits(2, 3, 7, seed=1)
    brute = student.detach().clone().requires_grad_()
    expected = torch.stack(
        [
            temperature**2
            * definition(softmax(teacher[b, t], temperature), softmax(brute[b, t], temperature))
            for b in range(2)
            for t in range(3)
        ]
    ).view(2, 3)
    weights = logits(2, 3, seed=2)
    value = ours(student, teacher, temperature)
    (value * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(student.grad, brute.grad, rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_forward_kl_gradient_is_temperature_times_q_minus_p(temperature):
    student, teacher = logits(5, 11).requires_grad_(), logits(5, 11, seed=1)
    d.forward_kl(student, teacher, temperature).sum().backward()
    q, p = ((z.detach() / temperature).softmax(-1) for z in (student, teacher))
    torch.testing.assert_close(student.grad, temperature * (q - p), rtol=0, atol=1e-12)


def test_not_negative_and_zero_only_where_equal(divergence):
    student, teacher = logits(200, 9), logits(200, 9, seed=1)
    assert (divergence(student, teacher, 2.0) > 1e-3).all()
    equal = student.clone().requires_grad_()
    value = divergence(equal, student + 5.0, 2.0)  # a constant on all logits changes nothing
    torch.testing.assert_close(value, torch.zeros(200, dtype=torch.float64), rtol=0, atol=1e-12)
    if divergence is not d.total_variation:  # |x| has no gradient at 0
        value.sum().backward()
        torch.testing.assert_close(equal.grad, torch.zeros_like(equal), rtol=0, atol=1e-12)


def test_the_teacher_receives_no_gradient(divergence):
    student, teacher = logits(4, 5).requires_grad_(), logits(4, 5, seed=1).requires_grad_()
    divergence(student, teacher, 1.0).sum().backward()
    assert student.grad is not None and teacher.grad is None


def test_jsd_ends_by_special_case_and_is_symmetric_and_bounded_at_a_half():
    student, teacher = logits(50, 9), logits(50, 9, seed=1)
    for temperature in TEMPERATURES:
        same = partial(torch.testing.assert_close, rtol=0, atol=0)
        same(d.jsd(student, teacher, temperature, 0.0), d.forward_kl(student, teacher, temperature))
        same(d.jsd(student, teacher, temperature, 1.0), d.reverse_kl(student, teacher, temperature))
        half = d.jsd(student, teacher, temperature)
        torch.testing.assert_close(half, d.jsd(teacher, student, temperature), rtol=0, atol=1e-12)
        assert (half <= temperature**2 * math.log(2)).all()


def test_jsd_approaches_its_special_cases():
    student, teacher = logits(20, 6) / 3, logits(20, 6, seed=1) / 3
    near = d.jsd(student, teacher, 1.0, 1e-6) / 1e-6
    torch.testing.assert_close(near, d.forward_kl(student, teacher), rtol=1e-4, atol=1e-6)
    near = d.jsd(student, teacher, 1.0, 1 - 1e-6) / 1e-6
    torch.testing.assert_close(near, d.reverse_kl(student, teacher), rtol=1e-4, atol=1e-6)


def test_skew_zero_is_the_plain_divergence():
    student, teacher = logits(20, 6), logits(20, 6, seed=1)
    for skewed, plain in [(d.skew_forward_kl, d.forward_kl), (d.skew_reverse_kl, d.reverse_kl)]:
        torch.testing.assert_close(skewed(student, teacher, 2.0, 0.0), plain(student, teacher, 2.0))


@pytest.mark.parametrize("divergence", [d.forward_kl, d.reverse_kl])
def test_hot_limit_is_half_the_mean_square_of_centred_logit_differences(divergence):
    student, teacher = logits(20, 8), logits(20, 8, seed=1)
    difference = (student - student.mean(-1, keepdim=True)) - (
        teacher - teacher.mean(-1, keepdim=True)
    )
    expected = difference.square().sum(-1) / (2 * 8)
    torch.testing.assert_close(divergence(student, teacher, 1e4), expected, rtol=1e-2, atol=1e-6)


def test_extreme_and_absent_tokens(divergence):
    student = torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]], dtype=torch.float64)
    value = divergence(student, teacher, 1.0)
    value.sum().backward()
    assert value.isfinite().all() and student.grad.isfinite().all()
    both = torch.tensor([[0.0, 1.0, -math.inf]], dtype=torch.float64, requires_grad=True)
    absent = divergence(both, torch.tensor([[2.0, 0.5, -math.inf]], dtype=torch.float64), 1.0)
    present = divergence(both[:, :2], torch.tensor([[2.0, 0.5]], dtype=torch.float64), 1.0)
    torch.testing.assert_close(absent, present)
    absent.sum().backward()
    assert both.grad.isfinite().all()


def test_what_the_other_needs_and_is_absent_is_infinite():
    everything, two = torch.zeros(3), torch.tensor([0.0, 0.0, -math.inf])
    assert d.forward_kl(two, everything).item() == math.inf
    assert d.reverse_kl(everything, two).item() == math.inf
    assert math.isclose(d.forward_kl(everything, two).item(), math.log(3 / 2), rel_tol=1e-6)
    assert math.isclose(d.total_variation(everything, two).item(), 1 / 3, rel_tol=1e-6)


def test_bfloat16_is_computed_in_float32(divergence):
    student, teacher = logits(6, 12), logits(6, 12, seed=1)
    low = divergence(student.bfloat16(), teacher.bfloat16(), 2.0)
    assert low.dtype == torch.float32
    exact = divergence(student.bfloat16().double(), teacher.bfloat16().double(), 2.0)
    torch.testing.assert_close(low.double(), exact, rtol=1e-5, atol=1e-5)


def test_shared_vocabulary_by_a_worked_example():
    """Four shared ids, two more rows in the teacher's table: not its rows, not zeros, count."""
    teacher = torch.log(torch.tensor([0.2, 0.1, 0.05, 0.05, 0.3, 0.3], dtype=torch.float64))
    student = torch.zeros(4, dtype=torch.float64)
    value = d.forward_kl(*d.shared_vocabulary(student, teacher))
    shared = [0.5, 0.25, 0.125, 0.125]  # the teacher's, given that the token is a shared one
    assert math.isclose(value.item(), sum(p * math.log(p / 0.25) for p in shared), rel_tol=1e-12)
    filled = d.forward_kl(torch.cat([student, torch.zeros(2, dtype=torch.float64)]), teacher)
    assert abs(filled.item() - value.item()) > 0.04  # what zero logits would have given
    with pytest.raises(ValueError, match="shared_vocabulary"):
        d.forward_kl(student, teacher)


def test_bad_arguments(divergence):
    student, teacher = logits(2, 4), logits(2, 4, seed=1)
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            divergence(student, teacher, temperature)
    with pytest.raises(ValueError, match="beta"):
        d.jsd(student, teacher, 1.0, 1.5)
    with pytest.raises(ValueError, match="skew"):
        d.skew_forward_kl(student, teacher, 1.0, 1.0)
    with pytest.raises(UserError, match="did you mean 'forward_kl'"):
        d.divergence_named("forwardkl")


def test_a_name_may_bring_its_weight():
    q, p = torch.randn(2, 5, 7, dtype=torch.float64)
    for name, found in (
        ("jsd:0.1", d.jsd(q, p, 2.0, 0.1)),
        ("jsd:0", d.forward_kl(q, p, 2.0)),
        ("skew_forward_kl:0.3", d.skew_forward_kl(q, p, 2.0, 0.3)),
        ("skew_reverse_kl:0.3", d.skew_reverse_kl(q, p, 2.0, 0.3)),
        ("jsd", d.jsd(q, p, 2.0, 0.5)),
    ):
        torch.testing.assert_close(d.divergence_named(name)(q, p, 2.0), found)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jsd:1.5", "'1.5' is no beta"),
        ("skew_forward_kl:1", "'1' is no skew"),
        ("jsd:half", "'half' is no beta"),
        ("forward_kl:0.5", "forward_kl has no weight"),
    ],
)
def test_a_weight_that_is_none(name, said):
    with pytest.raises(UserError, match=said):
        d.divergence_named(name)


def test_examples_in_the_docstrings():
    assert doctest.testmod(d).failed == 0
