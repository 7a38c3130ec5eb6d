"""A rollout: the policy's current weights write, the reward scores, the trainer's forward looks."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError
from rankdistill.forward import (
    TokenGroup,
    bound_layout,
    collate,
    micro_batches,
)
from rankdistill.models import Loading, Model, encode_prompt, merged_copy, release, save_model
from rankdistill.rows import Group
from rankdistill.sample.agreement import COMPARED, Gap, gap_between
from rankdistill.sample.sampler import Sampler, response_seed
from rankdistill.store.removal import folders_named, refuse_link
from rankdistill.thoughts import has_no_answer
from rankdistill.train.ppo.config import PPOConfig
from rankdistill.train.ppo.experience import Episode
from rankdistill.train.ppo.readers import Readers, Reading, Readings
from rankdistill.train.reward.model import last_rows, with_next_token
from rankdistill.trainer.batches import StepBatches
from rankdistill.trainer.checkpoints import NUMBER, listed
from rankdistill.trainer.shares import by_shares
from rankdistill.trainer.steps import NOTHING, equally_many

Reward = Callable[[Sequence[Group]], list[list[float]]]
"""Groups with sampled responses -> the score of each, `[group][response]`; higher is better."""


class Rollouts:
    """Makes the rollout of an iteration: the same, whatever the number of processes.

    The first process samples for all; each runs its share of the prompts through the models, and
    every process gets the whole rollout.

    Args:
        accelerator: That prepared `model`.
        model: An `ActorCritic`, perhaps wrapped.
        readers: The frozen reference, or the teachers; they read this process's share.
        prompts: Rows with `prompt_id` and `messages`, and with `teacher_messages` where the
            reference reads the responses behind others.
        tokenizer: The policy's.
        reward: See `Reward`; every process calls it with its share. None: there is none.
        sampler: Used on the first process only.
        loading: How it loads the policy.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        readers: Readers,
        config: PPOConfig,
        prompts: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        reward: Reward | None,
        sampler: Sampler,
        loading: Loading,
    ) -> None:
        self._accelerator, self._model, self._readers = accelerator, model, readers
        self._config, self._tokenizer = config, tokenizer
        self._prompts = list(prompts)
        self._ids = [encode_prompt(tokenizer, prompt["messages"]) for prompt in prompts]
        self._shown = [
            encode_prompt(tokenizer, prompt["teacher_messages"])
            if "teacher_messages" in prompt
            else ids
            for prompt, ids in zip(prompts, self._ids, strict=True)
        ]
        """The prompts as the reference reads them."""
        self._reward, self._sampler, self._loading = reward, sampler, loading
        together = config.sampling_strategy == "group_by_cluster"
        self._clusters = [p.get("cluster") or p["prompt_id"] for p in prompts] if together else []
        self._folder = Path(config.output_dir) / "policy"
        self.sampler_gap: float | None = None
        """Nats per token between sampler and trainer in the last rollout, see `disagreement`."""
        self.taken: Counter[str] = Counter()
        """What served teachers took for the last rollout, all processes together."""

    def __len__(self) -> int:
        """Iterations of the whole training."""
        return math.ceil(
            self._config.epochs * len(self._prompts) / self._config.prompts_per_rollout
        )

    def __call__(self, iteration: int) -> list[Episode]:
        """The rollout of an iteration, counted from 0, in the order of its prompts.

        Raises:
            UserError: sampler and trainer disagree, or a score is not finite.
        """
        chosen = self._chosen(iteration)
        responses = self._sampled(iteration, chosen)
        rollout = by_shares(list(zip(chosen, responses, strict=True)), self._looked_at)
        _check_scores(rollout, iteration)
        self.taken = sum(gather_object([self._readers.taken()]), Counter())
        return rollout

    def _chosen(self, iteration: int) -> list[int]:
        """Indices of the iteration's prompts; a pass over all of them is in an order of its own."""
        batches = StepBatches(
            len(self._prompts),
            self._config.prompts_per_rollout,
            seed=self._config.seed,
            clusters=self._clusters,
        )
        passes, step = divmod(iteration, len(batches))
        batches.set_epoch(passes)
        return list(batches)[step]

    def _sampled(self, iteration: int, chosen: Sequence[int]) -> list[list[Any]]:
        """The K responses to every chosen prompt, the same on every process."""
        told: list[Any] = [None, None]
        release()
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            requests = [(self._prompts[i]["prompt_id"], self._ids[i]) for i in chosen]
            seed = response_seed(self._config.seed, "rollout", iteration)
            options = replace(self._config.sampling, seed=seed)
            exported = Model(str(self._exported(iteration)), {}, self._loading)
            answers = self._sampler.sample(exported, requests, options, "policy")
            rows = [responses for _, responses in answers]
            groups = [_tokens(self._ids[i], row) for i, row in zip(chosen, rows, strict=True)]
            policy = self._accelerator.unwrap_model(self._model).policy
            autocast = self._accelerator.autocast()
            told = [rows, disagreement(self._sampler, exported, policy, groups, autocast)]
            if self._accelerator.device.type != "cpu":
                self._sampler.close()  # gradients and the optimiser want its room
        broadcast_object_list(told)
        self.sampler_gap = None if told[1] is None else told[1].mean
        if told[1] is not None:
            check_agreement(told[1], self._sampler, self._loading, self._config, iteration)
        return told[0]

    def _exported(self, iteration: int) -> Path:
        """A new folder with the policy's weights: the sampler may still map the last one's file."""
        folder = self._folder / str(iteration)
        refuse_link(folder)
        for other, number in folders_named(self._folder, NUMBER):
            if int(number[0]) != iteration - 1:
                shutil.rmtree(other)
        policy: Any = self._accelerator.unwrap_model(self._model).policy
        save_model(merged_copy(policy), self._tokenizer, folder)
        return folder

    @torch.no_grad()
    def _looked_at(self, mine: Sequence[tuple[int, list[Any]]]) -> list[Episode]:
        """The episodes of this process's share: of the indices of prompts, and their responses."""
        chosen, responses = [i for i, _ in mine], [row for _, row in mine]
        tokens = [_tokens(self._ids[i], row) for i, row in zip(chosen, responses, strict=True)]
        rows = [
            {**self._prompts[i], "responses": row} for i, row in zip(chosen, responses, strict=True)
        ]
        scores = [[0.0] * len(row["responses"]) for row in rows]
        if self._reward is not None and rows:
            scores = self._reward(rows)  # type: ignore[arg-type]
        self._model.eval()
        looks: list[dict[str, Any]] = []
        parts = micro_batches(tokens, self._config.max_batch_tokens, bound_layout(self._model))
        for part in equally_many(parts, max(gather_object([len(parts)]))):
            looks += self._look([tokens[i] for i in part])
        readings = self._read(chosen, responses)
        self._model.train()
        return [
            Episode(
                prompt_id=row["prompt_id"],
                tokens=group,
                cut=[response["finish_reason"] == "length" for response in row["responses"]],
                scores=[float(score) for score in of_group],
                **look,
                **_as_read(look["logps"], read),
                thought_tokens=[r.get("thought_tokens", 0) for r in row["responses"]],
                unanswered=[has_no_answer(r["text"]) for r in row["responses"]],
            )
            for row, group, of_group, look, read in zip(
                rows, tokens, scores, looks, readings, strict=True
            )
        ]

    def _read(self, chosen: Sequence[int], responses: Sequence[Any]) -> Readings:
        """What the reference says of this process's responses.

        Raises:
            UserError: on every process, where it stopped answering one, or could read nothing.
        """
        rows = [self._prompts[i] for i in chosen]
        shown = [_tokens(self._shown[i], row) for i, row in zip(chosen, responses, strict=True)]
        read, failure = [], None
        try:
            read = self._readers(rows, shown) if rows else []
        except UserError as error:
            failure = str(error)
        could = any(reading is not None for group in read for reading in group)
        everyone = gather_object([(failure, could)])
        for told, _ in everyone:
            if told is not None:
                raise UserError(told)
        if not any(could for _, could in everyone):
            raise UserError(
                "The served teacher could read none of a rollout's responses: give it room for the "
                "longest prompt and response (vllm serve --max-model-len), or look at what it "
                "answers; the same command continues from the last checkpoint."
            )
        return read

    def _look(self, groups: Sequence[TokenGroup]) -> list[dict[str, Any]]:
        """The policy's log-probabilities and values of groups, each a list of lists of floats."""
        bootstrap = self._config.cut == "bootstrap"
        given = list(groups) or [NOTHING]
        if bootstrap:
            given = [with_next_token(group) for group in given]
        device = self._accelerator.device
        batch = collate(given, bound_layout(self._model)).to(device)
        kept = torch.ones(len(batch.targets), dtype=torch.bool, device=device)
        ends = last_rows(batch)
        if bootstrap:
            kept[ends] = False
        with self._accelerator.autocast():
            logps, values = self._model(batch)
        if not groups:
            return []
        next_values = None if values is None or not bootstrap else values[ends]
        rows = [len(response) for group in groups for response in group.responses]

        def lists(flat: Tensor | None) -> list[list[float]] | None:
            return None if flat is None else [x.tolist() for x in flat[kept].cpu().split(rows)]

        found = {
            "logps": lists(logps),
            "values": lists(values),
            "next_values": None if next_values is None else next_values.tolist(),
        }
        return _by_group(found, [len(group.responses) for group in groups])


