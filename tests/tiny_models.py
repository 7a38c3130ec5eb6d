"""Tiny models and a tokenizer, built in code: no test of the default set downloads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from rankdistill.models import Loading, Model

BUNDLED = "bundled/smollm2-135m-instruct"
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_LIKE = {"intermediate_size": 64, "num_key_value_heads": 2}
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>"]

# What a tiny model of an architecture needs beyond the common settings.
EXTRA = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "n_inner": 64},
    "mistral": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "gemma2": {
        "head_dim": 8,
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3_text": {
        "head_dim": 8,
        "sliding_window": 8,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "phi": {},
    "phi3": {"sliding_window": 8},
    "smollm3": {"no_rope_layer_interval": 2},
    "granite": {"logits_scaling": 3.0},
    "cohere": {"logit_scale": 0.25},
    "gpt_neox": {},
    "olmo2": {},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "phimoe": {"num_local_experts": 2, "sliding_window": 8},
    "mamba": {"state_size": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "gpt_oss": {"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    "bloom": {},
}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: 3 special tokens and one token per byte, so any text round-trips."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    architecture: str = "llama",
    *,
    layers: int = 3,
    seed: int = 0,
    tied: bool = True,
    heads: int = 4,
):
    """A random model of about 50,000 parameters; `architecture` is a key of `EXTRA`.

    A Llama with `heads=1` has a head of 32, the smallest that vLLM's attention takes on CPUs.
    """
    extra = dict(EXTRA[architecture])
    if "layer_types" in extra:  # the pattern, as often as there are layers
        extra["layer_types"] = (extra["layer_types"] * layers)[:layers]
    like_llama = LLAMA_LIKE | {"num_key_value_heads": min(2, heads)}
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(SPECIAL) + 256,
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        tie_word_embeddings=tied,
        bos_token_id=2 if architecture == "gpt2" else None,
        eos_token_id=2,
        pad_token_id=0,
        max_position_embeddings=512,
        **({} if architecture in ("gpt2", "opt", "bloom", "mamba") else like_llama),
        **extra,
    )
    torch.manual_seed(seed)
    made: Any = AutoModelForCausalLM._model_mapping[type(config)]
    attention = "sdpa" if made._supports_sdpa else "eager"
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()


def model_in(folder: Path | str, precision: str = "float32") -> Model:
    """The model in a folder, as a stage hands it to another one."""
    return Model(str(folder), {}, Loading(precision=precision))
