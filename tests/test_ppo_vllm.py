"""PPO with vLLM's rollouts: its weights follow the policy's, and the curve is transformers'."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
from ppo_task import policy, trainer

from rankdistill.sample import open_sampler

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


def test_vllm_and_transformers_give_one_curve(tmp_path: Path):
    curves = {}
    for name in ("transformers", "vllm"):
        with open_sampler(name) as sampler:
            run = trainer(tmp_path / name, epochs=14, sampler=sampler, policy=policy(heads=1))
            run.train()
        curves[name] = [row["score"] for row in run.history]
        # Weights that had not followed would differ by as much as the policy has moved.
        assert max(row["sampler_gap"] for row in run.history) < 1e-3
        assert run.history[-1]["kl"] > 0.3
        assert max(row["first_ratio_error"] for row in run.history) < 1e-4
    starts, ends = (
        [fmean(c[part]) for c in curves.values()] for part in (slice(3), slice(-3, None))
    )
    assert abs(starts[0] - starts[1]) < 0.06
    assert abs(ends[0] - ends[1]) < 0.2 and min(ends) > 0.6
