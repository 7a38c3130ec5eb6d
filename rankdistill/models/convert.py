"""GGUF files, once turned into a safetensors folder that every library reads.

transformers dequantises the weights; what it then gets wrong is repaired here. It leaves a
`quantization_config` in place, so the saved folder would be refused, and it takes the special
tokens from its own defaults: SmolLM2 is handed `<|im_start|>` as its EOS. The file's own metadata
is right, so BOS, EOS, padding and unknown token come from there.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import gguf
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from rankdistill.errors import UserError, first_line
from rankdistill.models.files import new_folder, save_model, stem_in_making
from rankdistill.store import home, manifest
from rankdistill.store.faults import explained
from rankdistill.store.locks import held
from rankdistill.store.removal import folders_named, is_folder
from rankdistill.store.written import move_aside

CONVERSION_VERSION = "1"
"""Part of a converted model's identity: raised when this module makes something else."""

_SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
}

logger = logging.getLogger(__name__)


def convert(file: Path, to: Path) -> Path:
    """Writes the model of a GGUF file to the folder `to` as float32, unless it is there already.

    Processes that want the same folder wait for the first; it appears only when complete, sealed as
    an output of the store, and one that is damaged is made again. The chat
    template is the file's own, with the system message it may bring along (SmolLM2's introduces
    the assistant where a conversation has no system message).

    Raises:
        UserError: the file is no GGUF model that transformers can read.
    """
    if _is_whole(to):
        return to
    lock = to.with_name(f"{to.name}.lock")
    with explained(home()), held(lock, lambda: f"Waiting for the conversion of {file.name}."):
        if not _is_whole(to):
            _clear(to)
            in_making = rf"\.{re.escape(stem_in_making(to))}\.[0-9]+"
            for stale, _ in folders_named(to.parent, in_making):
                shutil.rmtree(stale, ignore_errors=True)
            logger.info("Converting %s once, into %s (some ten seconds)", file.name, to)
            try:
                with new_folder(to) as partial, _quiet(), _read_once():
                    _convert(file, partial)
                    manifest.seal(partial, {"key": to.name, "versions": manifest.versions()})
            except Exception as error:  # a damaged file raises whatever its first odd value does
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise UserError(
                    f"'{file}' is no GGUF model that can be read ({first_line(error)[:-1]}): take "
                    "another file, or the model's safetensors folder."
                ) from error
    return to


def _is_whole(folder: Path) -> bool:
    """Whether all files are there in their lengths; before 0.1.0 there was no manifest of them."""
    if (known := manifest.read(folder)) is not None:
        return not manifest.damaged_files(folder, known, every_byte=False)
    weights = list(folder.glob("*.safetensors"))
    return bool(weights) and all(map(_opens, weights))


def _opens(weights: Path) -> bool:
    """The header says how long the file must be."""
    try:
        with safe_open(weights, framework="pt"):
            return True
    except (SafetensorError, OSError):
        return False


def _clear(to: Path) -> None:
    """Removes a damaged conversion; what is no conversion of ours is moved aside."""
    known = manifest.read(to)
    if known is not None and is_folder(to):
        logger.warning("The converted model %s is damaged: converting it again.", to)
        for name in (*known["files"], manifest.NAME):
            (to / name).unlink(missing_ok=True)
    with suppress(OSError):
        to.rmdir()
    if os.path.lexists(to):
        logger.warning("%s is no whole model, so it is kept as %s.", to, move_aside(to))


def _convert(file: Path, to: Path) -> None:
    special = _special_tokens(file)
    source = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.clean_up_tokenization_spaces = False
    for name, token_id in special.items():
        setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
        tokenizer.init_kwargs.pop(f"{name}_id", None)
    for unread in ("model_type", "is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(unread, None)

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, output_loading_info=True
    )
    model, found = loaded
    if found["missing_keys"]:
        raise ValueError(f"it lacks {', '.join(sorted(found['missing_keys'])[:3])}")
    repaired: Any = model
    with suppress(AttributeError):  # transformers 5.10 sets none
        del repaired.config.quantization_config
    repaired.hf_quantizer = None
    repaired.is_quantized = False
    tokenizer.model_max_length = model.config.max_position_embeddings
    save_model(model, tokenizer, to)


def _special_tokens(file: Path) -> dict[str, int]:
    """Ids of the special tokens that the file's metadata names."""
    fields = gguf.GGUFReader(file).fields
    return {name: int(fields[key].contents()) for name, key in _SPECIAL.items() if key in fields}


@contextmanager
def _read_once() -> Iterator[None]:
    """The header is parsed once: transformers does it for the configuration, for the tokenizer and
    for the weights, and makes the table of names for each module, two thirds of the time."""
    reader = cache(gguf.GGUFReader)
    table = cache(gguf.get_tensor_name_map)
    with (
        patch.object(gguf, "GGUFReader", lambda path, *more: reader(str(path), *more)),
        patch.object(gguf, "get_tensor_name_map", table),
    ):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the libraries' bars and warnings about the conversion to themselves."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
