"""Training steps and sampling, ours against the usual way."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch.nn.functional import kl_div

from rankdistill.bench.flops import Cost, Work, sequences, shared
from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.kernels import product_rate
from rankdistill.bench.gpu.parts import Bench, gradients, relative
from rankdistill.bench.training import full_logits_step, grouped_step
from rankdistill.forward import TokenGroup, collate, response_logps
from rankdistill.objectives import DPO, RRHF
from rankdistill.sample.sampler import SamplingOptions
from rankdistill.sample.transformers import decode
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Divergence, LiveTeacher
from rankdistill.warmup.trainer import distil

POINTS = [("1.5B", 4, 512, 256, 0.35), ("1.5B", 8, 1024, 256, 0.35), ("7B/8", 4, 512, 256, 0.45)]
"""Model, K, P, R and the share of the measured product's rate that a step reaches."""
NO_TIMES = "times mean nothing here"


def layouts(bench: Bench) -> list[Claim]:
    """Shared against padded, which no kernel of ours is in."""
    model = bench.build("1.5B")
    groups = [bench.group(K, P, R, model) for K, P, R in ((4, 512, 256), (3, 300, 100))]
    found = {}
    for layout in ("shared", "padded"):
        model.zero_grad()
        with bench.autocast():
            output = response_logps(model, collate(groups, layout).to(bench.device))
        output.logps.mean().backward()
        found[layout] = output.token_logps.detach(), gradients(model)
    (ours, slope), (theirs, other) = found["shared"], found["padded"]
    off = float((ours - theirs).abs().mean())
    cosine = float(torch.nn.functional.cosine_similarity(slope, other, dim=0))
    return [
        Claim.of("layouts agree, log-probabilities", f"{off:.1e} nats", "<= 2e-3", off <= 2e-3),
        Claim.of("layouts agree, gradient", f"cosine {cosine:.6f}", ">= 0.9999", cosine >= 0.9999),
    ]


def shared_prompt(bench: Bench) -> list[Claim]:
    """A step against the padded layout and full logits, and against what the card reaches."""
    rate = product_rate(bench) if bench.timed else None
    claims: list[Claim] = []
    for shape, K, P, R, wanted in POINTS:
        model = bench.build(shape)
        claims += _point(bench, model, bench.group(K, P, R, model), f"{shape} K{K} P{P} R{R}", (
            rate, wanted))  # fmt: skip
        del model
    return claims


def _point(
    bench: Bench, model: Any, group: TokenGroup, name: str, goal: tuple[float | None, float]
) -> list[Claim]:
    K, P, R = len(group.responses), len(group.prompt), len(group.responses[0])
    cost, ours = Cost.of(model), shared(K, P, R)
    others = {
        "padded": (grouped_step(model, group, RRHF(), "padded"), sequences(K, P, R, rows=K * R)),
        "full logits": (full_logits_step(model, group, RRHF()), sequences(K, P, R)),
    }
    steps = {"shared": grouped_step(model, group, RRHF())}
    steps |= {kind: step for kind, (step, _) in others.items()}
    took = bench.seconds({kind: _under(bench, model, step) for kind, step in steps.items()})
    claims = []
    for kind, (_, work) in others.items():
        limit = work.training(cost) / ours.training(cost)
        ratio = took[kind] / took["shared"]
        claims.append(_share(bench, f"{name}: {kind}", ratio, limit))
    rate, wanted = goal
    target = f">= {wanted:.0%} of the product's rate"
    if rate is None:
        return [*claims, Claim.untried(f"{name}: use of the card", NO_TIMES, target)]
    used = ours.training(cost) / took["shared"] / rate
    figure = f"{used:.0%}, {1000 * took['shared']:.0f} ms"
    return [*claims, Claim.of(f"{name}: use of the card", figure, target, used >= wanted)]


def _share(bench: Bench, name: str, ratio: float, limit: float) -> Claim:
    target = f">= 85 % of {limit:.2f} x"
    if not bench.timed:
        return Claim.untried(name, NO_TIMES, target)
    return Claim.of(name, f"{ratio:.2f} x", target, ratio >= 0.85 * limit)


def _under(bench: Bench, model: Any, step: Callable[[], Any]) -> Callable[[], None]:
    def whole() -> None:
        model.zero_grad(set_to_none=False)
        with bench.autocast():
            step()

    return whole


