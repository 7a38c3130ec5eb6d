"""FlexAttention by the plan of a batch: one kernel for all responses, on CUDA."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from rankdistill.forward.batch import AttentionPlan, Segment

log = logging.getLogger(__name__)

BLOCK = 128
"""Tokens of a block of the mask, FlexAttention's own size."""
RECOMPILE_LIMIT = 64
"""Kernels that may be compiled: one for every head count, head size, precision and mode. Beyond
torch's own limit of 8, FlexAttention would silently hold all scores [H, L, L]."""
AMPLE_SHARED_MEMORY = 160 * 2**10
"""Bytes per block of threads on data-centre cards, for which FlexAttention's tiles are chosen."""
SMALL_TILES = {"BLOCK_M": 64, "BLOCK_N": 32, "num_stages": 1}
"""Tiles of the forward kernel that fit into the 99 KiB of other cards."""

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, q, k), indices that broadcast -> bool."""


def tree_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    *,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """[1, H, L, D]: attention in which a response sees its prompt and itself only.

    Args:
        query: [1, H, L, D].
        key, value: [1, H / groups, L, D].
        plan: The segments that make up the L tokens.
        scaling: Factor of the scores; 1 / sqrt(D) where None.
        window: Positions a token sees back, itself included; None sees all.
        softcap: Scores are replaced by ``softcap * tanh(score / softcap)``.
    """
    device = query.device

    mask = plan.once(("flex", window, device), lambda: block_mask(plan, window, device))
    on_cuda = device.type == "cuda"
    kernel = _kernel(device.type)
    options: Any = torch._dynamo.config  # as a name: its patch is made at run time
    with options.patch(recompile_limit=RECOMPILE_LIMIT, fail_on_recompile_limit_hit=True):
        out: Any = kernel(
            query,
            key,
            value,
            score_mod=None if softcap is None else _bounded(softcap),
            block_mask=mask,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
            kernel_options=_kernel_options(query) if on_cuda else None,
        )
    return out


def works(query: Tensor, key: Tensor) -> bool:
    """Whether the kernel compiles for such tensors and is right; tried once on CUDA."""
    if query.device.type != "cuda":
        return True
    shape = (query.shape[1], key.shape[1], query.shape[-1])
    return _tried(query.device, query.dtype, *shape)


TRIALS = (
    (Segment(BLOCK, (BLOCK // 2, BLOCK // 2)),),
    (Segment(7, (150, 1, 33)), Segment(300), Segment(1, (20,))),
    (Segment(19), Segment(140, (2, 90))),
)
"""One kernel takes all lengths, so it is tried on several: some releases of torch wrote NaN."""
TRIAL_ERROR = 0.03
"""Of an output or gradient, relative; bfloat16 rounds by 0.004."""


@functools.cache
def _tried(device: torch.device, dtype: torch.dtype, heads: int, groups: int, size: int) -> bool:
    """In a thread of its own, where no autocast and no checkpointing is on."""

    def trial() -> None:
        with torch.cuda.device(device), torch.enable_grad():
            for segments in TRIALS:
                _try(AttentionPlan(segments), device, dtype, (heads, groups, groups), size)

    try:
        with ThreadPoolExecutor(1) as alone:
            alone.submit(trial).result()
    except Exception as error:  # Triton, Inductor and the driver have errors of their own
        log.warning(
            "FlexAttention is not used here for %s heads of %s in %s (%s), so attention is "
            "computed segment by segment, which is slower.",
            heads, size, dtype, str(error).strip().partition("\n")[0][:200],
        )  # fmt: skip
        return False
    return True


def _try(
    plan: AttentionPlan, device: torch.device, dtype: torch.dtype, heads: Any, size: int
) -> None:
    """Holds output and gradients against dense attention in float32.

    Raises:
        ArithmeticError: one of them is another.
    """
    draw = torch.Generator(device).manual_seed(0)
    shapes = [(1, n, sum(plan.sizes), size) for n in heads]
    drawn = [torch.randn(shape, generator=draw, device=device).to(dtype) for shape in shapes]
    slope = torch.randn(shapes[0], generator=draw, device=device).to(dtype)
    found = _there_and_back(partial(tree_attention, plan=plan), drawn, slope)
    exactly = [x.float() for x in drawn]
    wanted = _there_and_back(partial(dense_attention, plan=plan), exactly, slope.float())
    for name, ours, exact in zip(("output", "dq", "dk", "dv"), found, wanted, strict=True):
        error = float((ours.float() - exact).norm() / exact.norm())
        if not error <= TRIAL_ERROR:  # NaN is not
            raise ArithmeticError(f"its {name} is off by {error:.1e}")


def _there_and_back(attend: Any, tensors: list[Tensor], slope: Tensor) -> list[Tensor]:
    """Output, and the gradients of the three tensors."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    unwritten = torch.full_like(slope, torch.nan)  # what a kernel leaves out, shows
    del unwritten
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, slope)]


def dense_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: AttentionPlan,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """[1, H, L, D] as `tree_attention`, by all scores [H, L, L]: what it is held against."""
    token = torch.arange(query.shape[2], device=query.device)
    sees: Any = tree_mask(plan, window, query.device)
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    unseen = ~sees(token, token, token[:, None], token[None])
    return scores.masked_fill(unseen, -torch.inf).softmax(-1) @ value


