"""The tree as a FlexAttention mask: against the definition, and the attention that it stands for.

On a CPU FlexAttention has no backward pass, so what trains on a GPU is tested up to its forward.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forward_oracle import ragged_groups
from tiny_models import build_model
from torch.nn.attention.flex_attention import create_block_mask, create_mask
from torch.utils._python_dispatch import TorchDispatchMode

from rankdistill.forward import LAYOUTS, attention, bind, collate, flex, response_logps
from rankdistill.forward.batch import AttentionPlan, Segment
from rankdistill.trainer.modes import enable_gradient_checkpointing

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
PLANS = {
    "one group": AttentionPlan((Segment(4, (3, 1, 5)),)),
    "several, ragged": AttentionPlan((Segment(1, (2, 2)), Segment(9), Segment(5, (1, 6, 3)))),
    "packed": AttentionPlan((Segment(7), Segment(2), Segment(11))),
}


def by_definition(plan: AttentionPlan, window: int | None) -> torch.Tensor:
    """[L, L] bool, token by token: who sees whom."""
    tokens = []
    for index, segment in enumerate(plan.segments):
        tokens += [(index, None, place) for place in range(segment.prompt)]
        for branch, length in enumerate(segment.responses):
            tokens += [(index, branch, segment.prompt + place) for place in range(length)]
    seen = torch.zeros(len(tokens), len(tokens), dtype=torch.bool)
    for q, (segment, branch, position) in enumerate(tokens):
        for k, (other, of_branch, earlier) in enumerate(tokens):
            back = position - earlier
            near = back >= 0 and (window is None or back < window)
            seen[q, k] = segment == other and of_branch in (None, branch) and near
    return seen


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("name", PLANS)
def test_the_mask_is_the_tree(name: str, window: int | None) -> None:
    plan = PLANS[name]
    length = sum(plan.sizes)
    mask = create_mask(flex.tree_mask(plan, window, "cpu"), None, None, length, length, "cpu")
    assert torch.equal(mask[0, 0], by_definition(plan, window))


@pytest.mark.parametrize("seed", range(8))
def test_blocks_from_bounds_are_those_of_all_pairs(seed: int) -> None:
    """On a random plan, with blocks so small that there are many of them."""
    draw = random.Random(seed)

    def segment() -> Segment:
        return Segment(
            draw.randint(1, 60), tuple(draw.randint(1, 40) for _ in range(draw.choice([0, 1, 3])))
        )

    plan = AttentionPlan(tuple(segment() for _ in range(1 + seed % 5)))
    length, size = sum(plan.sizes), (4, 16, 32)[seed % 3]
    for window in (None, 1, 7, 50):
        made = flex.block_mask(plan, window, "cpu", size)
        sees = flex.tree_mask(plan, window, "cpu")
        wanted = create_block_mask(sees, None, None, length, length, "cpu", BLOCK_SIZE=size)
        assert made.shape == wanted.shape
        assert torch.equal(made.to_dense(), wanted.to_dense())
        for counts, places in (
            ("kv_num_blocks", "kv_indices"), ("full_kv_num_blocks", "full_kv_indices"),
            ("q_num_blocks", "q_indices"), ("full_q_num_blocks", "full_q_indices"),
        ):  # fmt: skip
            number = getattr(wanted, counts)
            assert torch.equal(getattr(made, counts), number)
            real = torch.arange(getattr(wanted, places).shape[-1]) < number[..., None]
            pair = [getattr(mask, places)[real] for mask in (made, wanted)]
            assert torch.equal(*pair)


class Largest(TorchDispatchMode):
    """Remembers the most numbers of a tensor that an operation returned."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [x for x in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(x)]
        self.numbers = max([self.numbers, *(x.numel() for x in tensors)])
        return out


