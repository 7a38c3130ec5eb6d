"""Models: where they come from, how text becomes their tokens, and smaller ones made of them."""

from rankdistill.models.adapters import (
    LoRA,
    WithoutAdapters,
    adapted,
    load_trainable,
    merged,
    merged_copy,
)
from rankdistill.models.answers import encode_answers, encode_texts
from rankdistill.models.device import claim_device, device, release
from rankdistill.models.files import save_model
from rankdistill.models.layers import (
    evenly_spaced_layers,
    first_layers,
    influential_layers,
    keep_layers,
    layer_influence,
)
from rankdistill.models.load import load_model, place
from rankdistill.models.locate import identity, locate
from rankdistill.models.model import Loading, Model, ServedModel, written_with
from rankdistill.models.rows import Rows, recoded, recoding, token_groups, written
from rankdistill.models.template import chat_template, template_arguments, with_chat_template
from rankdistill.models.thoughts import Thoughts
from rankdistill.models.tokenizer import (
    decode_response,
    encode_conversation,
    encode_prompt,
    encode_response,
    load_tokenizer,
    token_group,
    tokenizer_difference,
    tokenizer_digest,
    tokenizers_agree,
)
from rankdistill.models.untied import export_untied
from rankdistill.store import home

__all__ = [
    "LoRA",
    "Loading",
    "Model",
    "Rows",
    "ServedModel",
    "Thoughts",
    "WithoutAdapters",
    "adapted",
    "chat_template",
    "claim_device",
    "decode_response",
    "device",
    "encode_answers",
    "encode_conversation",
    "encode_prompt",
    "encode_response",
    "encode_texts",
    "evenly_spaced_layers",
    "export_untied",
    "first_layers",
    "home",
    "identity",
    "influential_layers",
    "keep_layers",
    "layer_influence",
    "load_model",
    "load_tokenizer",
    "load_trainable",
    "locate",
    "merged",
    "merged_copy",
    "place",
    "recoded",
    "recoding",
    "release",
    "save_model",
    "template_arguments",
    "token_group",
    "token_groups",
    "tokenizer_difference",
    "tokenizer_digest",
    "tokenizers_agree",
    "with_chat_template",
    "written",
    "written_with",
]