def trl(bench: Bench) -> list[Claim]:
    """DPO against TRL's trainer, whose reference is computed beforehand, as ours is."""
    name = "DPO against TRL"
    if find_spec("trl") is None:
        return [Claim.untried(name, "trl is not installed", ">= 85 % of the limit")]
    from rankdistill.bench.training import TRLSteps, all_pairs

    model = bench.build("1.5B")
    tokenizer = _words()
    trainer = TRLSteps(model, tokenizer, 0.1, bf16=bench.device == "cuda")
    claims = []
    for K, what in ((2, "one pair"), (4, "six pairs, one by one")):
        group = bench.group(K, 512, 256, model)
        P, R = len(group.prompt), len(group.responses[0])
        reference = [-300.0 + k for k in range(K)]
        batches = [[pair] for pair in all_pairs(K)]
        steps = {
            "theirs": trainer.step(group, reference, batches),
            "ours": grouped_step(model, group, DPO(beta=0.1), reference=reference),
        }
        took = bench.seconds({kind: _under(bench, model, step) for kind, step in steps.items()})
        count = 2 * len(batches)
        theirs = Work(**{**vars(sequences(count, P, R)), "rows": count * R})
        limit = theirs.training(Cost.of(model)) / shared(K, P, R).training(Cost.of(model))
        claims.append(_share(bench, f"{name}, {what}", took["theirs"] / took["ours"], limit))
    return claims


def _words() -> Any:
    from rankdistill.bench.settings import BenchSettings

    return BenchSettings("tiny").load()[1]


def distillation(bench: Bench) -> list[Claim]:
    """A live teacher: equal to whole logits, few launches, little beside the student's own step."""
    student = bench.build("1.5B")
    lower = torch.bfloat16 if bench.device == "cuda" else torch.float32
    teacher = bench.build("7B/8", seed=1, dtype=lower).eval().requires_grad_(False)
    group = bench.group(4, 256, 768, student)
    rows = [
        TokenRow(str(i), TokenGroup(group.prompt, [r]), i) for i, r in enumerate(group.responses)
    ]
    live = LiveTeacher(teacher, Divergence("forward_kl", 2.0))

    def step() -> None:
        student.zero_grad(set_to_none=False)
        with bench.autocast():
            distil(student, live, rows).loss.backward()

    step()
    found = gradients(student)
    student.zero_grad()
    with bench.autocast():
        _plain(bench, student, teacher, rows[:1])
    wanted = gradients(student)
    student.zero_grad()
    with bench.autocast():
        distil(student, live, rows[:1]).loss.backward()
    off = relative(gradients(student), wanted)
    launches = _launches(bench, step)
    few = Claim.untried("distillation: launches", "no GPU", "<= 500 beyond the layers'")
    if launches is not None:
        few = Claim.of("distillation: launches", f"{launches}", "<= 6000", launches <= 6000)
    assert found.isfinite().all()
    took = bench.seconds({"step": step})["step"]
    return [
        Claim.of("distillation equals whole logits", f"{off:.1e}", "<= 1e-2", off <= 1e-2),
        few,
        Claim.of("distillation: a step", f"{1000 * took:.0f} ms", "printed", True),
    ]


def _plain(bench: Bench, student: Any, teacher: Any, rows: list[TokenRow]) -> None:
    tokens = rows[0].tokens
    ids = torch.tensor([[*tokens.prompt, *tokens.responses[0]]], device=bench.device)
    before = len(tokens.prompt) - 1
    with torch.no_grad(), torch.autocast(bench.device, enabled=False):
        target = (teacher(input_ids=ids).logits.float() / 2).softmax(-1)
    logits = student(input_ids=ids).logits.float() / 2
    loss = kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1)[:, before:-1].sum()
    (4 * loss).backward()


def _launches(bench: Bench, step: Callable[[], None]) -> int | None:
    """Kernels of a step, layers included; None without a card."""
    if bench.device != "cuda":
        return None
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
    return sum(event.count for event in seen.key_averages() if "LaunchKernel" in event.key)


def sampler(bench: Bench) -> list[Claim]:
    """The prompt once for K responses, against `generate` that computes it K times."""
    model = bench.build("0.5B", dtype=torch.bfloat16 if bench.device == "cuda" else torch.float32)
    group = bench.group(8, 512, 64, model)
    new = len(group.responses[0])
    ids = torch.tensor([list(group.prompt)] * 8, device=bench.device)
    options = SamplingOptions(8, 1.0, 1.0, 0, new, 0)
    ways = {
        "ours": lambda: decode(model, [("p", list(group.prompt))], options, []),
        "generate": lambda: model.generate(
            ids, do_sample=True, max_new_tokens=new, min_new_tokens=new, top_k=0
        ),
    }
    took = bench.seconds(ways)
    name, ratio = "sampling K=8 against generate", took["generate"] / took["ours"]
    if not bench.timed:
        return [Claim.untried(name, NO_TIMES, ">= 1.5 x")]
    return [Claim.of(name, f"{ratio:.2f} x", ">= 1.5 x", ratio >= 1.5)]