def _as_read(logps: list[list[float]], read: Sequence[Reading | None]) -> dict[str, Any]:
    """Fields of an `Episode`, of what its reference says, and its own `logps` of what it does not.

    Args:
        read: Of each response.
    """
    pairs = zip(read, logps, strict=True)
    return {
        "reference_logps": [own if r is None else r.logps.tolist() for r, own in pairs],
        "supports": [None if r is None else r.support for r in read],
        "unread": [r is None for r in read],
    }


def _by_group(found: dict[str, Any], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Lists over all responses as one dict per group."""
    result, start = [], 0
    for count in counts:
        part = slice(start, start + count)
        result.append({k: None if v is None else v[part] for k, v in found.items()})
        start += count
    return result


def _tokens(prompt: Sequence[int], responses: Sequence[Any]) -> TokenGroup:
    return TokenGroup(prompt, [response["token_ids"] for response in responses])


def _check_scores(rollout: Sequence[Episode], iteration: int) -> None:
    bad = [e.prompt_id for e in rollout if not all(math.isfinite(score) for score in e.scores)]
    if bad:
        raise UserError(
            f"The reward of responses to the prompts {listed(bad)} is not a finite "
            f"number in iteration {iteration + 1}: mend the reward, then run the same command "
            "again, which continues from the last checkpoint."
        )


def disagreement(
    sampler: Sampler,
    exported: Model,
    policy: Any,
    groups: Sequence[TokenGroup],
    autocast: AbstractContextManager,
) -> Gap | None:
    """By how much sampler and trainer differ about the first response to the first few prompts.

    None where the sampler cannot tell log-probabilities.

    Args:
        exported: The policy's weights, as the sampler got them.
        policy: Bound.
        autocast: The precision that it trains in.
    """
    pairs = [(list(g.prompt), list(g.responses[0])) for g in groups[:COMPARED]]
    theirs = sampler.response_logps(exported, pairs)
    if theirs is None:
        return None
    with autocast:
        return gap_between(theirs, policy, pairs)


def check_agreement(
    gap: Gap, sampler: Sampler, loading: Loading, config: PPOConfig, iteration: int
) -> None:
    """Stops a run whose sampler writes with another policy than the one that is trained.

    Raises:
        UserError: they differ by more than rounding, or by no number.
    """
    theirs, ours = sampler.computes_in(loading), config.precision
    differs = gap.beyond(theirs, ours, config.sampler_tolerance)
    if differs is None:
        return
    remedy = "take sample=transformers, which loads every policy anew"
    if theirs != ours:
        remedy = f"sample in {ours} as well (sample.vllm.dtype), or {remedy}"
    raise UserError(
        f"In iteration {iteration + 1} the sampler '{sampler.name}' and the trainer {differs}, so "
        f"PPO would learn from another policy's responses: {remedy}; train.sampler_tolerance says "
        "how much they may differ by."
    )
