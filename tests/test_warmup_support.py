"""Stored supports: bounds, equality at k = V, and the bits they are kept in."""

from __future__ import annotations

import math

import pytest
import torch

from rankdistill.objectives.divergences import DIVERGENCES, forward_kl
from rankdistill.warmup.support import SupportRows, support
from rankdistill.warmup.teacher_cache import bits_for, pack, packed_size, unpack

TEMPERATURES = (1.0, 2.0, 4.0)


def logits(seed, rows=40, vocabulary=50):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)


def on_support(student, teacher, k, name, temperature):
    kept = support(teacher, k, TEMPERATURES)
    tail = kept.log_tail[:, TEMPERATURES.index(temperature)]
    rows = SupportRows(kept.ids, kept.values, tail, name, temperature, teacher.shape[1])
    return rows.open(slice(None))(student, slice(None))


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_never_above_the_full_divergence_and_equal_at_k_v(name, temperature):
    student, teacher = logits(0).requires_grad_(), logits(1)
    full = DIVERGENCES[name](student, teacher, temperature)
    previous = torch.zeros_like(full)
    for k in (1, 2, 8, 25, 49):
        part = on_support(student, teacher, k, name, temperature)
        assert (part <= full + 1e-12).all() and (part >= previous - 1e-12).all()
        previous = part.detach()
    whole = on_support(student, teacher, 50, name, temperature)
    torch.testing.assert_close(whole, full, rtol=0, atol=1e-10)
    gradients = [torch.autograd.grad(value.sum(), student)[0] for value in (whole, full)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_value_and_gradient_of_the_bucket_are_those_of_merged_probabilities(temperature):
    student, teacher = logits(0, 6, 9).requires_grad_(), logits(1, 6, 9)
    value = on_support(student, teacher, 3, "forward_kl", temperature)
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for row in range(6):
        order = p[row].argsort(descending=True)
        merged = [torch.stack([*x[row][order[:3]], x[row][order[3:]].sum()]) for x in (p, q)]
        expected = temperature**2 * (merged[0] * (merged[0] / merged[1]).log()).sum()
        torch.testing.assert_close(value[row], expected, rtol=0, atol=1e-10)
        total = total + expected
    found, wanted = (torch.autograd.grad(x, student)[0] for x in (value.sum(), total))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_the_worked_example_of_the_top_two():
    """Merging gives a bound; renormalising the two would not."""
    teacher = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64)
    student = torch.tensor([[0.25, 0.25, 0.3, 0.2]], dtype=torch.float64)
    found = on_support(student.log(), teacher.log(), 2, "forward_kl", 1.0).item()
    merged = sum(p * math.log(p / q) for p, q in [(0.5, 0.25), (0.3, 0.25), (0.2, 0.5)])
    assert math.isclose(found, merged, rel_tol=1e-12)
    assert found <= forward_kl(student.log(), teacher.log()).item()


def test_float16_values_still_make_a_distribution_near_the_full_one():
    student, teacher = logits(0).float(), logits(1).float()
    kept = support(teacher, 30, (2.0,))
    rounded = SupportRows(kept.ids, kept.values.half(), kept.log_tail[:, 0], "forward_kl", 2.0, 50)
    exact = SupportRows(kept.ids, kept.values, kept.log_tail[:, 0], "forward_kl", 2.0, 50)
    values = [rows.open(slice(None))(student, slice(None)) for rows in (rounded, exact)]
    torch.testing.assert_close(values[0], values[1], rtol=2e-3, atol=1e-4)
    assert (rounded.open(slice(None))(teacher, slice(None)) >= -1e-6).all()


def test_extreme_teachers_are_finite():
    teacher = torch.tensor([[1e4, 0.0, -1e4, 0.0], [0.0, 0.0, 0.0, 0.0]])
    student = torch.zeros(2, 4, requires_grad=True)
    kept = support(teacher, 2, (1.0,))
    for name in DIVERGENCES:
        rows = SupportRows(kept.ids, kept.values, kept.log_tail[:, 0], name, 1.0, 4)
        value = rows.open(slice(None))(student, slice(None))
        assert value.isfinite().all(), name
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all(), name


@pytest.mark.parametrize("vocabulary", [2, 259, 49_152, 65_536, 65_537, 152_064])
@pytest.mark.parametrize("k", [1, 7, 64])
def test_packed_ids_round_trip(vocabulary, k):
    generator = torch.Generator().manual_seed(k)
    ids = torch.randint(0, vocabulary, (33, k), generator=generator)
    ids[0] = vocabulary - 1
    bits = bits_for(vocabulary)
    packed = pack(ids, bits)
    assert packed.shape == (33, packed_size(k, bits)) and packed.dtype == torch.uint8
    assert torch.equal(unpack(packed, k, bits), ids)


def test_bits():
    assert [bits_for(v) for v in (2, 3, 49_152, 65_536, 65_537, 152_064)] == [1, 2, 16, 16, 17, 18]
