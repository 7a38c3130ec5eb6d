"""Log-probabilities from hidden states: the linear head, any other head, types, frozen weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from forward_oracle import (
    assert_same_gradients,
    called_in_float64,
    gradients,
    lively_model,
    ragged_groups,
)
from tiny_models import build_model
from torch import nn

from rankdistill.forward import LMHead, TokenLogps, bind, collate, response_logps
from rankdistill.forward.head import rows_at_once
from rankdistill.forward.own_logits import only_linear


def rows_and_targets(model: nn.Module, count: int = 11) -> tuple[torch.Tensor, SimpleNamespace]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(count, 32, generator=generator).to(model.dtype).requires_grad_()
    targets = torch.randint(0, 259, (count,), generator=generator)
    return hidden, SimpleNamespace(targets=targets)


@pytest.mark.parametrize("architecture", ["llama", "phi", "granite", "cohere", "gemma2"])
def test_logits_are_the_models_own(architecture: str) -> None:
    model = lively_model(architecture)
    called_in_float64(model)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        hidden = model.base_model(input_ids=ids).last_hidden_state[0]
        logits = LMHead(model, only_linear(model))(hidden)
        torch.testing.assert_close(logits, model(input_ids=ids).logits[0], rtol=0, atol=1e-12)
    assert only_linear(model) == (architecture in ("llama", "phi"))


def test_the_linear_head_equals_the_general_one() -> None:
    model = lively_model("phi")
    hidden, batch = rows_and_targets(model)
    results = []
    for linear in (True, False):
        hidden.grad = None
        logps = TokenLogps(0.5, chunk_rows=4)(hidden, LMHead(model, linear), batch)
        results.append((logps, gradients(model, logps), hidden.grad))
    for found, expected in zip(results[0][::2], results[1][::2], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert_same_gradients(results[0][1], results[1][1], 1e-12)


@pytest.mark.parametrize("linear", [True, False])
def test_gradients_are_the_derivatives(linear: bool) -> None:
    model = lively_model("phi")
    hidden, batch = rows_and_targets(model, 3)
    head = LMHead(model, linear)
    logps = TokenLogps(0.7, chunk_rows=2)
    assert torch.autograd.gradcheck(lambda rows: logps(rows, head, batch), (hidden,))


def test_a_layer_of_which_a_part_is_elsewhere_is_not_whole() -> None:
    """As ZeRO-3 marks what it has cut into shards."""
    model = lively_model("phi")
    head = LMHead(model, only_linear(model))
    assert head.linear and model.lm_head.bias is not None
    model.lm_head.weight.ds_id = 0
    assert not head.whole and not head.linear


def test_a_second_backward_gives_the_same() -> None:
    """The kept logits are used up by the first: the second computes them again."""
    model = lively_model("llama")
    hidden, batch = rows_and_targets(model)
    total = TokenLogps(chunk_rows=4)(hidden, LMHead(model, True), batch).sum()
    wanted = (hidden, model.lm_head.weight)
    first = torch.autograd.grad(total, wanted, retain_graph=True)
    second = torch.autograd.grad(total, wanted)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_frozen_head_gets_no_gradient_and_passes_it_on() -> None:
    model = lively_model("phi")
    hidden, batch = rows_and_targets(model)
    head = LMHead(model, True)
    wanted = torch.autograd.grad(TokenLogps()(hidden, head, batch).sum(), hidden)[0]
    model.requires_grad_(False)
    logps = TokenLogps()(hidden, head, batch)
    logps.sum().backward()
    assert model.lm_head.weight.grad is None and model.lm_head.bias.grad is None
    torch.testing.assert_close(hidden.grad, wanted, rtol=0, atol=1e-12)


def test_without_gradients_nothing_is_kept() -> None:
    model = lively_model("llama")
    hidden, batch = rows_and_targets(model)
    for linear in (True, False):
        with torch.no_grad():
            logps = TokenLogps(chunk_rows=4)(hidden, LMHead(model, linear), batch)
        assert not logps.requires_grad
        logits = hidden @ model.lm_head.weight.t()
        expected = logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
        torch.testing.assert_close(logps, expected.detach(), rtol=0, atol=1e-12)


def test_half_precision_sums_in_float32() -> None:
    groups = ragged_groups()
    model = build_model("llama").bfloat16()
    result = response_logps(bind(model), collate(groups))
    assert result.logps.dtype == result.token_logps.dtype == torch.float32
    exact = response_logps(bind(build_model("llama").bfloat16().float()), collate(groups))
    torch.testing.assert_close(result.token_logps, exact.token_logps, rtol=0, atol=0.1)
    result.logps.sum().backward()
    assert all(p.grad.dtype == torch.bfloat16 for p in model.parameters())


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_autocast_computes_in_its_type_and_keeps_the_weights(architecture: str) -> None:
    groups = ragged_groups()
    model = bind(build_model(architecture))
    exact = response_logps(model, collate(groups)).token_logps
    wanted = gradients(model, exact)
    for layout in ("shared", "packed", "padded"):
        with torch.autocast("cpu", torch.bfloat16):
            logps = response_logps(model, collate(groups, layout)).token_logps
        assert logps.dtype == torch.float32
        torch.testing.assert_close(logps, exact, rtol=0, atol=0.1)
        found = gradients(model, logps)
        assert all(gradient.dtype == torch.float32 for gradient in found.values())
        error = sum((found[n] - wanted[n]).square().sum() for n in wanted).sqrt()
        assert error < 0.05 * sum(g.square().sum() for g in wanted.values()).sqrt()


def test_a_head_of_ones_own_runs_inside_the_forward() -> None:
    groups = ragged_groups()
    model = bind(lively_model("gemma2"))
    batch = collate(groups)

    def entropy(hidden, lm_head, batch):
        logps = lm_head(hidden).log_softmax(-1)
        return -(logps.exp() * logps).sum(-1)

    shared = model(group_batch=batch, head=entropy)
    padded = model(group_batch=batch.in_layout("padded"), head=entropy)
    assert shared.shape == batch.targets.shape
    torch.testing.assert_close(shared, padded, rtol=0, atol=1e-10)


def test_an_accelerator_computes_as_many_rows_as_a_gibibyte_of_logits_has() -> None:
    assert rows_at_once(256, torch.device("cpu"), 151_936) == 256
    assert rows_at_once(256, torch.device("cuda"), 151_936) == 2**30 // (4 * 151_936) == 1766
    assert rows_at_once(256, torch.device("cuda"), 2_000_000) == 256