def _kernel_options(query: Tensor) -> dict[str, Any] | None:
    """Smaller tiles where a card has too little shared memory for rows as long as these."""
    properties = torch.cuda.get_device_properties(query.device)
    ample = properties.shared_memory_per_block_optin >= AMPLE_SHARED_MEMORY
    return None if ample or query.shape[-1] * query.element_size() < 256 else SMALL_TILES


def block_mask(
    plan: AttentionPlan, window: int | None, device: torch.device | str, size: int = BLOCK
) -> BlockMask:
    """What `create_block_mask` makes of `tree_mask`, from the bounds of the segments.

    A token sees two runs of others at most: of its own part, and of its prompt. So what a block of
    tokens sees of another is counted in O(L + (L / size)^2), where torch compares all L^2 pairs.
    """
    places = _places(plan)
    token = torch.arange(len(places.position))
    back = len(token) if window is None else window
    first = (places.position - back + 1).clamp(min=0)
    response = places.branch > 0
    prompt_first = places.segment_start + torch.minimum(first, places.prompt)
    prompt_end = places.segment_start + places.prompt
    blocks = -(-len(token) // size)
    seen = _seen(token, torch.maximum(places.start, token - back + 1), token + 1, blocks, size)
    seen += _seen(token[response], prompt_first[response], prompt_end[response], blocks, size)
    whole = seen == size**2
    made = BlockMask.from_kv_blocks(
        *_ordered((seen > 0) & ~whole),
        *_ordered(whole),
        BLOCK_SIZE=size,
        mask_mod=tree_mask(plan, window, device),
        seq_lengths=(len(token), len(token)),
    )
    return made.to(device)


def _seen(query: Tensor, first: Tensor, end: Tensor, blocks: int, size: int) -> Tensor:
    """[blocks, blocks] how many pairs of tokens of two blocks see each other.

    Token `query[i]` sees `first[i]` to before `end[i]`.
    """
    row = query // size * (blocks + 1)
    steps, within = torch.zeros(2, blocks * (blocks + 1), dtype=torch.long)
    steps.index_add_(0, row + first // size, torch.full_like(first, size))
    steps.index_add_(0, row + end // size, torch.full_like(end, -size))
    within.index_add_(0, row + first // size, -(first % size))
    within.index_add_(0, row + end // size, end % size)
    shape = (blocks, blocks + 1)
    return (steps.view(shape).cumsum(1) + within.view(shape))[:, :blocks]


def _ordered(dense: Tensor) -> tuple[Tensor, Tensor]:
    """[1, 1, rows] how many columns of each row are True, [1, 1, rows, columns] those first."""
    order = dense.int().argsort(dim=-1, descending=True, stable=True)
    return dense.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


class _Places(NamedTuple):
    """Of every token [L]; a part is a prompt or a response."""

    segment: Tensor
    branch: Tensor
    """0 is the prompt."""
    start: Tensor
    """Where its part begins."""
    segment_start: Tensor
    prompt: Tensor
    """Tokens of its prompt."""
    position: Tensor
    """A response's continue those of its prompt."""


def _places(plan: AttentionPlan) -> _Places:
    parts: list[tuple[int, ...]] = []
    lengths: list[int] = []
    start = 0
    for index, segment in enumerate(plan.segments):
        beginning = start
        for branch, length in enumerate((segment.prompt, *segment.responses)):
            ahead = segment.prompt if branch else 0
            parts.append((index, branch, start, beginning, segment.prompt, ahead))
            lengths.append(length)
            start += length
    table = torch.tensor(parts).repeat_interleave(torch.tensor(lengths), 0).t()
    *places, ahead = table.unbind()
    return _Places(*places, position=torch.arange(start) - places[2] + ahead)


def tree_mask(plan: AttentionPlan, window: int | None, device: torch.device | str) -> Mask:
    """A `mask_mod` of FlexAttention: whether token q of a plan's sequence sees token k.

    The two are of one segment, k is of the prompt or of the response that q is of, and k's position
    is not after q's, nor out of the window. A response's positions continue those of its prompt.
    """
    places = _places(plan)
    table = torch.stack([places.segment, places.branch, places.position])
    if torch.device(device).type == "cuda":
        table = table.pin_memory()
    # Not views of the table: where there happened to be three blocks as well, like the rows of it,
    # torch would compile a kernel for that alone.
    rows = table.to(device, non_blocking=True).unbind()
    of_segment, of_branch, position = (row.clone() for row in rows)

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        distance = position[q] - position[k]
        same = of_segment[q] == of_segment[k]
        shared = (of_branch[k] == 0) | (of_branch[q] == of_branch[k])
        seen = same & shared & (distance >= 0)
        return seen if window is None else seen & (distance < window)

    return sees


def _bounded(softcap: float) -> Any:
    def bound(score: Tensor, batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return bound


@functools.cache
def _kernel(device: str) -> Any:
    """Compiled on CUDA; dynamic, or it would be compiled anew for every length of a sequence."""
    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention
