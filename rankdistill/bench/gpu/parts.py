"""What the parts share: the models of the card, and how they are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

from rankdistill.bench.gpu import Claim
from rankdistill.bench.settings import BenchSettings, Point, random_group
from rankdistill.bench.training import grouped_step
from rankdistill.forward import TokenGroup, bind
from rankdistill.objectives import RRHF

SHAPES = {
    "0.5B": (896, 4864, 24, 14, 2, True),
    "1.5B": (1536, 8960, 28, 12, 2, True),
    "7B/8": (3584, 18944, 8, 28, 4, False),
    "untied": (256, 512, 2, 4, 2, False),
}
"""Hidden and intermediate size, layers, heads, of keys, tied tables: Qwen2.5's, of 7B 8 layers of
28, and a small one of which float32 is compared."""
VOCABULARY = 151_936
WARM_UPS, TURNS = 3, 10
NO_TIMES = "times mean nothing here"


@dataclass(frozen=True)
class Bench:
    """A call's model sizes and device."""

    tiny: bool
    device: str
    with_vllm: bool = False

    @property
    def timed(self) -> bool:
        """Whether times mean something: on a card, with the models that the targets are of."""
        return self.device == "cuda" and not self.tiny

    def build(self, shape: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
        """A random model of a shape, bound, on the device."""
        return bind(self._made(Qwen2ForCausalLM, shape, seed).to(dtype))

    def reward_model(self, shape: str, seed: int = 0) -> Any:
        """As `build`, with the head of a reward model."""
        return bind(self._made(Qwen2ForSequenceClassification, shape, seed))

    def _made(self, kind: Any, shape: str, seed: int) -> Any:
        hidden, inner, layers, heads, kv_heads, tied = SHAPES[shape]
        if self.tiny:
            hidden, inner, layers, heads, kv_heads = 64, 96, 2, 2, 1
        config = Qwen2Config(
            vocab_size=512 if self.tiny else VOCABULARY,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            tie_word_embeddings=tied,
            max_position_embeddings=32_768,
            eos_token_id=2,
            pad_token_id=0,
        )
        config.num_labels = 1  # of a reward model
        torch.manual_seed(seed)
        with torch.device(self.device):
            return kind(config)

    def group(self, K: int, P: int, R: int, model: Any) -> TokenGroup:
        """K responses of R tokens to P; a sixteenth of the lengths where it is tiny."""
        share = 16 if self.tiny else 1
        return random_group(Point(K, max(P // share, 2), max(R // share, 2)), model)

    def autocast(self) -> AbstractContextManager:
        """bfloat16 on a card; float32 elsewhere, where what is compared is to be exact."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda")

    def under_autocast(self, step: Callable[[], Any]) -> Callable[[], None]:
        """The step, in the precision of `autocast`."""

        def whole() -> None:
            with self.autocast():
                step()

        return whole

    def step(self, model: Any, group: TokenGroup) -> Callable[[], None]:
        """Forward and backward of one group under RRHF."""
        return self.under_autocast(grouped_step(model, group, RRHF()))

    def timed_claim(self, claim: str, figure: str, target: str, good: bool) -> Claim:
        """A claim of what rests on times; not tried where these mean nothing."""
        if not self.timed:
            return Claim.untried(claim, NO_TIMES, target)
        return Claim.of(claim, figure, target, good)

    def seconds(self, ways: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
        """The median time of each way, taking turns; one turn where times mean nothing."""
        warm_ups, turns = (WARM_UPS, TURNS) if self.timed else (0, 1)
        found: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(warm_ups + turns):
            for name in list(ways) if turn % 2 else list(ways)[::-1]:
                took = self._once(ways[name])
                if turn >= warm_ups:
                    found[name].append(took)
        return {name: statistics.median(of_way) for name, of_way in found.items()}

    def _once(self, way: Callable[[], Any]) -> float:
        if self.device != "cuda":
            started = time.perf_counter()
            way()
            return time.perf_counter() - started
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        way()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1000

    def peak(self, way: Callable[[], Any]) -> float:
        """The largest memory that tensors took on the card, GiB; 0 elsewhere."""
        if self.device != "cuda":
            way()
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        way()
        return torch.cuda.max_memory_allocated() / 2**30


def tokenizer() -> Any:
    """Of as many words as the tiny models have ids, with a template that adds nothing."""
    made = BenchSettings("tiny").load()[1]
    made.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    return made


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference by the norm of what is wanted."""
    found, wanted = found.double().flatten(), wanted.double().flatten()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


def gradients(model: Any) -> torch.Tensor:
    """[parameters] the whole gradient, float32."""
    return torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
