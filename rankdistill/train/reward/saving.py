"""Reward models as folders that transformers and vLLM read, on the scale of their samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError
from rankdistill.train.reward.model import SHIFT, score_layer

PADDING_TOKEN = "<|rankdistill_pad|>"
"""Added where every special token of a tokenizer is its EOS."""


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the logits that are to become 0 and 1."""

    mean: float
    std: float

    @classmethod
    def of(cls, rewards: Sequence[float]) -> Scale:
        """Of given logits.

        Raises:
            UserError: one is not finite, or they are all the same.
        """
        if not rewards or not all(math.isfinite(reward) for reward in rewards):
            raise UserError(
                "The reward model gives rewards that are not finite: lower reward.learning_rate."
            )
        scale = cls(fmean(rewards), pstdev(rewards))
        if not scale.std > 0:
            raise UserError(
                "The reward model gives every response the same reward, so there is nothing to "
                "train on: train it longer (reward.epochs) or on more groups."
            )
        return scale


@torch.no_grad()
def save_reward_model(
    model: Any, tokenizer: PreTrainedTokenizerBase, scale: Scale, folder: Path
) -> None:
    """Writes a sequence-classification model whose rewards are ``(logit - mean) / std``.

    The factor goes into the head's weight; what is subtracted goes into the configuration, as
    `rankdistill_shift`, since the head has no bias. The padding token is not EOS: transformers
    takes the right-most token that is not padding for a text's last one.
    """
    score_layer(model).weight.div_(scale.std)
    setattr(model.config, SHIFT, -scale.mean / scale.std)
    tokenizer.pad_token = _padding_token(tokenizer)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _padding_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """A special token that ends no response: the tokenizer's padding, or another one than EOS."""
    known = [tokenizer.pad_token, tokenizer.unk_token, *tokenizer.all_special_tokens]
    for token in known:
        if token is not None and token != tokenizer.eos_token:
            return str(token)
    tokenizer.add_special_tokens({"pad_token": PADDING_TOKEN})
    return PADDING_TOKEN
