"""Log-probabilities under the frozen reference, computed once, before the policy moves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from rankdistill.distributed import sharding
from rankdistill.forward import bind, bound_layout, collate, micro_batches, response_logps
from rankdistill.models import load_model, place
from rankdistill.train.groups import RankedGroup, ranked_group
from rankdistill.trainer.arguments import RankingConfig
from rankdistill.trainer.modes import weights_in
from rankdistill.trainer.shares import by_shares

COLUMN = "reference_logps"


@dataclass(frozen=True)
class ReferenceConfig:
    """What the reference's forward needs of a `RankingConfig`, and no more.

    A `RankingConfig` joins the processes of a launch together, so one process alone cannot make
    one; a stage that runs on one process while the others wait takes this instead.
    """

    layout: str = "shared"
    max_batch_tokens: int = 4096
    temperature: float = 1.0
    max_length: int | None = None
    bf16: bool = False
    fp16: bool = False
    device: torch.device | str = "cpu"


def add_reference_logps(
    rows: Any,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: RankingConfig | ReferenceConfig,
) -> Any:
    """The rows with a column `reference_logps`: a value per response, in their order, nats.

    The forward, its layout, temperature and precision are those that `RankingTrainer` trains the
    policy with, so that a policy which equals the reference has log-ratios of 0.

    Args:
        rows: What `RankingTrainer` takes.
        model: The reference: a model or its path. Of a model with an adapter, the model without it.
        tokenizer: Of the rows' responses.
        config: The training's, or as much of it as `ReferenceConfig` has.

    Returns:
        A `Dataset` for a `Dataset`, else a list of dicts. Groups that are too long for the training
        get None.
    """
    column = reference_column(rows, model, tokenizer, config)
    if isinstance(rows, Dataset):
        return rows.remove_columns([COLUMN] if COLUMN in rows.column_names else []).add_column(
            COLUMN, column
        )
    return [{**row, COLUMN: values} for row, values in zip(rows, column, strict=True)]


def reference_column(
    rows: Any,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: RankingConfig | ReferenceConfig,
) -> list[list[float] | None]:
    """The column of `add_reference_logps` by itself."""
    model = place(load_model(model) if isinstance(model, str) else model, config.device)
    bind(model, config.layout)
    limit = length_limit(model, config)
    kept: list[int] = []
    groups: list[RankedGroup] = []
    for index, row in enumerate(rows):
        group = ranked_group(row, index, tokenizer)
        if limit is None or group.length <= limit:
            kept.append(index)
            groups.append(group)
    column: list[list[float] | None] = [None] * len(rows)
    for index, values in zip(kept, reference_logps(groups, model, config), strict=True):
        column[index] = values
    return column


@torch.no_grad()
def reference_logps(
    groups: Sequence[RankedGroup], model: Any, config: RankingConfig | ReferenceConfig
) -> list[list[float]]:
    """[group][response] log-probability under a bound model, nats; an adapter is switched off."""
    device, layout = next(model.parameters()).device, bound_layout(model)
    lower = torch.float16 if config.fp16 else torch.bfloat16
    precision: Any = torch.autocast(device.type, dtype=lower, enabled=config.bf16 or config.fp16)
    if (config.bf16 or config.fp16) and sharding(os.environ) is not None:
        precision = weights_in(model, lower)
    without_adapter = model.disable_adapter() if isinstance(model, PeftModel) else nullcontext()
    was_training = model.training
    model.eval()
    result: list[list[float]] = []
    with without_adapter, precision:
        tokens = [group.tokens for group in groups]
        for indices in micro_batches(tokens, config.max_batch_tokens, layout):
            batch = collate([tokens[i] for i in indices], layout).to(device)
            logps = response_logps(model, batch, temperature=config.temperature).logps.tolist()
            result += [
                row[: len(tokens[i].responses)] for i, row in zip(indices, logps, strict=True)
            ]
    model.train(was_training)
    return result


def with_reference(
    groups: Sequence[RankedGroup], model: Any, config: RankingConfig
) -> list[RankedGroup]:
    """The groups with their reference log-probabilities, each process computing its share."""
    logps = by_shares(groups, lambda mine: reference_logps(mine, model, config))
    return [
        replace(group, reference_logps=tuple(values))
        for group, values in zip(groups, logps, strict=True)
    ]


def length_limit(model: Any, config: RankingConfig | ReferenceConfig) -> int | None:
    """Most tokens of a prompt with its longest response: `max_length`, or the model's context."""
    limits = (config.max_length, getattr(model.config, "max_position_embeddings", None))
    return min((limit for limit in limits if limit is not None), default=None)
