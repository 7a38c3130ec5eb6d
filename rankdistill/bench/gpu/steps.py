"""Training steps and sampling, ours against the usual way."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch

from rankdistill.bench.flops import Cost, Work, sequences, shared
from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.kernels import product_rate
from rankdistill.bench.gpu.parts import NO_TIMES, Bench, gradients, tokenizer
from rankdistill.bench.training import full_logits_step, grouped_step
from rankdistill.forward import TokenGroup, collate, response_logps
from rankdistill.objectives import DPO, RRHF
from rankdistill.sample.sampler import SamplingOptions
from rankdistill.sample.transformers import decode

POINTS = [
    ("1.5B", 4, 512, 256, 0.35), ("1.5B", 8, 1024, 256, 0.35), ("1.5B", 4, 512, 512, 0.35),
    ("7B/8", 4, 512, 256, 0.45), ("7B/8", 8, 1024, 256, 0.45),
]  # fmt: skip
"""Model, K, P, R and the share of the measured product's rate that a step reaches."""
FLASH = "padded, flash-attn"
"""Padded rows by the package itself; `padded` takes torch's attention, which has its kernel."""


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
    if find_spec("flash_attn") is not None and bench.device == "cuda":
        step, work = others["padded"]
        others[FLASH] = _with_attention(model, "flash_attention_2", step), work
    steps = {"shared": grouped_step(model, group, RRHF())}
    steps |= {kind: step for kind, (step, _) in others.items()}
    took = bench.seconds({kind: _under(bench, model, step) for kind, step in steps.items()})
    claims = []
    for kind, (_, work) in others.items():
        limit = work.training(cost) / ours.training(cost)
        ratio = took[kind] / took["shared"]
        claims.append(_share(bench, f"{name}: {kind}", ratio, limit))
    if FLASH not in others:
        claims.append(Claim.untried(f"{name}: {FLASH}", "no flash-attn, or no GPU", ">= 85 %"))
    rate, wanted = goal
    target = f">= {wanted:.0%} of the product's rate"
    if rate is None:
        return [*claims, Claim.untried(f"{name}: use of the card", NO_TIMES, target)]
    used = ours.training(cost) / took["shared"] / rate
    figure = f"{used:.0%}, {1000 * took['shared']:.0f} ms"
    return [*claims, Claim.of(f"{name}: use of the card", figure, target, used >= wanted)]


def _with_attention(model: Any, name: str, step: Callable[[], Any]) -> Callable[[], Any]:
    """A step in which the model attends by another implementation of transformers'."""

    def whole() -> Any:
        before = model.config._attn_implementation
        model.set_attn_implementation(name)
        try:
            return step()
        finally:
            model.set_attn_implementation(before)

    return whole


def _share(bench: Bench, name: str, ratio: float, limit: float) -> Claim:
    target = f">= 85 % of {limit:.2f} x"
    return bench.timed_claim(name, f"{ratio:.2f} x", target, ratio >= 0.85 * limit)


def _under(bench: Bench, model: Any, step: Callable[[], Any]) -> Callable[[], None]:
    """The step, whose gradients are not added to those of the step before."""

    def whole() -> None:
        model.zero_grad(set_to_none=False)
        step()

    return bench.under_autocast(whole)


def trl(bench: Bench) -> list[Claim]:
    """DPO against TRL's trainer, whose reference is computed beforehand, as ours is."""
    name = "DPO against TRL"
    if find_spec("trl") is None:
        return [Claim.untried(name, "trl is not installed", ">= 85 % of the limit")]
    from rankdistill.bench.training import TRLSteps, all_pairs

    model = bench.build("1.5B")
    trainer = TRLSteps(model, tokenizer(), 0.1, bf16=bench.device == "cuda")

    def against(K: int, what: str) -> list[Claim]:
        group = bench.group(K, 512, 256, model)
        P, R = len(group.prompt), len(group.responses[0])
        reference = [-300.0 + k for k in range(K)]
        batches = [[pair] for pair in all_pairs(K)]
        steps = {
            "theirs": _under(bench, model, trainer.step(group, reference, batches)),
            "ours": _under(
                bench, model, grouped_step(model, group, DPO(beta=0.1), reference=reference)
            ),
        }
        took = bench.seconds(steps)
        count = 2 * len(batches)
        theirs = Work(**{**vars(sequences(count, P, R)), "rows": count * R})
        limit = theirs.training(Cost.of(model)) / shared(K, P, R).training(Cost.of(model))
        peaks = {kind: bench.peak(step) for kind, step in steps.items()}
        return [
            _share(bench, f"{name}, {what}", took["theirs"] / took["ours"], limit),
            _less(bench, f"{name}, {what}: peak memory", peaks),
        ]

    claims = [*against(2, "one pair"), *against(4, "six pairs, one by one")]
    if find_spec("liger_kernel") is None or bench.device != "cuda":
        why = "no liger-kernel, or no GPU"
        return [*claims, Claim.untried(f"{name}, one pair, Liger's layers", why, ">= 85 %")]
    from transformers.integrations.liger import apply_liger_kernel

    apply_liger_kernel(model, {"cross_entropy": False, "fused_linear_cross_entropy": False})
    return [*claims, *against(2, "one pair, Liger's layers")]


def _less(bench: Bench, name: str, peaks: dict[str, float]) -> Claim:
    target = "<= TRL's"
    if not bench.timed:
        return Claim.untried(name, "no GPU, or a tiny model", target)
    figure = f"{peaks['ours']:.2f} GiB, theirs {peaks['theirs']:.2f}"
    return Claim.of(name, figure, target, peaks["ours"] <= peaks["theirs"])


def sampler(bench: Bench) -> list[Claim]:
    """The prompt once for K responses, against `generate` that computes it K times; precisions."""
    half = torch.bfloat16 if bench.device == "cuda" else torch.float32
    model, exact = bench.build("0.5B", dtype=half), bench.build("0.5B")
    group = bench.group(8, 512, 64, model)
    new = len(group.responses[0])
    ids = torch.tensor([list(group.prompt)] * 8, device=bench.device)
    options = SamplingOptions(8, 1.0, 0.95, 0, new, 0)
    prompt = [("p", list(group.prompt))]
    ways = {
        "ours": lambda: decode(model, prompt, options, []),
        "generate": lambda: model.generate(
            ids, do_sample=True, max_new_tokens=new, min_new_tokens=new, top_k=0, top_p=0.95
        ),
        "float32": lambda: decode(exact, prompt, options, []),
    }
    took = bench.seconds(ways)
    claims = []
    for other, name, most in (
        ("generate", "sampling K=8 against generate", 1.5),
        ("float32", "sampling in bfloat16 against float32", 3.0),
    ):
        ratio, target = took[other] / took["ours"], f">= {most:g} x"
        claims.append(bench.timed_claim(name, f"{ratio:.2f} x", target, ratio >= most))
    return claims
