"""The card, the attention kernel and the output layer."""

from __future__ import annotations

import platform
import random
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import transformers
from torch import Tensor

from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.parts import VOCABULARY, Bench, relative
from rankdistill.forward import LMHead, TokenGroup, TokenLogps, collate, flex, response_logps
from rankdistill.forward.batch import AttentionPlan, Segment

GIB = 2**30
TOLERANCE = {torch.bfloat16: 1e-2, torch.float32: 1e-3}


def card(bench: Bench) -> list[Claim]:
    """What it is, and what it reaches: everything else is held against the second figure."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    if bench.device != "cuda":
        told = f"{platform.processor() or platform.machine()}, {versions}"
        why = "no GPU"
        return [
            Claim.of("card and versions", told, "printed", True),
            Claim.untried("copy", why, "printed"),
            Claim.untried("product in bfloat16", why, "printed"),
        ]
    properties = torch.cuda.get_device_properties(0)
    told = f"{properties.name}, {properties.total_memory / GIB:.0f} GiB, {versions}"
    source, goal = torch.empty(2, 4 * 2**30, dtype=torch.uint8, device="cuda")
    copied = bench.seconds({"copy": lambda: goal.copy_(source)})["copy"]
    return [
        Claim.of("card and versions", told, "printed", True),
        Claim.of("copy", f"{2 * len(source) / copied / 1e12:.2f} TB/s", "printed", True),
        Claim.of(
            "product in bfloat16", f"{product_rate(bench) / 1e12:.0f} TFLOP/s", "printed", True
        ),
    ]


def product_rate(bench: Bench, size: int = 8192) -> float:
    """FLOP/s of a square product in bfloat16."""
    a, b = torch.randn(2, size, size, dtype=torch.bfloat16, device=bench.device)
    return 2 * size**3 / bench.seconds({"product": lambda: a @ b})["product"]


def attention(bench: Bench) -> list[Claim]:
    """The tree against dense attention in float64; there and back on a card, there on a CPU."""
    claims = []
    types = (torch.bfloat16, torch.float32) if bench.device == "cuda" else (torch.float32,)
    for dtype in types:
        draw = random.Random(0)
        errors = [_attention_error(bench, draw, dtype) for _ in range(3 if bench.tiny else 60)]
        worst = max(errors)
        claims.append(
            Claim.of(
                f"tree attention in {dtype}, {len(errors)} random trees",
                f"relative error {worst:.1e}",
                f"<= {TOLERANCE[dtype]:.0e}, no NaN",
                worst <= TOLERANCE[dtype],
            )
        )
    return claims


def _attention_error(bench: Bench, draw: random.Random, dtype: torch.dtype) -> float:
    """The largest of output and gradients; infinite where one is not a number."""
    longest = 40 if bench.tiny else 1365
    plan = AttentionPlan(
        tuple(
            Segment(draw.randint(13, longest), tuple(draw.randint(1, 40) for _ in range(k)))
            for k in (draw.randint(0, 5) for _ in range(draw.randint(1, 3)))
        )
    )
    length, size, groups = sum(plan.sizes), draw.choice([64, 128]), draw.choice([4, 7])
    window, softcap = draw.choice([None, 50]), draw.choice([None, 30.0])
    there_and_back = bench.device == "cuda"
    tensors = [
        torch.randn(1, heads, length, size, device=bench.device, dtype=dtype)
        for heads in (2 * groups, 2, 2)
    ]
    exact = [x.double().requires_grad_(there_and_back) for x in tensors]
    ours = [x.requires_grad_(there_and_back) for x in tensors]
    poison = torch.full_like(tensors[0], torch.nan)  # where the kernel writes nothing, it shows
    del poison
    found: Any = flex.tree_attention(*ours, plan, window=window, softcap=softcap)  # type: ignore[arg-type]
    query, key, value = exact
    wanted = flex.dense_attention(query, key, value, plan, window, softcap)
    pairs: list[tuple[Any, Any]] = [(found.detach(), wanted.detach())]
    if there_and_back:
        slope = torch.randn_like(found)
        found.backward(slope)
        wanted.backward(slope.double())
        pairs += [(x.grad, y.grad) for x, y in zip(ours, exact, strict=True)]
    errors = [relative(a, b) for a, b in pairs]
    return max(error if error == error else float("inf") for error in errors)


def graphs(bench: Bench) -> list[Claim]:
    """Kernels for the models of a run, and what a mask costs."""
    length = 512 if bench.tiny else 16_384
    plan = AttentionPlan((Segment(length // 2, (length // 4, length // 4)),))
    started = time.perf_counter()
    flex.block_mask(plan, None, bench.device)
    took = 1000 * (time.perf_counter() - started)
    claims = [_kernels(bench), _models_in_turn(bench)]
    name, figure, target = f"mask of {length} tokens", f"{took:.2f} ms", "<= 1 ms"
    if not bench.timed:
        return [*claims, Claim.untried(name, f"{figure}, which means nothing here", target)]
    took = bench.seconds({"mask": lambda: flex.block_mask(plan, None, "cuda")})["mask"]
    taken = bench.peak(lambda: flex.block_mask(plan, None, "cuda")) * 1024
    return [
        *claims,
        Claim.of(name, f"{1000 * took:.2f} ms", target, took <= 1e-3),
        Claim.of(f"{name}, memory", f"{taken:.0f} MiB", "<= 64 MiB", taken <= 64),
    ]


def _kernels(bench: Bench) -> Claim:
    """Every model of a run has heads of its own: none may fall back to whole scores."""
    name, target = "a kernel for every model of a run", "none left to whole scores"
    if bench.device != "cuda":
        return Claim.untried(name, "no GPU", target)
    left = []
    for heads, groups, size in ((14, 2, 64), (12, 2, 128), (28, 4, 128), (16, 16, 64), (9, 3, 64)):
        for dtype in (torch.bfloat16, torch.float32):
            query = torch.empty(1, heads, 8, size, dtype=dtype, device="cuda")
            key = torch.empty(1, groups, 8, size, dtype=dtype, device="cuda")
            if not flex.works(query, key):
                left.append(f"{heads} heads of {size} in {dtype}")
    return Claim.of(name, ", ".join(left) or "10 shapes run", target, not left)


def _models_in_turn(bench: Bench) -> Claim:
    """Ragged batches of a teacher, a student that trains or is read, and one more in float32.

    At the limit of kernels a call raises, and the part ends.
    """
    batches = 6 if bench.tiny else 200
    half = torch.bfloat16 if bench.device == "cuda" else torch.float32
    teacher, student = bench.build("7B/8", dtype=half), bench.build("1.5B")
    turns = ((teacher, False, True), (student, True, True), (student, False, True),
             (bench.build("0.5B"), False, False))  # fmt: skip
    draw = random.Random(0)
    for turn in range(batches):
        model, trains, lower = turns[turn % len(turns)]
        lengths = [draw.randint(1, 12 if bench.tiny else 300) for _ in range(draw.randint(2, 6))]
        prompt, *responses = [[5 + i % 200 for i in range(length)] for length in lengths]
        batch = collate([TokenGroup(prompt, responses)]).to(bench.device)
        with torch.set_grad_enabled(trains), torch.autocast(bench.device, half, enabled=lower):
            logps = response_logps(model, batch).logps
        if trains:
            logps.sum().backward()
    name, most = f"kernels for {batches} batches of 3 models", flex.RECOMPILE_LIMIT
    if bench.device != "cuda":
        return Claim.untried(name, "no GPU", f"<= {most}")
    found = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return Claim.of(name, str(found), f"<= {most}", found <= most)


def output_layer(bench: Bench) -> list[Claim]:
    """`TokenLogps` against its floor: three products and one pass over logits and gradient."""
    return [claim for shape in ("1.5B", "7B/8") for claim in _output_layer(bench, shape)]


def _output_layer(bench: Bench, shape: str) -> list[Claim]:
    model = bench.build(shape)
    rows, vocabulary = (64, 512) if bench.tiny else (4096, VOCABULARY)
    hidden = torch.randn(rows, model.config.hidden_size, device=bench.device, requires_grad=True)
    targets = torch.randint(vocabulary, (rows,), device=bench.device)
    low, table = hidden.detach().bfloat16(), model.lm_head.weight.detach().bfloat16()
    slope = torch.empty(rows, vocabulary, dtype=torch.bfloat16, device=bench.device)

    def ours() -> None:
        batch: Any = _Targets(targets)
        TokenLogps()(hidden, LMHead(model, True), batch).sum().backward()

    def floor() -> None:
        for product in (low @ table.t(), slope @ table, slope.t() @ low):
            product.add_(1)

    liger = _liger(bench, model, hidden, targets)
    ways = {
        "ours": bench.under_autocast(ours),
        "floor": floor,
        **({} if liger is None else {"liger": liger}),
    }
    if shape == "1.5B":
        ways["steps"] = _steps(bench, model, rows)
    took = bench.seconds(ways)
    name = f"output layer of {shape}, {rows} rows"
    claims = [_at_most(bench, name, took["ours"] / took["floor"], 1.5, " x its floor")]
    if "steps" in took:
        share = took["ours"] / took["steps"]
        claims.append(_at_most(bench, f"{name}, of a step", share, 0.15, " of its time"))
    against, target = f"{name}, Liger's fused cross-entropy against it", ">= 1 x"
    if liger is None:
        return [*claims, Claim.untried(against, "no liger-kernel, or no GPU", target)]
    ratio = took["liger"] / took["ours"]
    return [*claims, Claim.of(against, f"{ratio:.2f} x", target, ratio >= 1)]


def _at_most(bench: Bench, name: str, found: float, most: float, unit: str) -> Claim:
    return bench.timed_claim(name, f"{found:.2f}{unit}", f"<= {most:g}{unit}", found <= most)


def _steps(bench: Bench, model: Any, rows: int) -> Any:
    """Training steps on groups with as many response tokens."""
    group = bench.group(4, 512, 256, model)
    step, count = bench.step(model, group), max(1, rows // sum(map(len, group.responses)))
    return lambda: [step() for _ in range(count)]


def _liger(bench: Bench, model: Any, hidden: Tensor, targets: Tensor) -> Any:
    """The same log-probabilities and gradients by Liger's fused kernel; None without it."""
    if bench.device != "cuda" or find_spec("liger_kernel") is None:
        return None
    layers: Any = import_module("liger_kernel.transformers")
    loss = layers.LigerFusedLinearCrossEntropyLoss(reduction="none", accum_dtype=torch.float32)

    return bench.under_autocast(
        lambda: loss(model.lm_head.weight, hidden, targets).sum().backward()
    )


class _Targets:
    """A batch as far as the head looks at it."""

    def __init__(self, targets: Tensor) -> None:
        self.targets = targets
