"""A warm-up from a cached teacher, slow enough to be killed: `python warmup_killed.py ROOT`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
import warmup_runs

from rankdistill.warmup import teacher_cache
from rankdistill.warmup.logits import LogitsWarmup

SHARD_TOKENS = 20


def groups() -> list[Any]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "prompt_id": f"p{i}", "split": "train",
            "messages": [{"role": "user", "content": "x" * i}],
            "responses": [
                {
                    "token_ids": torch.randint(3, 259, (1 + i % 9,), generator=generator).tolist(),
                    "finish_reason": "length", "text": "", "source": "teacher",
                }
            ],
        }
        for i in range(24)
    ]  # fmt: skip


def warm_up(models: Path, out: Path, pause: float = 0.0) -> dict[str, Any]:
    """Caches 8 of the teacher's tokens in small shards, then trains 6 steps."""
    plan, write = teacher_cache._plan, teacher_cache.write_shard

    def slowly(*arguments: Any) -> None:
        write(*arguments)
        time.sleep(pause)

    teacher_cache._plan = lambda rows, tokens: plan(rows, SHARD_TOKENS)
    teacher_cache.write_shard = slowly  # type: ignore[assignment]
    try:
        warmup = LogitsWarmup(
            teacher_outputs="top_k", top_k=8, epochs=2.0, responses_per_step=8, save_steps=1,
            learning_rate=1e-3,
        )  # fmt: skip
        folders = models / "student", models / "teacher"
        return warmup_runs.warm_up(warmup, *folders, groups(), out / "model")
    finally:
        teacher_cache._plan, teacher_cache.write_shard = plan, write


if __name__ == "__main__":
    warm_up(Path(sys.argv[1]), Path(sys.argv[2]), pause=0.1)
