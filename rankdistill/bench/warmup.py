"""A step of logit distillation: the teacher runs along, or has left its outputs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, pad

from rankdistill.bench.flops import Cost, Work, shared
from rankdistill.bench.results import ResultRow
from rankdistill.bench.settings import TINY, BenchSettings, Point, random_group
from rankdistill.bench.training import Step, compare
from rankdistill.console import heading, result
from rankdistill.forward import bind, collate
from rankdistill.trainer.modes import enable_gradient_checkpointing
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teacher_cache import CacheSpec, TeacherCache
from rankdistill.warmup.teachers import CachedTeacher, Divergence, LiveTeacher, Teacher
from rankdistill.warmup.trainer import distil

K = 64
"""Tokens that a support keeps."""
NAIVE, LIVE, HIDDEN = "live teacher, full logits", "live teacher", "cached hidden states"
NAIVE_TOP, TOP = f"cached top {K}, full logits", f"cached top {K}"
LEAN_HIDDEN, LEAN_TOP = f"{HIDDEN}, selective checkpointing", f"{TOP}, selective checkpointing"
T = 2.0
KL = Divergence("forward_kl", T)


def run(settings: BenchSettings) -> list[ResultRow]:
    """The rows of the benchmark.

    Raises:
        UserError: the model has too few positions.
        Unequal: ways that compute the same have other losses or gradients.
    """
    heading("warmup", f"distillation of a random teacher into {settings.model}")
    student, _ = settings.load()
    bind(student).train()
    teacher = _teacher(student.config.vocab_size, small=settings.model == TINY)
    teacher.to(student.device)
    point = settings.at(K=1, P=16, R=496)
    with tempfile.TemporaryDirectory() as folder:
        bench = _Warmup(student, teacher, point, Path(folder))
        turns, differences = compare(
            student,
            bench.steps(),
            settings.rounds,
            f"distillation, {point}",
            alike=[(NAIVE, LIVE, HIDDEN, LEAN_HIDDEN), (NAIVE_TOP, TOP, LEAN_TOP)],
        )
    pairs = [
        (NAIVE, LIVE), (NAIVE, HIDDEN), (NAIVE, TOP), (LIVE, HIDDEN), (LIVE, TOP), (NAIVE_TOP, TOP),
        (NAIVE, LEAN_HIDDEN), (NAIVE, LEAN_TOP),
    ]  # fmt: skip
    rows = [
        ResultRow(
            benchmark="warmup",
            what="distillation",
            point=str(point),
            theirs=theirs,
            ours=ours,
            their_turns=turns[theirs],
            our_turns=turns[ours],
            limit=bench.flops(theirs) / bench.flops(ours),
            differences=differences,
        )
        for theirs, ours in pairs
    ]
    for row in rows:
        result(f"{row.ours}: {row.ratio:.2f}x {row.theirs}")
    return rows


def _teacher(vocabulary: int, *, small: bool) -> Any:
    """A random Llama in the shape of SmolLM2-360M (362 million parameters), or a small one."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = (64, 128, 3, 4, 2) if small else (960, 2560, 32, 15, 5)
    hidden, intermediate, layers, heads, kv_heads = size
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = LlamaForCausalLM(config)
    return bind(model.eval().requires_grad_(False))


@dataclass
class _Warmup:
    student: Any
    teacher: Any
    point: Point
    folder: Path

    def __post_init__(self) -> None:
        self.row = TokenRow("p", random_group(self.point, self.student))

    def steps(self) -> dict[str, Step]:
        """All ways, by name."""
        top = self._cache(
            "top_k", vocabulary=self.student.config.vocab_size, k=K, temperatures=(T,)
        )
        hidden = self._cache("hidden", hidden_size=self.teacher.config.hidden_size)
        return {
            NAIVE: self._naive(self._full_kl),
            LIVE: self._ours(LiveTeacher(self.teacher, KL)),
            HIDDEN: self._ours(CachedTeacher(hidden, KL, self.teacher)),
            LEAN_HIDDEN: self._ours(CachedTeacher(hidden, KL, self.teacher), "selective"),
            NAIVE_TOP: self._naive(_OnSupport(top, self.row)),
            TOP: self._ours(CachedTeacher(top, KL)),
            LEAN_TOP: self._ours(CachedTeacher(top, KL), "selective"),
        }

    def flops(self, name: str) -> float:
        """Of a step, from closed forms."""
        ours = shared(1, self.point.P, self.point.R)
        everywhere = Work(ours.tokens, ours.tokens, ours.pairs)
        of_student, of_teacher = Cost.of(self.student), Cost.of(self.teacher)
        step = (everywhere if name in (NAIVE, NAIVE_TOP) else ours).training(of_student)
        if name == NAIVE:
            return step + everywhere.inference(of_teacher)
        if name == LIVE:
            return step + ours.inference(of_teacher)
        return step + of_teacher.row * ours.rows * (name in (HIDDEN, LEAN_HIDDEN))

    def _cache(self, kind: str, **spec: Any) -> TeacherCache:
        cache = TeacherCache(self.folder / kind, CacheSpec(kind, **spec), [self.row])
        cache.fill(lambda: self.teacher, 4096)
        result(f"{kind}: {cache.bytes_per_token:.0f} bytes per token")
        return cache

    def _ours(self, teacher: Teacher, checkpointing: bool | str = False) -> Step:
        def step() -> float:
            self.student.gradient_checkpointing_disable()
            enable_gradient_checkpointing(self.student, checkpointing)
            teacher.to(self.student.device)
            loss = distil(self.student, teacher, [self.row]).loss / self.point.R
            loss.backward()
            return loss.item()

        return step

    def _naive(self, divergence: Any) -> Step:
        """Logits and log-softmax of both models at every position, then the response tokens."""

        def step() -> float:
            self.student.gradient_checkpointing_disable()
            batch = collate([self.row.tokens], "padded").to(self.student.device)
            ids = batch.input_ids
            logits = self.student(input_ids=ids, use_cache=False).logits
            scaled = logits / T
            loss = divergence(ids, scaled)[:, self.point.P - 1 : -1].mean() * T**2
            loss.backward()
            return loss.item()

        return step

    def _full_kl(self, ids: Tensor, scaled: Tensor) -> Tensor:
        with torch.no_grad():
            logits = self.teacher(input_ids=ids, use_cache=False).logits
            target = (logits / T).softmax(-1)
        return kl_div(scaled.log_softmax(-1), target, reduction="none").sum(-1)


class _OnSupport:
    """KL over stored tokens and the bucket of the rest, from log-probabilities of all tokens."""

    def __init__(self, cache: TeacherCache, row: TokenRow) -> None:
        stored = cache.spec.support(cache.read([row]))
        kept = torch.log1p(-stored.log_tail.exp())
        logp = torch.cat(
            [(stored.values.float() / T).log_softmax(-1) + kept, stored.log_tail], dim=-1
        )
        self._ids, self._logp, self._before = stored.ids, logp, len(row.tokens.prompt) - 1

    def __call__(self, ids: Tensor, scaled: Tensor) -> Tensor:
        logq = scaled.log_softmax(-1)
        own = logq[0, self._before : -1].gather(-1, self._ids.to(logq.device))
        rest = torch.log1p(-own.exp().sum(-1, keepdim=True))
        logp = self._logp.to(logq.device)
        terms = logp.exp() * (logp - torch.cat([own, rest], dim=-1))
        return pad(terms.sum(-1), (self._before, 1))[None]
