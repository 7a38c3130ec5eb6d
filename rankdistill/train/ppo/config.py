"""What a `PPOTrainer` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from rankdistill.errors import UserError, suggest
from rankdistill.forward import LAYOUTS
from rankdistill.optimiser import check_gradient_checkpointing
from rankdistill.sample.base import SamplingOptions

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")


@dataclass(frozen=True, kw_only=True)
class PPOConfig:
    """Options of PPO; an iteration is one rollout and the updates on it.

    Args:
        output_dir: Checkpoints, and the policy's weights for the sampler.
        sampling: Of the rollouts. Unfiltered: ``top_p=1``, ``top_k=0``. The policy's and the
            reference's logits are divided by its temperature everywhere.
        prompts_per_rollout: Prompts of an iteration, over all processes.
        epochs: Passes over the prompts.
        ppo_epochs: Passes over a rollout.
        prompts_per_step: Prompts of an optimiser step (a minibatch), over all processes.
        max_batch_tokens: Tokens of one forward and backward pass; changes no gradient.
        layout: `shared`, `packed` or `padded`.
        learning_rate: Peak of AdamW.
        lr_scheduler_type: linear, cosine, constant or constant_with_warmup, over the iterations.
        warmup_ratio: Share of the iterations over which the learning rate rises.
        weight_decay: Of AdamW.
        max_grad_norm: Norm that gradients are clipped to.
        gradient_checkpointing: Recompute activations in the backward pass: false, true, or
            `selective` (see `enable_gradient_checkpointing`).
        mixed_precision: no, bf16 or fp16, as in accelerate.
        advantage: `gae` with a critic, or `group`: the return minus the mean of the other responses
            to the prompt (RLOO), without one.
        gamma: Discount a token.
        lam: Of `gae`.
        whiten_advantages: Give the rollout's advantages mean 0 and variance 1.
        whiten_rewards: Give the rollout's token rewards variance 1, and leave their mean.
        clip: Of the probability ratio.
        value_clip: Of the critic's change; None does not clip.
        value_weight: Of the critic's loss.
        kl_coef: Nats of KL to the reference cost this much reward; the initial one if adaptive.
        kl_target: Nats a response that the coefficient is steered to; None keeps it fixed.
        kl_horizon: Responses over which it is steered (Ziegler et al. 2019).
        cut: What a response that the length limit cut does. `terminal`: it is scored as it is and
            ends there. `bootstrap`: it gets no score, and goes on with the critic's value.
        missing_eos_penalty: Subtracted from the score of a cut response.
        stop_kl: Nats a token between the policies before and after an update; beyond, the rest of
            the iteration's updates is left out. None never does.
        max_kl: Nats a token to the reference; beyond, the run stops. None never does.
        sampler_tolerance: Nats a token by which sampler and trainer may disagree on average about
            the same response; beyond, the run stops.
        save_steps: Iterations between checkpoints.
        seed: Of rollouts and of the data order.

    Raises:
        UserError: a value out of its range.
    """

    output_dir: str
    sampling: SamplingOptions
    prompts_per_rollout: int = 32
    epochs: float = 1.0
    ppo_epochs: int = 4
    prompts_per_step: int = 32
    max_batch_tokens: int = 4096
    layout: str = "shared"
    learning_rate: float = 3e-6
    lr_scheduler_type: str = "linear"
    warmup_ratio: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool | str = False
    mixed_precision: str = "no"
    advantage: str = "gae"
    gamma: float = 1.0
    lam: float = 0.95
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_weight: float = 0.1
    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_horizon: int = 10_000
    cut: str = "terminal"
    missing_eos_penalty: float = 0.0
    stop_kl: float | None = None
    max_kl: float | None = 1.0
    sampler_tolerance: float = 0.05
    save_steps: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_sampling()
        for key, choices in (
            ("layout", LAYOUTS),
            ("lr_scheduler_type", SCHEDULES),
            ("advantage", ("gae", "group")),
            ("cut", ("terminal", "bootstrap")),
        ):
            if (value := getattr(self, key)) not in choices:
                raise UserError(f"train.{key} '{value}' is unknown: {suggest(value, choices)}")
        check_gradient_checkpointing("train.gradient_checkpointing", self.gradient_checkpointing)
        counts = (
            "prompts_per_rollout", "ppo_epochs", "prompts_per_step", "max_batch_tokens",
            "kl_horizon", "save_steps",
        )  # fmt: skip
        for key in counts:
            self._require(key, getattr(self, key) >= 1, "at least 1")
        for key in ("learning_rate", "clip", "max_grad_norm", "sampler_tolerance", "epochs"):
            self._require(key, getattr(self, key) > 0, "above 0")
        for key in ("value_clip", "kl_target", "stop_kl", "max_kl"):
            value = getattr(self, key)
            self._require(key, value is None or value > 0, "above 0, or null")
        for key in ("value_weight", "kl_coef", "missing_eos_penalty", "weight_decay"):
            self._require(key, getattr(self, key) >= 0, "at least 0")
        for key in ("gamma", "lam", "warmup_ratio"):
            self._require(key, 0 <= getattr(self, key) <= 1, "in [0, 1]")
        if self.advantage == "group" and self.cut == "bootstrap":
            raise UserError(
                "train.cut=bootstrap goes on with the critic's value, and train.advantage=group "
                "has no critic: take train.cut=terminal."
            )

    def _check_sampling(self) -> None:
        sampling = self.sampling
        if sampling.top_p < 1 or sampling.top_k > 0:
            raise UserError(
                f"PPO's rollouts were asked for with top_p={sampling.top_p}, top_k="
                f"{sampling.top_k}, but the ratio and the KL are those of the whole distribution: "
                "sample them with top_p=1 and top_k=0."
            )
        if sampling.temperature <= 0:
            raise UserError("PPO's rollouts need a temperature above 0: there is nothing to learn.")
        if self.advantage == "group" and sampling.responses_per_prompt < 2:
            raise UserError(
                "train.advantage=group compares the responses to a prompt: give "
                "train.rollout.responses_per_prompt at least 2."
            )

    def _require(self, key: str, condition: bool, what: str) -> None:
        if not condition:
            raise UserError(f"train.{key} is {getattr(self, key)}; it must be {what}.")
