"""From hidden states to log-probabilities of the response tokens, in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.utils.checkpoint import checkpoint

from rankdistill.errors import UserError
from rankdistill.forward.batch import GroupBatch

ACCELERATOR_LOGITS = 2**30
"""Bytes of float32 logits that an accelerator computes at once. A chunk costs it some dozens of
kernels and a pass over the gradient of the whole table, however few its rows are."""


def rows_at_once(rows: int, device: torch.device, vocabulary: int) -> int:
    """Rows of a chunk of logits: `rows` on a CPU, whose caches are small, else what there is room
    for if that is more."""
    if device.type == "cpu":
        return rows
    return max(rows, ACCELERATOR_LOGITS // (4 * vocabulary))


def backbone_name(model: Any) -> str:
    """The attribute that holds the backbone: what the architecture says, or the usual names."""
    names = (model.base_model_prefix, "model", "transformer")
    return next(name for name in names if hasattr(model, name))


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


class _Backbone:
    """Hidden states that are there already, in the place of the backbone that computes them.

    It is the backbone, the part of it that is called (`model.decoder`), and its output.
    """

    def __init__(self, backbone: nn.Module, hidden: Tensor) -> None:
        self._backbone = backbone
        self.last_hidden_state = hidden[None]

    def __call__(self, *args: Any, **kwargs: Any) -> _Backbone:
        return self

    def __getitem__(self, index: int | slice) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> _Backbone | None:
        if name.startswith("__"):
            raise AttributeError(name)
        return self if isinstance(getattr(self._backbone, name, None), nn.Module) else None


class _WithoutBackbone:
    """A model whose backbone returns given hidden states; everything else is the model's."""

    def __init__(self, model: Any, hidden: Tensor) -> None:
        self._model = model
        name = backbone_name(model)
        setattr(self, name, _Backbone(getattr(model, name), hidden))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def own_logits(model: Any, hidden: Tensor) -> Tensor:
    """[N, D] -> [N, V]: the logits that the model's own forward makes of hidden states.

    The code after the backbone differs between architectures (soft-caps, scales); running it,
    rather than listing what it may do, is right for all of them.
    """
    return type(model).forward(_WithoutBackbone(model, hidden), return_dict=True).logits[0]


@torch.no_grad()
def only_linear(model: Any) -> bool:
    """Whether the model's forward does nothing after its linear output layer: tried on two rows."""
    layer = model.get_output_embeddings()
    if type(layer) is not nn.Linear or layer.weight.is_meta or layer.weight.numel() == 0:
        return False
    if layer.in_features != model.config.get_text_config().hidden_size:
        return False
    rows = torch.linspace(-3, 3, 2 * layer.in_features).view(2, -1).to(layer.weight)
    return torch.equal(own_logits(model, rows), layer(rows[None])[0])


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
        kept = []
        with torch.autocast(hidden.device.type, enabled=False):
            w = weight.to(compute)
            for rows in _chunks(hidden.shape[0], chunk_rows):
                logits = _logits(hidden[rows].to(compute), w, bias, temperature)
                wanted = logits.gather(1, targets[rows, None])
                exponentials, top = _exponentials(logits)
                totals[rows] = exponentials.sum(-1)
                logps[rows] = (wanted - top).squeeze(1) - totals[rows].log()
                if keep:
                    kept.append(exponentials)
                del logits, exponentials  # or two chunks exist while the next one is computed
        ctx.save_for_backward(hidden, weight, bias, targets, totals)
        ctx.kept, ctx.settings = kept, (temperature, chunk_rows, compute)
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
        kept, ctx.kept = ctx.kept[::-1], []  # used up: a second backward computes them again
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
