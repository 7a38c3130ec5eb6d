"""A tiny model whose configuration, tokenizer and network come as code beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_models import build_model, build_tokenizer

CODE = {
    "configuration_own.py": """
from transformers import LlamaConfig


class OwnConfig(LlamaConfig):
    model_type = "own"
""",
    "modeling_own.py": """
from transformers import LlamaForCausalLM

from .configuration_own import OwnConfig


class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
""",
    "tokenization_own.py": """
from transformers import PreTrainedTokenizerFast


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
""",
}
MODEL = {
    "AutoConfig": "configuration_own.OwnConfig",
    "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
}


def own_model(folder: Path, *, heads: int = 4) -> Path:
    """A Llama under names that transformers doesn't know."""
    build_model("llama", layers=3, seed=1, heads=heads).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    for name, code in CODE.items():
        (folder / name).write_text(code)
    _change(folder / "config.json", model_type="own", architectures=["OwnForCausalLM"],
            auto_map=MODEL)  # fmt: skip
    _change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer",
            auto_map={"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]})  # fmt: skip
    return folder


def _change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