@pytest.mark.parametrize("window", [None, 500])
def test_a_mask_of_many_tokens_is_small(window: int | None) -> None:
    """Nothing of L^2, which is 2.7e8 here; six numbers per token, and one per pair of blocks."""
    length = 16_384
    plan = AttentionPlan((Segment(length // 2, (length // 4, length // 4)),))
    with Largest() as largest:
        flex.block_mask(plan, window, "cpu")
    assert largest.numbers <= 6 * length + (length // flex.BLOCK + 1) ** 2


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tries a kernel on the CPU as it is tried on CUDA."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    flex._tried.cache_clear()
    yield
    flex._tried.cache_clear()


def refuses(*tensors: Any, plan: AttentionPlan) -> Any:
    raise RuntimeError("out of resources: shared memory\nand a page of it")


def leaves_out(*tensors: Any, plan: AttentionPlan) -> torch.Tensor:
    """NaN in a row of sequences longer than 300 tokens, as some releases of torch wrote."""
    out = right(*tensors, plan=plan)
    return torch.where(torch.arange(out.shape[2])[:, None] == 300, torch.nan, out)


def sees_too_much(query: Any, key: Any, value: Any, plan: AttentionPlan) -> torch.Tensor:
    """A response those before it."""
    joined = (Segment(s.prompt, (sum(s.responses),) * bool(s.responses)) for s in plan.segments)
    return right(query, key, value, AttentionPlan(tuple(joined)))


def right(query: Any, key: Any, value: Any, plan: AttentionPlan) -> torch.Tensor:
    options = attention.AttentionOptions()
    return attention.grouped_attention(query, key, value, plan, options).transpose(1, 2)


@pytest.mark.parametrize(
    ("kernel", "why"),
    [(refuses, "out of resources: shared memory"), (leaves_out, "its output is off by nan"),
     (sees_too_much, "its output is off by ")],
)  # fmt: skip
@pytest.mark.usefixtures("tried")
def test_a_kernel_that_fails_or_is_wrong_is_left_with_one_line(
    kernel: Any, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flex, "tree_attention", kernel)
    for _ in range(2):
        assert not flex._tried(torch.device("cpu"), torch.float32, 4, 2, 16)
    said = [r.getMessage() for r in caplog.records if "FlexAttention" in r.getMessage()]
    assert len(said) == 1 and f"({why}" in said[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("tried")
def test_a_kernel_that_is_right_is_taken(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "tree_attention", right)
    assert flex._tried(torch.device("cpu"), dtype, 4, 2, 16)


def test_the_kernel_is_compiled_on_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all lengths at once."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: (function, options))
    asked = flex._kernel.__wrapped__
    assert asked("cpu") is flex.flex_attention
    assert asked("cuda") == (flex.flex_attention, {"dynamic": True})


def test_another_device_takes_as_many_keys_as_queries() -> None:
    """With a mask, of a window here: shapes alone, of tensors that are nowhere."""
    query, *rest = (torch.empty(1, heads, 13, 16, device="meta") for heads in (4, 2, 2))
    plan = AttentionPlan((Segment(4, (3, 1, 5)),))
    options = attention.AttentionOptions(0.3, 0.0, 3, None)
    assert attention.grouped_attention(query, *rest, plan, options).shape == (1, 13, 4, 16)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Those that are compiled, as on CUDA; what is compiled runs as it is."""
    found: list[Any] = []

    def count(graph: Any, example: Any) -> Any:
        found.append(graph)
        return graph.forward

    torch._dynamo.reset()
    kernel = torch.compile(flex.flex_attention, dynamic=True, backend=count)
    monkeypatch.setattr(flex, "_kernel", lambda device: kernel)
    yield found
    torch._dynamo.reset()


def attend(plan: AttentionPlan, heads: int, groups: int, length: int) -> None:
    query, key, value = (torch.randn(1, n, length, 16) for n in (heads, groups, groups))
    flex.tree_attention(query, key, value, plan)


@torch.no_grad()
def test_one_kernel_takes_all_lengths_segments_and_masks(graphs: list[Any]) -> None:
    for k in range(6):
        plan = AttentionPlan((Segment(340 + 9 * k, tuple(range(20, 22 + k))), Segment(3)))
        attend(plan, 16, 8, sum(plan.sizes))
    assert len(graphs) == 1


@torch.no_grad()
def test_more_models_than_torch_compiles_kernels_for(graphs: list[Any]) -> None:
    """Beyond its limit of 8 torch would compute all scores [H, L, L] without a word."""
    plan = AttentionPlan((Segment(150, (20, 30)),))
    models = [(n * groups, n) for n in (1, 2, 3) for groups in (1, 2, 3)]
    for heads, groups in models:
        attend(plan, heads, groups, 200)
    assert len(graphs) == len(models) > torch._dynamo.config.recompile_limit == 8


@pytest.mark.parametrize("checkpointing", [True, "selective"])
def test_it_stays_compiled_where_layers_are_computed_again(
    checkpointing: bool | str, graphs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Attends(torch.autograd.Function):
        """A backward pass, which FlexAttention has on CUDA only."""

        @staticmethod
        def forward(ctx: Any, query: Any, *others: Any) -> Any:
            return own(query.detach(), *(x.detach() for x in others[:2]), others[2])

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:  # type: ignore[override]
            return grad, None, None, None

    own = flex.tree_attention
    monkeypatch.setattr(attention, "flex_fits", lambda *tensors: True)
    monkeypatch.setattr(flex, "tree_attention", lambda *x, **kwargs: Attends.apply(*x))
    model = bind(build_model(layers=2)).train()
    enable_gradient_checkpointing(model, checkpointing)
    logps = response_logps(model, collate(ragged_groups())).logps
    forward = len(graphs)
    logps.sum().backward()
    assert len(graphs) == forward == 1


@pytest.mark.parametrize(
    ("size", "dtype", "card", "small"),
    [(128, torch.float32, 99, True), (64, torch.bfloat16, 99, False),
     (256, torch.bfloat16, 99, True), (256, torch.bfloat16, 160, False),
     (128, torch.float32, 227, False)],
)  # fmt: skip
def test_tiles_are_small_where_shared_memory_is(
    size: int, dtype: torch.dtype, card: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KiB of an RTX 4090, of an A100 and of an H100; Triton takes powers of two."""
    properties = SimpleNamespace(shared_memory_per_block_optin=card * 2**10)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    tiles = flex._kernel_options(torch.zeros(1, 1, 1, size, dtype=dtype))
    assert (tiles is not None) == small
    assert all(number.bit_count() == 1 for number in (tiles or {}).values())


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_it_computes_what_the_segments_do(
    name: str, window: int | None, softcap: float | None
) -> None:
    plan = AttentionPlan(PLANS[name].segments)
    length = sum(plan.sizes)
    torch.manual_seed(0)
    query = torch.randn(1, 4, length, 16)
    key, value = torch.randn(2, 1, 2, length, 16).unbind()
    options = attention.AttentionOptions(0.3, 0.0, window, softcap)
    expected = attention.grouped_attention(query, key, value, plan, options)
    found = flex.tree_attention(
        query, key, value, plan, scaling=0.3, window=window, softcap=softcap
    )
    torch.testing.assert_close(found.transpose(1, 2), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "qwen3"])
@torch.no_grad()
def test_a_model_through_it(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA: chosen by `fits`, one mask per window for all layers."""
    groups = ragged_groups()
    model = bind(build_model(architecture))
    expected = response_logps(model, collate(groups, "padded")).token_logps
    monkeypatch.setattr(attention, "flex_fits", lambda *tensors: True)
    for layout in LAYOUTS:
        batch = collate(groups, layout)
        logps = response_logps(model, batch).token_logps
        torch.testing.assert_close(logps, expected, rtol=0, atol=1e-5)
        if batch.plan is not None:
            masks = [key for key in batch.plan._made if key[0] == "flex"]
            assert len(masks) == len(batch.plan.windows) == len(batch.plan._made)


def test_it_is_taken_on_cuda_where_it_can_be() -> None:
    class OnCUDA:
        device = torch.device("cuda")

        def __init__(self, dtype: torch.dtype, size: int) -> None:
            self.dtype, self.shape = dtype, (1, 4, 9, size)

    half, double = OnCUDA(torch.bfloat16, 64), OnCUDA(torch.float64, 64)
    least = OnCUDA(torch.bfloat16, 16)
    assert attention.flex_fits(half, half, 0.0)  # type: ignore[arg-type]
    assert attention.flex_fits(least, least, 0.0)  # type: ignore[arg-type]
    assert not attention.flex_fits(half, half, 0.1)  # type: ignore[arg-type]
    assert not attention.flex_fits(double, double, 0.0)  # type: ignore[arg-type]
    assert not attention.flex_fits(OnCUDA(half.dtype, 8), OnCUDA(half.dtype, 8), 0.0)  # type: ignore[arg-type]
    assert not attention.flex_fits(half, OnCUDA(torch.bfloat16, 32), 0.0)  # type: ignore[arg-type]
    assert not attention.flex_fits(torch.zeros(1, 4, 9, 64), torch.zeros(1, 4, 9, 64), 0.0)
