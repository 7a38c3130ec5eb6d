"""The chunked distillation head against the loss written out on whole logits, in float64."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import build_model
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from rankdistill.forward import LMHead, TokenGroup, bind, collate
from rankdistill.objectives.divergences import DIVERGENCES
from rankdistill.warmup import head as head_module
from rankdistill.warmup.head import DistillationHead, HiddenRows, TeacherRows


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(head_module, "BLOCK_VALUES", 259 * 2)  # two rows at a time


def rows(count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, 259, (length,), generator=generator).tolist()

    return [TokenGroup(ids(2, 9), [ids(1, 7)]) for _ in range(count)]


def pair(architecture="llama", **options):
    student = build_model(architecture, layers=2, seed=1, **options).double()
    return bind(student), bind(build_model(architecture, seed=2, **options).double())


def whole(student, teacher, groups, name, temperature, alpha):
    """The sum over response tokens, from the whole logits of every row by itself."""
    total = torch.zeros((), dtype=torch.float64)
    for group in groups:
        ids = torch.tensor([[*group.prompt, *group.responses[0]]])
        tail = slice(len(group.prompt) - 1, -1)
        z = student(input_ids=ids).logits[0, tail]
        with torch.no_grad():
            v = teacher(input_ids=ids).logits[0, tail]
        size = min(z.shape[1], v.shape[1])
        kl = DIVERGENCES[name](z[:, :size], v[:, :size], temperature).sum()
        ce = cross_entropy(z, torch.tensor(group.responses[0]), reduction="sum")
        total = total + alpha * kl + (1 - alpha) * ce
    return total


def chunked(student, teacher, groups, name="forward_kl", temperature=1.0, alpha=1.0, chunk_rows=3):
    batch = collate(groups, "shared")
    with torch.no_grad():
        hidden, lm_head, _ = teacher(group_batch=batch, head=HiddenRows())
    target = TeacherRows(hidden, lm_head, name, temperature)
    return student(
        group_batch=batch, head=DistillationHead(target, alpha, 1 - alpha, chunk_rows=chunk_rows)
    )


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same(found, expected, atol=1e-10):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        # transformers' RMSNorm computes in float32, in both ways of running the backbone
        bound = atol if name.startswith("lm_head") else 2e-6
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=bound, msg=name)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_loss_and_gradients_are_those_of_whole_logits(name, temperature):
    student, teacher = pair(tied=False)
    expected = whole(student, teacher, rows(), name, temperature, 0.7)
    expected_gradients = gradients(student, expected)
    sums = chunked(student, teacher, rows(), name, temperature, 0.7)
    assert math.isclose(sums.loss.item(), expected.item(), rel_tol=1e-7)
    assert math.isclose(
        sums.loss.item(), (0.7 * sums.divergence + 0.3 * sums.cross_entropy).item(), rel_tol=1e-12
    )
    assert_same(gradients(student, sums.loss), expected_gradients)


class FixedRows:
    """A batch as far as the head looks at it."""

    def __init__(self, targets):
        self.targets = targets


@pytest.mark.parametrize("kind", ["plain", "bias", "scaled", "frozen", "sharded"])
@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_exact_from_the_hidden_states_on(kind, alpha):
    """1e-10 in float64, from hidden states that need no RMSNorm: every kind of output layer."""
    student, teacher = build_model(layers=1, seed=1).double(), build_model(seed=2).double()
    layer = torch.nn.Linear(32, 259, bias=kind == "bias", dtype=torch.float64)
    layer.requires_grad_(kind != "frozen")
    if kind == "sharded":  # as ZeRO-3 marks a weight: its layer is called where autograd sees it
        layer.weight.ds_id = 0  # type: ignore[attr-defined]
    student.set_output_embeddings(layer)
    lm_head = LMHead(student, linear=kind != "scaled")
    if kind == "scaled":
        scaled = type(
            "Scaled", (LMHead,), {"__call__": lambda self, h: 30 * (layer(h) / 30).tanh()}
        )
        lm_head = scaled(student, linear=False)
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(11, 32, generator=generator, dtype=torch.float64, requires_grad=True)
    taught = torch.randn(11, 32, generator=generator, dtype=torch.float64)
    batch = FixedRows(torch.randint(0, 259, (11,), generator=generator))
    target = TeacherRows(taught, LMHead(teacher, linear=True), "forward_kl", 2.0)

    z, v = lm_head(hidden), teacher.lm_head(taught).detach()
    kl = DIVERGENCES["forward_kl"](z, v, 2.0)
    expected = (alpha * kl + (1 - alpha) * cross_entropy(z, batch.targets, reduction="none")).sum()
    inputs = [hidden, *(p for p in layer.parameters() if p.requires_grad)]
    expected_gradients = torch.autograd.grad(expected * 3, inputs)
    for chunk_rows in (1, 4, 256):
        sums = DistillationHead(target, alpha, 1 - alpha, chunk_rows=chunk_rows)(
            hidden, lm_head, batch
        )
        torch.testing.assert_close(sums.loss, expected, rtol=1e-12, atol=0)
        # What is logged beside the loss has no gradient, and cannot be trained on by mistake.
        assert not sums.divergence.requires_grad and not sums.cross_entropy.requires_grad
        found = torch.autograd.grad(sums.loss * 3, inputs)
        torch.testing.assert_close(found, expected_gradients, rtol=0, atol=1e-10)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_micro_batches_add_up(architecture):
    student, teacher = pair(architecture)
    groups = rows(6)
    together = gradients(student, chunked(student, teacher, groups).loss)
    student.zero_grad()
    for start in (0, 1, 4):
        part = groups[start : {0: 1, 1: 4, 4: 6}[start]]
        chunked(student, teacher, part, chunk_rows=256).loss.backward()
    apart = {name: p.grad for name, p in student.named_parameters()}
    assert_same(apart, together)


def test_tables_of_two_sizes_are_cut_to_the_shared_ids():
    student, teacher = pair(tied=False)
    bigger = torch.nn.Linear(32, 263, bias=False, dtype=torch.float64)
    bigger.weight.data[:259] = teacher.lm_head.weight.data
    bigger.weight.data[259:] += 5.0
    expected = chunked(student, teacher, rows())
    own_table, teacher.lm_head = teacher.lm_head, bigger
    cut = chunked(student, teacher, rows())
    torch.testing.assert_close(cut.loss, expected.loss, rtol=1e-12, atol=0)
    student.lm_head, teacher.lm_head = bigger, own_table
    wanted = whole(student, teacher, rows(), "forward_kl", 1.0, 0.5)
    found = chunked(student, teacher, rows(), alpha=0.5)
    torch.testing.assert_close(found.loss, wanted, rtol=1e-6, atol=0)


def test_equal_models_have_no_divergence_and_no_gradient():
    student, _ = pair()
    sums = chunked(student, student, rows(), temperature=2.0)
    assert abs(sums.divergence.item()) < 1e-10
    assert max(g.abs().max() for g in gradients(student, sums.loss).values()) < 1e-10


def test_without_gradients_and_the_teacher_stays_untouched():
    student, teacher = pair()
    with torch.no_grad():
        evaluated = chunked(student, teacher, rows(), alpha=0.3)
    trained = chunked(student, teacher, rows(), alpha=0.3)
    assert not evaluated.loss.requires_grad
    torch.testing.assert_close(evaluated.loss, trained.loss.detach(), rtol=1e-12, atol=0)
    trained.loss.backward()
    assert all(p.grad is None for p in teacher.parameters())
    with pytest.raises(RuntimeError, match="once"):
        trained.loss.backward()


def test_bfloat16_autocast_keeps_the_loss_in_float32():
    student, teacher = (model.float() for model in pair())
    exact = chunked(student, teacher, rows())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = chunked(student, teacher, rows())
    assert low.loss.dtype == torch.float32
    torch.testing.assert_close(low.loss, exact.loss, rtol=0.05, atol=0.05)
    low.loss.backward()
    assert all(p.grad.isfinite().all() for p in student.parameters())


def test_bfloat16_weights_have_gradients_of_a_float32_loss():
    student, teacher = (model.float() for model in pair(tied=False))
    exact = chunked(student, teacher, rows())
    expected = gradients(student, exact.loss)["lm_head.weight"]
    low = chunked(student.bfloat16(), teacher.bfloat16(), rows())
    assert low.loss.dtype == torch.float32
    torch.testing.assert_close(low.loss, exact.loss, rtol=0.05, atol=0.05)
    found = gradients(student, low.loss)["lm_head.weight"]
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.05 * expected.norm()


class Launches(TorchDispatchMode):
    """Counts operations that an accelerator would start a kernel for; views start none."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        of = [returned.alias_info for returned in func._schema.returns]
        self.count += not any(alias is not None and not alias.is_write for alias in of)
        return func(*args, **(kwargs or {}))


def test_an_accelerator_is_started_few_times_for_many_tokens():
    """4,096 rows of 151,936 logits: in blocks of a CPU's size there would be 12,000 kernels."""
    rows, vocabulary = 4096, 151_936
    hidden = torch.empty(rows, 8, device="meta")
    teacher = torch.empty(rows, vocabulary, device="meta")

    class Target:
        def open(self, rows):
            return lambda logits, block: DIVERGENCES["forward_kl"](
                logits, teacher[rows][block], 2.0
            )

    head = DistillationHead(Target(), 1.0)
    chunks = head.chunks(hidden, SimpleNamespace(vocabulary=vocabulary))  # type: ignore[arg-type]
    with Launches() as launches:
        for chunk in chunks:
            logits = torch.empty_like(teacher[chunk])
            targets = torch.empty(len(logits), dtype=torch.long, device="meta")
            head_module._work_out(head, logits, targets, head.target.open(chunk), True)
    assert len(chunks) == 3 and 100 < launches.count <= 500


def test_a_layer_is_recorded_in_the_forward_that_was_asked_for_alone():
    """Checkpointing computes it again in the backward pass, when nobody takes what it returns."""
    layer, states = torch.nn.Linear(4, 3), torch.randn(1, 5, 4)
    recorder = head_module.Recorder({"layer": layer})
    batch: Any = SimpleNamespace(predictors=torch.tensor([3, 0]))
    layer(states)
    assert recorder.take(batch) == {}
    recorder.arm()
    made = layer(states)
    taken = recorder.take(batch)
    torch.testing.assert_close(taken, {"layer": made[0, [3, 0]]})
    layer(states)
    assert recorder.take(batch) == {}


def test_low_rank_adapter_on_the_output_layer_is_trained():
    from peft import LoraConfig, get_peft_model

    student, teacher = pair(tied=False)
    adapted = get_peft_model(student, LoraConfig(r=2, target_modules=["lm_head", "q_proj"]))
    sums = chunked(adapted, teacher, rows())
    expected = whole(adapted, teacher, rows(), "forward_kl", 1.0, 1.0)
    trained = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(sums.loss, list(trained.values()))
    wanted = torch.autograd.grad(expected, list(trained.values()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6)
