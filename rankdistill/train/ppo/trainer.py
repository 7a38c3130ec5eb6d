"""PPO on plain accelerate.

An iteration: the policy's current weights write K responses to some prompts (any sampler), a reward
scores them, then the policy is updated on them a few times. All K responses share their prompt in
the update as well.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase, get_scheduler

from rankdistill.console import say
from rankdistill.distributed import refuse_sharding
from rankdistill.errors import Diverged, UserError
from rankdistill.forward import bind
from rankdistill.models import Loading, WithoutAdapters, place
from rankdistill.sample.sampler import Sampler
from rankdistill.train.ppo.actor_critic import ActorCritic, value_head
from rankdistill.train.ppo.checkpoint import Progress, last_complete, restore, save
from rankdistill.train.ppo.config import PPOConfig
from rankdistill.train.ppo.experience import Experience
from rankdistill.train.ppo.losses import KLController
from rankdistill.train.ppo.readers import LocalReader, Readers, TokenReader
from rankdistill.train.ppo.rollout import Reward, Rollouts
from rankdistill.train.ppo.update import Updates
from rankdistill.trainer.modes import enable_gradient_checkpointing

ADAM_EPSILON = 1e-5
"""As in the original code (Huang et al. 2024, arXiv:2403.17031): gradients here are small."""


class PPOTrainer:
    """Trains a policy on a reward.

    Args:
        policy: A causal language model, perhaps with adapters (peft), which alone are trained then;
            bound and freed of dropout, in place.
        config: See `PPOConfig`.
        prompts: Rows with `prompt_id` and `messages`, see `Rollouts`.
        tokenizer: The policy's.
        reward: Groups with sampled responses -> their scores; None: `config.reward_coef` is 0.
        sampler: Writes the rollouts.
        reference: What the KL is taken to, the teacher of `advantage=teacher`: a model, or another
            `TokenReader`; by value of `teacher_column` where there are several. None: the policy as
            it is now, of one with adapters the model without them.
        critic: A reward model that becomes the critic; None: a head on the policy's backbone.
        report_to: accelerate's trackers.
        loading: How the sampler loads the policy, whose folder it is given.

    Raises:
        UserError: no prompt; a launch that shards models.
    """

    def __init__(
        self,
        policy: Any,
        config: PPOConfig,
        prompts: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        reward: Reward | None,
        sampler: Sampler,
        *,
        reference: Any = None,
        critic: Any = None,
        report_to: Sequence[str] = (),
        loading: Loading | None = None,
    ) -> None:
        if not prompts:
            raise UserError("PPO needs at least one prompt to write responses to.")
        refuse_sharding("PPO", os.environ)
        self.config = config
        self.accelerator = _accelerator(config, report_to)
        several = reference if isinstance(reference, Mapping) else {"": reference}
        made = {id(one): self._reader(policy, one) for one in several.values()}
        readers = {name: made[id(one)] for name, one in several.items()}
        enable_gradient_checkpointing(policy, config.gradient_checkpointing)
        if config.advantage == "gae" and critic is None:
            critic = value_head(policy)
        model = ActorCritic(policy, critic, config.layout, config.sampling.temperature)
        model.train()
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trained,
            config.learning_rate,
            eps=ADAM_EPSILON,
            weight_decay=config.weight_decay,
            fused=self.accelerator.device.type == "cuda",
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.controller = KLController(config.kl_coef, config.kl_target, config.kl_horizon)
        self.rollouts = Rollouts(
            self.accelerator,
            self.model,
            Readers(readers, config.teacher_column),
            config,
            prompts,
            tokenizer,
            reward,
            sampler,
            loading or Loading(),
        )
        self._updates = Updates(self.accelerator, self.model, self.optimizer, config)
        self.progress = Progress()
        self._said: set[str] = set()
        self.on_iteration: Callable[[dict[str, float]], None] = lambda figures: None
        """Called with the figures after every iteration."""

    @property
    def policy(self) -> Any:
        """The policy, as it is trained so far."""
        return self.accelerator.unwrap_model(self.model).policy

    @property
    def history(self) -> list[dict[str, float]]:
        """The figures of every iteration."""
        return self.progress.history

    def train(self, *, resume: bool = False) -> None:
        """All iterations, or with `resume` those after the last complete checkpoint.

        Raises:
            UserError: a loss, gradient or reward that is not finite, a KL beyond `max_kl`, or a
                sampler that disagrees with the trainer.
        """
        if resume:
            self.resume()
        while self.progress.iteration < len(self.rollouts):
            figures = self._iterate(self.progress.iteration)
            self.progress.iteration += 1
            self.history.append(figures)
            self.accelerator.log(figures, step=self.progress.iteration)
            self.on_iteration(figures)
            last = self.progress.iteration == len(self.rollouts)
            if last or self.progress.iteration % self.config.save_steps == 0:
                self.progress.kl_coefficient = self.controller.coefficient
                save(self.accelerator, self.progress, Path(self.config.output_dir))

    def resume(self) -> int:
        """Loads the last complete checkpoint, if there is one; iterations that are finished."""
        folder = last_complete(Path(self.config.output_dir))
        if folder is not None:
            self.progress = restore(self.accelerator, folder)
            self.controller.coefficient = self.progress.kl_coefficient
        return self.progress.iteration

    def _reader(self, policy: Any, reference: Any) -> TokenReader:
        """Reads as the reference, which is frozen and put on the device where it is a model."""
        if reference is not None and not isinstance(reference, nn.Module):
            return reference
        if reference is None and isinstance(policy, PeftModel):
            reference = WithoutAdapters(policy)
        else:
            reference = copy.deepcopy(policy) if reference is None else reference
            reference = place(bind(reference, self.config.layout), self.accelerator.device)
            reference.requires_grad_(False).eval()
        vocabulary = policy.config.get_text_config().vocab_size
        return LocalReader(reference, self.accelerator, self.config, vocabulary)

    def _iterate(self, iteration: int) -> dict[str, float]:
        """One rollout and the updates on it; its figures."""
        episodes = self.rollouts(iteration)
        coefficient = self.controller.coefficient
        experience = Experience.of(episodes, self.config, coefficient)
        figures = experience.figures
        self._check_kl(figures["kl"], iteration)
        self._warn(experience)
        learning_rate = self._set_learning_rate(iteration)
        update = self._updates(experience, iteration)
        self.progress.steps += int(update["updates"])
        self.controller.update(figures["kl_response"], len(experience.mask))
        gap = self.rollouts.sampler_gap
        return {
            "step": float(self.progress.steps),
            "iteration": float(iteration + 1),
            **update,
            **figures,
            "kl_coef": coefficient,
            "learning_rate": learning_rate,
            **({} if gap is None else {"sampler_gap": gap}),
            **{f"teacher_{name}": float(n) for name, n in self.rollouts.taken.items()},
        }

    def _check_kl(self, kl: float, iteration: int) -> None:
        if self.config.max_kl is None or kl <= self.config.max_kl:
            return
        folder = last_complete(Path(self.config.output_dir))
        raise Diverged(
            f"The policy is {kl:.2f} nats per token from the reference in iteration "
            f"{iteration + 1}, above train.max_kl={self.config.max_kl:g}: lower "
            "train.learning_rate or raise train.kl_coef; the policy before is in "
            f"{folder or 'no checkpoint'}."
        )

    def _warn(self, experience: Experience) -> None:
        """A line, once, for what makes the rewards say little."""
        count, figures = len(experience.mask), experience.figures
        warnings = []
        if figures.get("score_std") == 0:
            warnings.append(
                f"All {count} responses of a rollout have the reward {figures['score']:g}, so only "
                "the KL is learnt from: look at the reward if this goes on."
            )
        if figures["cut_share"] == 1:
            warnings.append(
                f"All {count} responses of a rollout were cut at "
                f"{self.config.sampling.max_response_tokens} tokens, so none shows how to end: "
                "raise the rollouts' max_response_tokens."
            )
        if lost := round(figures.get("no_answer", 0.0) * count):
            warnings.append(
                f"{lost} of {count} responses of a rollout ended before their thought did, and a "
                "verifier gives what has no answer 0: raise the rollouts' max_response_tokens, or "
                "have the template leave thoughts out (student.chat_template_kwargs)."
            )
        for line in warnings:
            if line.partition(",")[2] not in self._said:
                self._said.add(line.partition(",")[2])
                say(line)

    def _set_learning_rate(self, iteration: int) -> float:
        """The schedule's value, constant in an iteration; so it is not lost where updates stop."""
        total, ratio = len(self.rollouts) + 1, self.config.warmup_ratio
        unused = torch.optim.SGD([torch.zeros(1)], 1.0)
        schedule: Any = get_scheduler(
            self.config.lr_scheduler_type, unused, math.ceil(ratio * total), total
        )
        value = self.config.learning_rate * schedule.lr_lambdas[0](iteration + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = value
        return value


def _accelerator(config: PPOConfig, report_to: Sequence[str]) -> Accelerator:
    # The state is the process's: an earlier training may have left one of another precision.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        log_with=list(report_to) or None,
        project_dir=config.output_dir,
        # The first process samples for all while the others wait.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=12))],
    )
    if report_to:
        accelerator.init_trackers("rankdistill")
    return accelerator
