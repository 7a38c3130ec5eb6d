"""The grouped forward: hidden states of a batch, and in chunks what a head makes of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.utils.checkpoint import checkpoint

from rankdistill.errors import UserError
from rankdistill.forward.attention import backbone_name, follow_groups
from rankdistill.forward.batch import GroupBatch, sum_by_candidate
from rankdistill.forward.own_logits import own_logits

ACCELERATOR_LOGITS = 2**30
"""Bytes of float32 logits that an accelerator computes at once. A chunk costs it some dozens of
kernels and a pass over the gradient of the whole table, however few its rows are."""


def rows_at_once(rows: int, device: torch.device, vocabulary: int) -> int:
    """Rows of a chunk of logits: `rows` on a CPU, whose caches are small, else what there is room
    for if that is more."""
    if device.type == "cpu":
        return rows
    return max(rows, ACCELERATOR_LOGITS // (4 * vocabulary))


class LMHead:
    """The model's own way from hidden states to logits: bias, soft-cap and logit scale included."""

    def __init__(self, model: Any, linear: bool) -> None:
        """`linear`: the model's forward does nothing after its output layer (see `only_linear`)."""
        self._model = model
        self._linear = linear

    def __call__(self, hidden: Tensor) -> Tensor:
        """[N, D] -> [N, V] logits, at least float32."""
        logits = own_logits(self._model, hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @property
    def layer(self) -> nn.Module:
        """The output layer."""
        return self._model.get_output_embeddings()

    @property
    def vocabulary(self) -> int:
        """Logits of a row."""
        return self._model.config.get_text_config().vocab_size

    @property
    def linear(self) -> bool:
        """Whether logits are ``hidden @ weight.T + bias`` and nothing else, with a whole weight.

        Asked at every call: since the model was bound, an adapter may have wrapped the layer, or
        it may have been sharded.
        """
        return self._linear and type(self.layer) is nn.Linear and self.whole

    @property
    def whole(self) -> bool:
        """Whether the layer's weights are here, and their gradients may be made without its call.

        FSDP and ZeRO-3 cut weights into shards. A call of the layer puts them together, and hooks
        on its output take their gradients apart: both are lost inside an autograd Function.
        """
        return not isinstance(self.layer, FSDPModule | FullyShardedDataParallel) and all(
            type(weight) in (nn.Parameter, Tensor) and not hasattr(weight, "ds_id")
            for weight in self.layer.parameters()
        )


class Head(Protocol):
    """What a bound model computes from the hidden states that predict response tokens."""

    def __call__(self, hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> Any:
        """Runs inside the model's forward.

        Args:
            hidden: [N, D], one row per response token, in the order of `batch.targets`.
            lm_head: [N, D] -> logits [N, V].
            batch: `targets` [N], `candidate` [N] and the rest.
        """
        ...


@dataclass(frozen=True)
class TokenLogps:
    """Log-probabilities of the response tokens: [N], nats, at least float32."""

    temperature: float = 1.0
    """Logits are divided by it; > 0. The sampling temperature gives the sampler's probabilities."""
    chunk_rows: int = 256
    """Rows whose logits are computed at once on a CPU, see `rows_at_once`."""
    logits_budget: int = 2**29
    """Bytes of logits that are kept for the backward pass; more are computed again there."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(
                f"The temperature {self.temperature} is not above 0; 1.0 changes nothing."
            )

    def __call__(self, hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> Tensor:
        chunk_rows = rows_at_once(self.chunk_rows, hidden.device, lm_head.vocabulary)
        if not lm_head.linear:
            return self._any_head(hidden, lm_head, batch.targets, chunk_rows)
        layer: Any = lm_head.layer
        size = torch.finfo(_accumulate(layer.weight.dtype)).bits // 8
        keep = torch.is_grad_enabled() and (
            hidden.shape[0] * layer.out_features * size <= self.logits_budget
        )
        return _LinearLogps.apply(
            hidden, layer.weight, layer.bias, batch.targets, self.temperature, chunk_rows, keep
        )

    def _any_head(
        self, hidden: Tensor, lm_head: LMHead, targets: Tensor, chunk_rows: int
    ) -> Tensor:
        """Chunks whose logits are computed again in the backward pass, whatever the head does."""

        def logps(rows: Tensor, wanted: Tensor) -> Tensor:
            logits = lm_head(rows) / self.temperature
            return logits.gather(1, wanted[:, None]).squeeze(1) - logits.logsumexp(-1)

        chunks = zip(hidden.split(chunk_rows), targets.split(chunk_rows), strict=True)
        if torch.is_grad_enabled():
            parts = [checkpoint(logps, *chunk, use_reentrant=False) for chunk in chunks]
        else:
            parts = [logps(*chunk) for chunk in chunks]
        return torch.cat(parts)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ResponseLogps:
    """Log-probabilities of the responses of a batch, nats."""

    logps: Tensor
    """[B, C] sum over the response's tokens, EOS included; 0 where there is no candidate."""
    token_logps: Tensor
    """[N] in the order of `batch.targets`."""
    lengths: Tensor
    """[B, C] tokens that were summed."""


@dataclass(frozen=True)
class Binding:
    """What was found out about a model when it was bound."""

    layout: str
    grouped: bool
    linear_head: bool


def response_logps(
    model: nn.Module, batch: GroupBatch, *, temperature: float = 1.0
) -> ResponseLogps:
    """Log-probabilities of every response of the batch under a bound model, with gradients.

    Args:
        model: Bound with `bind`, and perhaps wrapped since (DDP, peft).
        batch: In any layout, on the model's device.
        temperature: Logits are divided by it; the sampling temperature gives the sampler's view.
    """
    bound_layout(model)
    token_logps = model(group_batch=batch, head=TokenLogps(temperature))
    batch = batch.to(token_logps.device)  # a model spread over devices ends on another one
    return ResponseLogps(sum_by_candidate(token_logps, batch), token_logps, batch.lengths)


def bound_layout(model: nn.Module) -> str:
    """The layout to collate for a bound, and perhaps wrapped, model.

    It is the one that was asked for, or `padded` where the model can do no other.

    Raises:
        UserError: the model was not bound.
    """
    for module in model.modules():
        binding = binding_of(module)
        if binding is not None:
            return binding.layout
    raise UserError(
        f"{type(model).__name__} is not bound; call rankdistill.forward.bind(model) before it is"
        " wrapped."
    )


def binding_of(module: nn.Module) -> Binding | None:
    return module.__dict__.get("_rankdistill")


def with_groups(original: Callable, *, takes_model: bool) -> Callable:
    """A method of the model that adds groups to its `original` forward."""

    def forward(
        self: Any,
        *args: Any,
        group_batch: GroupBatch | None = None,
        head: Head | None = None,
        **kwargs: Any,
    ) -> Any:
        if group_batch is None:
            return original(*([self] if takes_model else []), *args, **kwargs)
        binding: Binding = self._rankdistill
        hidden = hidden_states(self, group_batch, grouped=binding.grouped)
        lm_head = LMHead(self, binding.linear_head)
        return (head or TokenLogps())(hidden, lm_head, group_batch.to(hidden.device))

    functools.update_wrapper(forward, original)
    del forward.__wrapped__  # accelerate takes off wrappers to the last when it unwraps a model
    # generate() and the Trainer read from the signature what a model takes.
    signature = inspect.signature(original)
    parameters = list(signature.parameters.values())
    if not takes_model:
        parameters.insert(0, inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD))
    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return forward


def hidden_states(model: Any, batch: GroupBatch, *, grouped: bool) -> Tensor:
    """[N, D]: the hidden states that predict the response tokens, after the backbone's last norm.

    `grouped`: the model's attention may be handed a plan; where it may not, the batch is padded.
    """
    if not grouped:
        batch = batch.in_layout("padded")
    else:
        follow_groups(model)
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False, "return_dict": True}
    if batch.plan is None and grouped:
        # No mask: padding is on the right, where causal attention does not look.
        inputs["in_rows"] = True
    elif batch.plan is None:
        inputs["attention_mask"] = batch.attention_mask
    else:
        # A mask of four axes goes to the layers as it is: none is built, and the plan replaces it.
        device = batch.input_ids.device
        inputs["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
        inputs["position_ids"] = batch.position_ids
        inputs["group_plan"] = batch.plan
    hidden = getattr(model, backbone_name(model))(**inputs).last_hidden_state
    return hidden.flatten(0, 1).index_select(0, batch.predictors.to(hidden.device))


class _LinearLogps(torch.autograd.Function):
    """``log_softmax((h W^T + b) / T)[targets]`` without ever holding a gradient beside the logits.

    A chunk of logits, in at least float32, is turned in place into the unnormalised softmax and in
    the backward pass into its own gradient ``g (onehot - softmax) / T``. A frozen weight skips its
    matrix product.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, temperature, chunk_rows, keep):
        compute = _compute_dtype(hidden, weight)
        logps = hidden.new_empty(hidden.shape[0], dtype=_accumulate(compute))
        totals = torch.empty_like(logps)
        kept_exponentials = []
        with torch.autocast(hidden.device.type, enabled=False):
            w = weight.to(compute)
            for rows in _chunks(hidden.shape[0], chunk_rows):
                logits = _logits(hidden[rows].to(compute), w, bias, temperature)
                wanted = logits.gather(1, targets[rows, None])
                exponentials, top = _exponentials(logits)
                totals[rows] = exponentials.sum(-1)
                logps[rows] = (wanted - top).squeeze(1) - totals[rows].log()
                if keep:
                    kept_exponentials.append(exponentials)
                del logits, exponentials  # or two chunks exist while the next one is computed
        ctx.save_for_backward(hidden, weight, bias, targets, totals)
        ctx.exponentials, ctx.settings = kept_exponentials, (temperature, chunk_rows, compute)
        return logps

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        hidden, weight, bias, targets, totals = ctx.saved_tensors
        temperature, chunk_rows, compute = ctx.settings
        grads = [
            torch.zeros_like(x) if needed else None
            for x, needed in zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        ]
        # Used up: a second backward computes them again.
        kept, ctx.exponentials = ctx.exponentials[::-1], []
        w = weight.to(compute)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _chunks(hidden.shape[0], chunk_rows):
                h, g = hidden[rows].to(compute), grad[rows, None] / temperature
                z = kept.pop() if kept else _exponentials(_logits(h, w, bias, temperature))[0]
                z.mul_(-g / totals[rows, None]).scatter_add_(1, targets[rows, None], g)
                _add_gradients(grads, rows, z, h, w)
        return *grads, None, None, None, None


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = (hidden @ weight.t()).to(_accumulate(hidden.dtype))
    if bias is not None:
        logits += bias
    return logits if temperature == 1.0 else logits.div_(temperature)


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """``exp(logits - top)`` in the place of the logits, and top [n, 1], the largest of a row."""
    top = logits.amax(-1, keepdim=True)
    return logits.sub_(top).exp_(), top


def _add_gradients(
    grads: list[Tensor | None], rows: slice, slope: Tensor, hidden: Tensor, weight: Tensor
) -> None:
    """Adds what a chunk, with `slope` [n, V] of its logits, gives to hidden, weight and bias."""
    grad_hidden, grad_weight, grad_bias = grads
    if grad_bias is not None:
        grad_bias += slope.sum(0).to(grad_bias.dtype)
    slope = slope.to(hidden.dtype)
    if grad_hidden is not None:
        grad_hidden[rows] = (slope @ weight).to(grad_hidden.dtype)
    if grad_weight is not None:
        _add_product(grad_weight, slope, hidden)


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """``total += gradient^T hidden``."""
    if total.dtype == gradient.dtype:
        total.addmm_(gradient.t(), hidden)
    else:
        total += gradient.t() @ hidden


def _chunks(rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _accumulate(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _compute_dtype(hidden: Tensor, weight: Tensor) -> torch.dtype:
    """What the matrix products run in: autocast's type where it is on, else the weight's."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
