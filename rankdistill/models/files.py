"""Folders that appear only when complete, links instead of copies, and models as plain transformers
and vLLM read them."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rankdistill.store.files import sync_folder
from rankdistill.store.removal import refuse_link

LONGEST_STEM = 200
"""Bytes, so that the dots and numbers around it fit into the 255 of a file's name."""


def stem_in_making(to: Path) -> str:
    """What the name of a folder in the making has of `to`'s: all, or a digest of a long one."""
    name = os.fsencode(to.name)
    return to.name if len(name) <= LONGEST_STEM else hashlib.sha256(name).hexdigest()[:16]


@contextmanager
def new_folder(to: Path) -> Iterator[Path]:
    """A folder beside `to` that takes its name when the block ends, and vanishes when it raises.

    `to` may exist only as an empty folder.

    Raises:
        UserError: a link has the name of the folder in the making.
    """
    name = f".{stem_in_making(to)}.{os.getpid()}"
    refuse_link(to.with_name(name))
    # A killed process of the same id may have left it, as happens in containers; or it is yours.
    places = (to.with_name(f"{name}{more}") for more in itertools.chain([""], itertools.count()))
    partial = next(place for place in places if not os.path.lexists(place))
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.replace(to)
        sync_folder(to.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def weights_bytes(folder: str | Path) -> int:
    """Size of the weights of a model's folder."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


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
