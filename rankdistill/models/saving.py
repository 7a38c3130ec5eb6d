"""Model folders that plain transformers and vLLM read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes safetensors, configuration, tokenizer with its chat template, and generation config.

    The generation config says which tokens begin, end and pad, and nothing else: how to sample is
    the sampler's business, and no repetition penalty of the source model slips into it. Further
    EOS tokens of the model stay EOS tokens.

    Args:
        model: Saved in its present precision.
        tokenizer: Its special tokens become the model's.
        folder: New or empty; a store's partial output, or a folder that is made here.
    """
    generation = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=_eos_token_ids(model, tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )
    model.generation_config = generation
    model.config.bos_token_id = generation.bos_token_id
    model.config.eos_token_id = generation.eos_token_id
    model.config.pad_token_id = generation.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | list[int]:
    """The tokenizer's EOS first, then what else the model ends with."""
    generation = model.generation_config
    stated: Any = (generation or model.config).eos_token_id
    others = stated if isinstance(stated, list) else [stated]
    token_ids = list(dict.fromkeys(i for i in [tokenizer.eos_token_id, *others] if i is not None))
    return token_ids[0] if len(token_ids) == 1 else token_ids
