"""A task that PPO has to win: a tiny model, a reward that a program can check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_models import build_model, build_tokenizer

from rankdistill.sample import SamplingOptions
from rankdistill.sample.transformers import TransformersSampler
from rankdistill.train.ppo.config import PPOConfig
from rankdistill.train.ppo.trainer import PPOTrainer

TOKENIZER = build_tokenizer()
TOKENIZER.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
WANTED = range(3, 67)
"""A quarter of the vocabulary."""


def prompts(count: int = 8) -> list[dict[str, Any]]:
    return [
        {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": "abcdefgh"[i % 8] * 4}]}
        for i in range(count)
    ]


def offset(group: Any) -> float:
    """Prompts are easy or hard: half of them earn 0.4 more, whatever is written, half 0.4 less."""
    return 0.4 if int(group["prompt_id"][1:]) % 2 else -0.4


def share_of_wanted(groups: Sequence[Any]) -> list[list[float]]:
    """The share of wanted tokens in each response, and the prompt's offset."""
    return [
        [
            sum(t in WANTED for t in r["token_ids"]) / len(r["token_ids"]) + offset(group)
            for r in group["responses"]
        ]
        for group in groups
    ]


def config(folder: Path, **more: Any) -> PPOConfig:
    sampling = {
        "responses_per_prompt": 8, "temperature": 1.0, "top_p": 1.0, "top_k": 0,
        "max_response_tokens": 8, "seed": 0, **more.pop("sampling", {}),
    }  # fmt: skip
    options: dict[str, Any] = {
        "prompts_per_rollout": 8, "prompts_per_step": 4, "ppo_epochs": 2, "epochs": 30,
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "kl_coef": 0.02,
        "value_weight": 1.0, "value_clip": None, "max_kl": None, "save_steps": 1000,
    }  # fmt: skip
    return PPOConfig(
        output_dir=str(folder), sampling=SamplingOptions(**sampling), **{**options, **more}
    )


def policy(seed: int = 0, scale: float = 5.0, heads: int = 4) -> Any:
    """A random model whose layers do more than a new one's, so that a state tells of its prompt."""
    model = build_model("llama", layers=2, seed=seed, heads=heads)
    for name, weight in model.named_parameters():
        if name.endswith("proj.weight"):
            weight.data.mul_(scale)
    return model


def trainer(folder: Path, reward: Any = share_of_wanted, **more: Any) -> PPOTrainer:
    """A trainer of the task; `more` are options of `PPOConfig` and arguments of `PPOTrainer`."""
    own = ("policy", "reference", "critic", "sampler", "prompts", "tokenizer")
    ours = {key: more.pop(key) for key in own if key in more}
    options = config(folder, **more)
    return PPOTrainer(
        ours.get("policy") or policy(options.seed),
        options, ours.get("prompts", prompts()), ours.get("tokenizer", TOKENIZER), reward,
        ours.get("sampler") or TransformersSampler(), reference=ours.get("reference"),
        critic=ours.get("critic"),
    )  # fmt: skip
