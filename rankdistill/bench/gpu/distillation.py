"""Distillation on the card: that it is right, and what it costs beside the layers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.parts import NO_TIMES, Bench, gradients, relative
from rankdistill.forward import TokenGroup, collate
from rankdistill.warmup.head import HiddenRows
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teacher_cache import CacheSpec, TeacherCache
from rankdistill.warmup.teachers import CachedTeacher, Divergence, LiveTeacher, Teacher
from rankdistill.warmup.trainer import distil

KL = Divergence("forward_kl", 2.0)
LAUNCHES, SHARE = 500, 0.15
"""Kernels, and the part of a step, that the divergence takes at most beside both models' layers."""


def distillation(bench: Bench) -> list[Claim]:
    """A live teacher and stored ones: equal to whole logits, and little beside the layers."""
    lower = torch.bfloat16 if bench.device == "cuda" else torch.float32
    teacher = bench.build("7B/8", seed=1, dtype=lower).eval().requires_grad_(False)
    student = bench.build("1.5B")
    group = bench.group(4, 256, 768, student)
    rows = [
        TokenRow(str(i), TokenGroup(group.prompt, [r]), i) for i, r in enumerate(group.responses)
    ]
    with tempfile.TemporaryDirectory() as folder:
        sides = _Sides(bench, student, teacher, rows)
        hidden = sides.cached(Path(folder), CacheSpec(
            "hidden", hidden_size=teacher.config.hidden_size, hidden_bytes=lower.itemsize,
        ))  # fmt: skip
        spec = CacheSpec("top_k", student.config.vocab_size, 64, (KL.temperature,))
        top = sides.cached(Path(folder), spec)
        return [*_equal(sides, hidden, top), *_costs(sides, {"hidden": hidden, "top 64": top})]


@dataclass(frozen=True)
class _Sides:
    bench: Bench
    student: Any
    teacher: Any
    rows: list[TokenRow]

    @property
    def live(self) -> LiveTeacher:
        return LiveTeacher(self.teacher, KL)

    def cached(self, folder: Path, spec: CacheSpec) -> CachedTeacher:
        cache = TeacherCache(folder / spec.kind, spec, self.rows)
        cache.fill(lambda: self.teacher, 4096)
        return CachedTeacher(cache, KL, self.teacher).to(torch.device(self.bench.device))

    def step(self, teacher: Teacher, rows: int | None = None) -> Callable[[], Tensor]:
        """Forward and backward of the student with its teacher; the loss."""

        def whole() -> Tensor:
            self.student.zero_grad(set_to_none=False)
            with self.bench.autocast():
                loss = distil(self.student, teacher, self.rows[:rows]).loss
                loss.backward()
            return loss.detach()

        return whole

    def layers(self) -> None:
        """The same without output layers and divergence."""
        self.student.zero_grad(set_to_none=False)
        batch = collate([row.tokens for row in self.rows]).to(self.bench.device)
        with self.bench.autocast():
            with torch.no_grad():
                self.teacher(group_batch=batch, head=HiddenRows())
            self.student(group_batch=batch, head=lambda hidden, *_: hidden.float().sum()).backward()

    def plain(self) -> None:
        """Whole logits of the first row, as one writes it down."""
        self.student.zero_grad(set_to_none=False)
        tokens = self.rows[0].tokens
        ids = torch.tensor([[*tokens.prompt, *tokens.responses[0]]], device=self.bench.device)
        before, T = len(tokens.prompt) - 1, KL.temperature
        with self.bench.autocast():
            with torch.no_grad(), torch.autocast(self.bench.device, enabled=False):
                target = (self.teacher(input_ids=ids).logits.float() / T).softmax(-1)
            scaled = self.student(input_ids=ids).logits.float() / T
            loss = kl_div(scaled.log_softmax(-1), target, reduction="none").sum(-1)
            (T**2 * loss[:, before:-1].sum()).backward()


def _equal(sides: _Sides, hidden: Teacher, top: Teacher) -> list[Claim]:
    sides.plain()
    wanted = gradients(sides.student)
    sides.step(sides.live, 1)()
    off = relative(gradients(sides.student), wanted)
    losses = [float(sides.step(teacher)()) for teacher in (sides.live, hidden, top)]
    apart = abs(losses[1] / losses[0] - 1)
    below = losses[2] <= losses[0] * 1.001
    return [
        Claim.of("distillation equals whole logits", f"{off:.1e}", "<= 1e-2", off <= 1e-2),
        Claim.of("stored hidden states equal a live teacher", f"{apart:.1e}", "<= 1e-3",
                 apart <= 1e-3),
        Claim.of("the top 64 bound the divergence from below",
                 f"{losses[2] / losses[0]:.3f} of it", "<= 1", below),
    ]  # fmt: skip


def _costs(sides: _Sides, stored: dict[str, Teacher]) -> list[Claim]:
    name, target = "the divergence of a live teacher", f"<= {SHARE:.0%} of the step"
    launches = "launches of the divergence"
    if sides.bench.device != "cuda":
        few = Claim.untried(launches, "no GPU", f"<= {LAUNCHES}")
    else:
        more = _launches(sides.step(sides.live)) - _launches(sides.layers)
        few = Claim.of(launches, f"{more}", f"<= {LAUNCHES}", more <= LAUNCHES)
    ways = {"live": sides.live, **stored}
    steps: dict[str, Callable[[], Any]] = {way: sides.step(ways[way]) for way in ways}
    took = sides.bench.seconds({**steps, "layers": sides.layers})
    if not sides.bench.timed:
        return [few, Claim.untried(name, NO_TIMES, target)]
    share = 1 - took["layers"] / took["live"]
    told = ", ".join(f"{way} {1000 * took[way]:.0f} ms" for way in ways)
    return [
        few,
        Claim.of(name, f"{share:.0%}", target, share <= SHARE),
        Claim.of("a step of distillation", told, "printed", True),
    ]


def _launches(step: Callable[[], Any]) -> int:
    """Kernels of a step."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        step()
    return sum(event.count for event in seen.key_averages() if "LaunchKernel" in event.key)
