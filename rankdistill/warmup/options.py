"""What every trained warm-up shares: its options, its rows, its checkpoints."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput

from rankdistill.errors import UserError, suggest
from rankdistill.forward import TokenGroup
from rankdistill.models import encode_prompt
from rankdistill.records import Group
from rankdistill.train.checkpoints import last_checkpoint
from rankdistill.train.gradient_checkpointing import check_gradient_checkpointing
from rankdistill.warmup.base import Training, Warmup
from rankdistill.warmup.lessons import SOURCES, Lessons

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")

Arguments = TypeVar("Arguments", bound=TrainingArguments)


@dataclass(frozen=True, kw_only=True)
class Optimisation(Warmup):
    """How a warm-up is optimised.

    Args:
        learning_rate: Peak learning rate of AdamW.
        epochs: Passes over the teacher's responses.
        responses_per_step: Responses in one optimiser step, over all devices.
        max_batch_tokens: Tokens that go through a model at once; changes no gradient.
        lr_scheduler_type: linear, cosine, constant or constant_with_warmup.
        warmup_ratio: Share of the steps over which the learning rate rises to its peak.
        weight_decay: Of AdamW.
        max_grad_norm: Norm that gradients are clipped to.
        gradient_checkpointing: Recompute activations in the backward pass: false, true, or
            `selective` (see `enable_gradient_checkpointing`).
        logging_steps: Steps between logged figures.
        save_steps: Steps between checkpoints.
        eval_steps: Steps, or below 1 the share of all steps, between measurements on the
            validation prompts.
        learn_from: `teacher`, which writes responses, or `data`: those that came with the prompts.

    Raises:
        UserError: A value is out of its range.
    """

    learning_rate: float = 3e-4
    epochs: float = 4.0
    responses_per_step: int = 8
    max_batch_tokens: int = 4096
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool | str = False
    logging_steps: int = 1
    save_steps: int = 50
    eval_steps: float = 0.25
    learn_from: str = "teacher"

    def __post_init__(self) -> None:
        for key in ("responses_per_step", "max_batch_tokens", "logging_steps", "save_steps"):
            require(key, getattr(self, key), getattr(self, key) >= 1, "at least 1")
        for key in ("learning_rate", "epochs", "max_grad_norm", "eval_steps"):
            require(key, getattr(self, key), 0 < getattr(self, key) < math.inf, "above 0")
        require("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio < 1, "in [0, 1)")
        check_gradient_checkpointing("warmup.gradient_checkpointing", self.gradient_checkpointing)
        require("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0")
        if self.lr_scheduler_type not in SCHEDULES:
            raise UserError(
                f"warmup.lr_scheduler_type '{self.lr_scheduler_type}' is unknown: "
                f"{suggest(self.lr_scheduler_type, SCHEDULES)}"
            )
        if self.learn_from not in SOURCES:
            raise UserError(
                f"warmup.learn_from '{self.learn_from}' is unknown: "
                f"{suggest(self.learn_from, SOURCES)}"
            )

    @property
    def lessons(self) -> Lessons:
        """The responses that are learned."""
        return Lessons(source=self.learn_from)

    @property
    def optimisation(self) -> dict[str, Any]:
        """The options that change the weights, for `identity`."""
        keys = (
            "learning_rate", "epochs", "responses_per_step", "lr_scheduler_type", "warmup_ratio",
            "weight_decay", "max_grad_norm",
        )  # fmt: skip
        return {key: getattr(self, key) for key in keys}


def require(key: str, value: Any, condition: bool, what: str) -> None:
    """UserError unless `condition`: ``warmup.<key> is <value>; it must be <what>.``"""
    if not condition:
        raise UserError(f"warmup.{key} is {value}; it must be {what}.")


@dataclass(frozen=True)
class TokenRow:
    """A response with its prompt: what a step is made of."""

    prompt_id: str
    tokens: TokenGroup
    index: int = 0
    """Its position among the rows."""
    turns: Sequence[Sequence[int]] | None = None
    """Spans [start, end) of the response that are learned; None: all of it."""

    @property
    def response(self) -> Sequence[int]:
        """The response's token ids."""
        return self.tokens.responses[0]

    @property
    def learned(self) -> list[bool]:
        """Of each response token, whether it is learned."""
        if self.turns is None:
            return [True] * len(self.response)
        inside = {i for start, end in self.turns for i in range(start, end)}
        return [i in inside for i in range(len(self.response))]

    @property
    def length(self) -> int:
        """Tokens of the prompt and the response."""
        return len(self.tokens.prompt) + len(self.response)


def token_rows(groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase) -> list[TokenRow]:
    """One row per response: its prompt's ids and the response's ids as they were sampled.

    EOS is among the ids where the teacher wrote it; a response cut by length has none, so that the
    student does not learn to stop there. Responses without a token are left out.

    Raises:
        UserError: There is no response.
    """
    rows: list[TokenRow] = []
    for group in groups:
        prompt = encode_prompt(tokenizer, group["messages"])
        for response in group["responses"]:
            if response["token_ids"]:
                tokens = TokenGroup(prompt, [response["token_ids"]])
                turns = response.get("turns")
                rows.append(TokenRow(group["prompt_id"], tokens, len(rows), turns))
    if not rows:
        raise UserError(
            "the warm-up has no response of the teacher to learn from: check the train split of "
            "prompts.path, or set warmup=none."
        )
    return rows


def figures(trainer: Trainer, result: TrainOutput, rows: Sequence[TokenRow]) -> dict[str, Any]:
    """What a run records of a warm-up: the last logged loss, work done, and the whole history."""
    history = trainer.state.log_history
    losses = [entry["loss"] for entry in history if "loss" in entry]
    return {
        "loss": losses[-1] if losses else result.training_loss,
        "steps": trainer.state.global_step,
        "responses": len(rows),
        "tokens": sum(sum(row.learned) for row in rows),
        "seconds": result.metrics["train_runtime"],
        "history": history,
    }


def training_arguments(
    kind: type[Arguments],
    options: Optimisation,
    how: Training,
    precision: str,
    *,
    measured: bool = False,
    **more: Any,
) -> Arguments:
    """The Trainer's arguments for `options`; `more` are further ones of `kind`.

    Args:
        precision: Of the student's forward and backward pass.
        measured: Whether there are rows to measure on.
    """
    on_cpu = not torch.accelerator.is_available()
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    return kind(
        output_dir=str(how.checkpoints),
        learning_rate=options.learning_rate,
        num_train_epochs=options.epochs,
        lr_scheduler_type=options.lr_scheduler_type,
        warmup_steps=options.warmup_ratio,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        gradient_checkpointing=False,  # the model is told, see `enable_gradient_checkpointing`
        logging_steps=options.logging_steps,
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=2,
        eval_strategy="steps" if measured else "no",
        eval_steps=options.eval_steps,
        # What is measured before the first step; a run that continues has measured it.
        eval_on_start=measured and last_checkpoint(how.checkpoints) is None,
        optim="adamw_torch_fused",
        seed=how.seed,
        report_to=list(how.report_to) or "none",
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        use_liger_kernel=how.use_liger_kernel,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and several else None,
        dataloader_pin_memory=not on_cpu,
        disable_tqdm=True,
        **more,
    )
