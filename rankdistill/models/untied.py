"""A copy of a model folder for vLLM, with the language-model head apart from the embedding.

vLLM's `reload_weights` leaves a tied head at the old weights on CPU (1 nat off); a head of its own
is reloaded.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from rankdistill.errors import UserError
from rankdistill.models.files import new_folder
from rankdistill.models.load import load_config
from rankdistill.store.files import link

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_BODY, _HEAD = "model-body.safetensors", "model-head.safetensors"


def export_untied(folder: Path, to: Path, *, trust_remote_code: bool = False) -> None:
    """Writes `folder`'s model to the new folder `to` so that its output head is not tied.

    Only the head is written, as one more shard; all other files are hard links (copies on another
    file system), so `folder` must not be changed in place afterwards. A model that is untied
    already is linked as it is. `to` appears only when complete.

    Raises:
        UserError: the folder holds no safetensors weights, or not those of a causal model.
    """
    config = load_config(str(folder), trust_remote_code=trust_remote_code)
    with new_folder(to) as partial:
        if not config.tie_word_embeddings:
            _link_others(folder, partial, ())
            return
        shards = _shards(folder)
        head, embedding = _tied_names(config, shards, folder)
        with safe_open(folder / shards[embedding], framework="pt") as file:
            save_file({head: file.get_tensor(embedding)}, partial / _HEAD, {"format": "pt"})
        # A file that is called model.safetensors would be taken for the whole model.
        renamed = {name: _BODY if name == _SINGLE else name for name in shards.values()}
        for name, new_name in renamed.items():
            link(folder / name, partial / new_name)
        weight_map = {key: renamed[name] for key, name in shards.items()} | {head: _HEAD}
        size = sum((partial / name).stat().st_size for name in set(weight_map.values()))
        _write_json(partial / _INDEX, {"metadata": {"total_size": size}, "weight_map": weight_map})
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        _write_json(partial / "config.json", settings | {"tie_word_embeddings": False})
        _link_others(folder, partial, (*shards.values(), _INDEX, "config.json"))


def _shards(folder: Path) -> dict[str, str]:
    """The file of every tensor."""
    if (folder / _INDEX).is_file():
        return json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
    if not (folder / _SINGLE).is_file():
        raise UserError(
            f"The folder '{folder}' holds no safetensors weights: save the model again."
        )
    with safe_open(folder / _SINGLE, framework="pt") as file:
        return dict.fromkeys(file.keys(), _SINGLE)


def _tied_names(config: PretrainedConfig, shards: dict[str, str], folder: Path) -> tuple[str, str]:
    """The names of the head's and of the embedding's weight; the embedding's as it is in the file.

    Some older files leave out the base model's prefix (GPT-2's `wte.weight`).
    """
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    tied = getattr(model_class, "_tied_weights_keys", None) or {}
    for head, embedding in tied.items():
        for name in (embedding, embedding.partition(".")[2]):
            if head.endswith("head.weight") and name in shards:
                return head, name
    raise UserError(
        f"The model in '{folder}' ({config.model_type}) ties its head in a way that isn't known "
        f"here: save it with tie_word_embeddings=false."
    )


def _link_others(folder: Path, to: Path, without: Collection[str]) -> None:
    for file in folder.iterdir():
        if file.is_file() and file.name not in without:
            link(file, to / file.name)


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
