"""Ragged ranked groups for the tests of RankingTrainer, and what they share."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tiny_models import build_tokenizer

from rankdistill import RankingConfig, RankingTrainer
from rankdistill.models import encode_prompt

TOKENIZER = build_tokenizer()
EOS = TOKENIZER.eos_token_id


def ragged_groups(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Groups of 2 to 4 responses that differ in the lengths of prompts and responses."""
    draw = random.Random(seed)

    def response() -> dict[str, Any]:
        token_ids = [draw.randrange(3, 259) for _ in range(draw.randint(1, 14))]
        return {
            "text": "", "token_ids": [*token_ids, EOS], "finish_reason": "stop",
            "source": "student", "score": draw.choice([-1.0, 0.0, 0.5, 2.0]),
        }  # fmt: skip

    def group(index: int) -> dict[str, Any]:
        words = " ".join(
            draw.choice(["red", "a", "house", "of"]) for _ in range(draw.randint(1, 9))
        )
        responses = [response() for _ in range(draw.randint(2, 4))]
        return {
            "prompt_id": f"p{index}", "split": "train",
            "messages": [{"role": "user", "content": words}], "responses": responses,
        }  # fmt: skip

    return [group(index) for index in range(count)]


def strictly_ranked(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Every group has a strict pair, so that DPO's loss is log 2 at the start."""
    rows = ragged_groups(count, seed)
    for row in rows:
        for place, response in enumerate(row["responses"]):
            response["score"] = -float(place)
    return rows


@torch.no_grad()
def logps_by_hand(model: Any, row: dict[str, Any]) -> list[float]:
    """The log-probability of each response of a row, by a forward over its text alone."""
    prompt = encode_prompt(TOKENIZER, row["messages"])
    result = []
    for response in row["responses"]:
        ids = torch.tensor([[*prompt, *response["token_ids"]]])
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
        result.append(logps[len(prompt) - 1 :].sum().item())
    return result


def config(folder: Path, **settings: Any) -> RankingConfig:
    """Plain gradient descent without schedule: weights show the gradients as they are."""
    defaults: dict[str, Any] = {
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "optim": "sgd",
        "learning_rate": 0.5, "lr_scheduler_type": "constant", "warmup_steps": 0,
        "max_grad_norm": 0.0, "num_train_epochs": 1, "train_sampling_strategy": "sequential",
    }  # fmt: skip
    return RankingConfig(str(folder), **{**defaults, **settings})


def trained(model: Any, rows: Any, args: RankingConfig, **more: Any) -> RankingTrainer:
    """A trainer after its training."""
    trainer = RankingTrainer(model, args, rows, processing_class=TOKENIZER, **more)
    trainer.train()
    return trainer


def logged(trainer: RankingTrainer, name: str = "loss") -> list[float]:
    """What was logged under `name`, step by step."""
    return [row[name] for row in trainer.state.log_history if name in row]


def weights(trainer: RankingTrainer) -> dict[str, Any]:
    """Copies of the policy's parameters."""
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
