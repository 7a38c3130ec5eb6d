"""What the grouped forward is held against: one sequence at a time, full logits, plain attention.

Everything runs in float64, so norms that transformers computes in float32 are swapped for ones in
float64, and attention is written out instead of taken from torch.
"""

from __future__ import annotations

import copy
import types

import pytest
import torch
from tiny_models import build_model
from torch import Tensor, nn
from transformers import AttentionInterface

from rankdistill.forward import TokenGroup, bind


def _numbers(generator: torch.Generator, count: int) -> list[int]:
    return torch.randint(3, 250, (count,), generator=generator).tolist()


def ragged_groups(seed: int = 0) -> list[TokenGroup]:
    """Prompts of 1 to 13 tokens with 1 to 4 responses of 1 to 9 tokens, two of them identical."""
    generator = torch.Generator().manual_seed(seed)
    twice = _numbers(generator, 6)
    shapes = [(11, (5, 1, 9)), (1, (4,)), (13, (3, 3)), (4, (1,)), (6, (2, 7, 1, 4))]
    groups = [
        TokenGroup(_numbers(generator, prompt), [_numbers(generator, n) for n in responses])
        for prompt, responses in shapes
    ]
    return [*groups, TokenGroup(_numbers(generator, 7), [twice, _numbers(generator, 2), twice])]


def oracle_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Causal attention over whole rows, from the definition."""
    groups, length = query.shape[1] // key.shape[1], query.shape[2]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key)
    scores = scores * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    for q in range(length):
        first = 0 if sliding_window is None else max(0, q - sliding_window + 1)
        hidden = [k for k in range(length) if not first <= k <= q]
        scores[:, :, q, hidden] = -torch.inf
    return torch.einsum("bhqk,bhkd->bqhd", scores.softmax(-1), value), None


AttentionInterface.register("oracle", oracle_attention)


def _rms_norm(self: nn.Module, x: Tensor) -> Tensor:
    offset = 1.0 if "Gemma" in type(self).__name__ else 0.0
    eps = self.variance_epsilon if hasattr(self, "variance_epsilon") else self.eps
    return x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * (self.weight + offset)


def _layer_norm(self: nn.Module, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt() * self.weight


def exact(model: nn.Module) -> nn.Module:
    """The model in float64, norms included."""
    model.config._experts_implementation = "eager"  # grouped matrix products know no float64
    for module in model.modules():
        name = type(module).__name__
        if name.endswith("RMSNorm"):
            module.forward = types.MethodType(_rms_norm, module)
        elif name == "CohereLayerNorm":
            module.forward = types.MethodType(_layer_norm, module)
    if model.config.model_type == "gemma2":
        # Bound, it has our soft cap; transformers' eager would round the softmax to float32.
        model.config._attn_implementation = "sdpa"
    return model.double()


def called_in_float64(model: nn.Module) -> None:
    """Skips a test of transformers' own forward where that has no attention in float64."""
    if not model._supports_sdpa:
        pytest.skip("transformers has only an attention that rounds to float32")


def lively_model(architecture: str, tied: bool = True) -> nn.Module:
    """A float64 model with weights so large that attention is far from uniform, biases included."""
    model = exact(build_model(architecture, tied=tied))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.dim() > 1 else 0.1
            start = 0.0 if parameter.dim() > 1 else parameter
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.copy_(start + spread * noise)
    return model


def oracle_logps(model: nn.Module, groups: list[TokenGroup], temperature: float = 1.0) -> Tensor:
    """[N]: log-probabilities of the response tokens, one sequence at a time."""
    parts = []
    for group in groups:
        for response in group.responses:
            ids = torch.tensor([[*group.prompt, *response]])
            logps = (model(input_ids=ids, use_cache=False).logits[0] / temperature).log_softmax(-1)
            predicting = logps[len(group.prompt) - 1 : -1]
            parts.append(predicting.gather(1, torch.tensor(response)[:, None])[:, 0])
    return torch.cat(parts)


def slope(count: int) -> Tensor:
    """[N]: fixed weights that make a loss of the token log-probabilities."""
    return torch.linspace(-1, 1.5, count, dtype=torch.float64).sin()


def gradients(model: nn.Module, logps: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
    """The gradients, by parameter, of the weighted sum of the log-probabilities (by `slope`)."""
    model.zero_grad()
    weights = slope(len(logps)) if weights is None else weights
    (logps * weights.to(logps)).sum().backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def pair(architecture: str) -> tuple[nn.Module, nn.Module]:
    """A bound model, and the same model unbound with the oracle's attention."""
    model = lively_model(architecture)
    oracle = copy.deepcopy(model)
    oracle.config._attn_implementation = "oracle"
    return bind(model), oracle


def assert_same_gradients(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-9
) -> None:
    """Every parameter has a gradient in both or in neither, and they are equal."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=tolerance, msg=name)
