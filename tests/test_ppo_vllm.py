"""PPO with vLLM's rollouts: its weights follow the policy's, and the curve is transformers'."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
import torch
from ppo_task import trainer
from transformers import LlamaConfig, LlamaForCausalLM

from rankdistill.sample import open_sampler

pytestmark = pytest.mark.vllm


def policy() -> LlamaForCausalLM:
    """As `ppo_task.policy`, with heads of 32, which vLLM's CPU attention asks for at least."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=259, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=1, num_key_value_heads=1, head_dim=32, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=2, pad_token_id=0, max_position_embeddings=512,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("proj.weight"):
            weight.data.mul_(5.0)
    return model


def test_vllm_and_transformers_give_one_curve(tmp_path: Path):
    curves = {}
    for name in ("transformers", "vllm"):
        with open_sampler(name) as sampler:
            run = trainer(tmp_path / name, epochs=14, sampler=sampler, policy=policy())
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
