"""The updates on a rollout: exact means over the tokens of a step, however it is split up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rankdistill.forward import bound_layout, collate, micro_batches
from rankdistill.sample.sampler import response_seed
from rankdistill.train.ppo.checkpoint import last_complete
from rankdistill.train.ppo.config import PPOConfig
from rankdistill.train.ppo.experience import Experience
from rankdistill.train.ppo.losses import policy_loss, value_loss
from rankdistill.trainer.checkpoints import refuse_not_finite
from rankdistill.trainer.steps import NOTHING, equally_many

FIGURES = (
    "loss", "policy_loss", "value_loss", "divergence", "ratio", "clip_fraction", "update_kl",
)  # fmt: skip
"""A step's means per token; `divergence` is weighted; `update_kl` is the KL of the policy that
wrote from the present."""


class Updates:
    """Takes the optimiser steps of an iteration.

    Args:
        accelerator: That prepared `model` and `optimizer`.
        model: An `ActorCritic`, perhaps wrapped.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: PPOConfig,
    ) -> None:
        self._accelerator, self._model = accelerator, model
        self._optimizer, self._config = optimizer, config
        policy: Any = accelerator.unwrap_model(model).policy
        self._vocabulary = policy.config.get_text_config().vocab_size

    def __call__(self, experience: Experience, iteration: int) -> dict[str, float]:
        """Passes over the rollout in minibatches, until `stop_kl` ends them.

        Returns:
            Means of `FIGURES` over the steps; `updates`, how many were taken; `first_ratio_error`,
            the largest |ratio - 1| before the first one, which is rounding alone.

        Raises:
            UserError: a loss or a gradient that is not finite.
        """
        rows: list[dict[str, float]] = []
        steps = 0
        for prompts in self._minibatches(len(experience.episodes), iteration):
            rows.append(self._gradients(experience, prompts, iteration))
            if rows[-1]["update_kl"] > (self._config.stop_kl or math.inf):
                self._optimizer.zero_grad()
                break
            norm: Any = self._accelerator.clip_grad_norm_(
                self._model.parameters(), self._config.max_grad_norm
            )
            # With fp16 the loss scaler skips such a step by itself.
            if self._accelerator.scaler is None and not math.isfinite(float(norm)):
                self._stop("gradient", experience, prompts, iteration)
            self._optimizer.step()
            self._optimizer.zero_grad()
            steps += 1
        means = {name: sum(row[name] for row in rows) / len(rows) for name in FIGURES}
        return {**means, "updates": float(steps), "first_ratio_error": rows[0]["ratio_error"]}

    def _minibatches(self, prompts: int, iteration: int) -> list[list[int]]:
        """Prompts of every optimiser step; each pass has an order of its own."""
        parts: list[list[int]] = []
        for epoch in range(self._config.ppo_epochs):
            seed = response_seed(self._config.seed, f"update {iteration}", epoch)
            order = torch.randperm(prompts, generator=torch.Generator().manual_seed(seed))
            parts += [part.tolist() for part in order.split(self._config.prompts_per_step)]
        return parts

    def _gradients(
        self, experience: Experience, prompts: Sequence[int], iteration: int
    ) -> dict[str, float]:
        """Adds the gradients of a step's mean loss per token; returns all processes' figures.

        Every process holds the whole rollout, so it knows how many passes the others need.
        """
        processes, process = self._accelerator.num_processes, self._accelerator.process_index
        shares = [self._passes(experience, prompts[p::processes]) for p in range(processes)]
        passes = equally_many(shares[process], max(map(len, shares)))
        tokens = experience.tokens(prompts)
        # The gradients are averaged over processes, the losses are to be averaged over tokens.
        scale = processes / tokens
        device = self._accelerator.device
        totals = torch.zeros(len(FIGURES) + 1, dtype=torch.float64, device=device)
        for number, part in enumerate(passes, start=1):
            with nullcontext() if number == len(passes) else self._accelerator.no_sync(self._model):
                loss, sums, drift = self._losses(experience, part)
                self._accelerator.backward(loss * scale)
            totals[:-1] += sums
            totals[-1] = torch.maximum(totals[-1], drift)
        everyone: Any = self._accelerator.gather(totals[None].float())
        everyone = everyone.cpu()  # one transfer for all figures
        means = (everyone[:, :-1].double().sum(dim=0) / tokens).tolist()
        figures = dict(zip(FIGURES, means, strict=True))
        if not math.isfinite(figures["loss"]):
            self._stop("loss", experience, prompts, iteration)
        return {**figures, "ratio_error": float(everyone[:, -1].max())}

    def _passes(self, experience: Experience, prompts: Sequence[int]) -> list[list[int]]:
        groups = [experience.episodes[i].tokens for i in prompts]
        parts = micro_batches(groups, self._config.max_batch_tokens, bound_layout(self._model))
        return [[prompts[i] for i in part] for part in parts]

    def _losses(
        self, experience: Experience, prompts: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum of the losses of a forward pass, sums of `FIGURES`, largest |ratio - 1|."""
        device = self._accelerator.device
        if not prompts:  # any row takes part in the collectives
            nothing = collate([NOTHING], bound_layout(self._model)).to(device)
            outputs = [x for x in self._model(nothing) if x is not None]
            nought = torch.zeros(len(FIGURES), dtype=torch.float64, device=device)
            return sum(x.sum() for x in outputs) * 0.0, nought, nought[0]  # type: ignore[return-value]
        groups = [experience.episodes[i].tokens for i in prompts]
        target = experience.target(prompts, self._config, self._vocabulary)
        batch = collate(groups, bound_layout(self._model)).to(device)
        flat, beside = self._model(batch, None if target is None else target.to(device))
        rows = experience.rows(prompts)
        mask, old, advantages = (
            x[rows].to(device) for x in (experience.mask, experience.logps, experience.advantages)
        )
        new = torch.zeros_like(old).masked_scatter(mask, flat)
        of_policy = policy_loss(new, old, advantages, mask, self._config.clip)
        of_values = torch.zeros_like(of_policy)
        if experience.values is not None:
            values = torch.zeros_like(old).masked_scatter(mask, beside)
            before, returns = (x[rows].to(device) for x in (experience.values, experience.returns))
            of_values = value_loss(values, before, returns, mask, self._config.value_clip)
        of_teacher = torch.zeros_like(of_policy)
        if experience.weights is not None:
            divergences = torch.zeros_like(old).masked_scatter(mask, beside)
            of_teacher = divergences * experience.weights[rows].to(device)
        loss = of_policy + self._config.value_weight * of_values + of_teacher
        watched, drift = _watched(new.detach(), old, mask, self._config.clip)
        parts = (loss, of_policy, of_values, of_teacher)
        sums = torch.stack([x.detach().double().sum() for x in parts])
        return loss.sum(), torch.cat([sums, watched]), drift

    def _stop(
        self, what: str, experience: Experience, prompts: Sequence[int], iteration: int
    ) -> NoReturn:
        names = [experience.episodes[i].prompt_id for i in prompts]
        checkpoint = last_complete(Path(self._config.output_dir))
        refuse_not_finite(what, f"in iteration {iteration + 1}", names, checkpoint)


def _watched(new: Tensor, old: Tensor, mask: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Sums over the mask of ratio, clipped ratios and KL(old || new), and the largest |ratio - 1|.

    The KL is k3 on the old policy's own tokens, so it is never negative.
    """
    log_ratio = torch.where(mask, new - old, 0.0).double()
    ratio = log_ratio.exp()
    off = (ratio - 1.0).abs()
    moved = torch.expm1(log_ratio) - log_ratio
    sums = torch.stack([ratio.where(mask, 0.0).sum(), (off > clip).double().sum(), moved.sum()])
    return sums, off.max()
