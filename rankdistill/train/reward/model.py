"""A reward model: transformers' sequence-classification model with one label, on grouped prompts,
and as a folder that transformers and vLLM read, on the scale of its samples.

The reward of a response is ``score . h + shift``: h is the last hidden state of its last token, the
EOS where it has one. `score` is the model's own head, which has no bias; the shift is a number in
its configuration, `rankdistill_shift`, 0 where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rankdistill.errors import UserError
from rankdistill.forward import (
    GroupBatch,
    LMHead,
    TokenGroup,
    bound_layout,
    collate,
    micro_batches,
)
from rankdistill.forward.batch import PADDING_ID
from rankdistill.models.load import PRECISIONS, from_pretrained

SHIFT = "rankdistill_shift"
"""Name in a reward model's configuration of what is added to its logit."""


def load_reward_model(
    path: str,
    *,
    precision: str = "float32",
    attn_implementation: str = "sdpa",
    trust_remote_code: bool = False,
    new_head: bool = False,
) -> PreTrainedModel:
    """A sequence-classification model with one label, on the CPU.

    Args:
        path: A reward model; with `new_head` any decoder-only model, whose last hidden state gets a
            head with weights of standard deviation ``1 / sqrt(d + 1)`` (Stiennon et al. 2020).

    Raises:
        UserError: no such model, or an architecture that transformers has no such head for.
    """
    model = from_pretrained(
        AutoModelForSequenceClassification,
        path,
        f"The model '{path}' cannot be loaded as a reward model",
        new=r"score\." if new_head else None,
        num_labels=1,
        dtype=PRECISIONS[precision],
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    layer = score_layer(model)
    if new_head:
        nn.init.normal_(layer.weight, std=(layer.in_features + 1) ** -0.5)
    return model


def score_layer(model: nn.Module) -> nn.Linear:
    """The head of a reward model, which may be wrapped.

    Raises:
        UserError: its architecture classifies in another way than by a linear layer `score`.
    """
    for module in model.modules():
        layer = getattr(module, "score", None)
        if isinstance(layer, nn.Linear):
            return layer
    raise UserError(
        f"{type(model).__name__} has no linear layer `score` on its last hidden state: take a "
        "decoder-only backbone, such as Llama, Qwen or Gemma."
    )


def readout(layer: nn.Linear, hidden: Tensor) -> Tensor:
    """[N, D] hidden states -> [N] the one output of a layer, at least float32."""
    values = layer(hidden.to(layer.weight.dtype)).squeeze(-1)
    return values.to(torch.promote_types(values.dtype, torch.float32))


def shift_of(model: Any) -> float:
    """What is added to a reward model's logit."""
    return float(getattr(model.config, SHIFT, 0.0))


def with_next_token(group: TokenGroup) -> TokenGroup:
    """The group with a token after every response.

    The grouped forward returns the hidden states that predict a token; so that of a response's last
    token is the one that predicts what would follow. Which token follows makes no difference.
    """
    return TokenGroup(group.prompt, [[*response, PADDING_ID] for response in group.responses])


def last_rows(batch: GroupBatch) -> Tensor:
    """[R] the row, among the batch's N, of the last token of each of its R responses."""
    return batch.lengths[batch.mask].cumsum(0) - 1


def logits(model: nn.Module, groups: Sequence[TokenGroup]) -> tuple[Tensor, Tensor]:
    """What a bound, and perhaps wrapped, reward model gives the responses, before the shift.

    Returns:
        ([B, C] logits, at least float32, with gradient; [B, C] bool, where there is a response).
    """
    layer = score_layer(model)
    device = next(model.parameters()).device
    batch = collate([with_next_token(group) for group in groups], bound_layout(model)).to(device)

    def head(hidden: Tensor, lm_head: LMHead, batch: GroupBatch) -> Tensor:
        return readout(layer, hidden[last_rows(batch)])

    values = model(group_batch=batch, head=head)
    mask = batch.mask.to(values.device)
    return values.new_zeros(mask.shape).masked_scatter(mask, values), mask


@torch.no_grad()
def rewards(
    model: nn.Module, groups: Sequence[TokenGroup], max_batch_tokens: int = 4096
) -> list[list[float]]:
    """`[group][response]`: logit plus shift, of a bound reward model, which is left in evaluation
    mode."""
    model.eval()
    result: list[list[float]] = []
    for part in micro_batches(groups, max_batch_tokens, bound_layout(model)):
        values = logits(model, [groups[i] for i in part])[0] + shift_of(model)
        for i, row in zip(part, values.tolist(), strict=True):
            result.append(row[: len(groups[i].responses)])
    return result


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
