"""A re-ranker as other programs take one: a model that scores a pair of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from rankdistill.errors import UserError
from rankdistill.export.place import in_making
from rankdistill.models import load_tokenizer
from rankdistill.models.tokenizer import rendered
from rankdistill.search.reranked import REWARD_MODEL
from rankdistill.store.written import check_run

QUERY = "\N{OBJECT REPLACEMENT CHARACTER}"
"""Stands in the chat template for the query."""
IDENTITY = "torch.nn.modules.linear.Identity"


def save_cross_encoder(run: Path, to: Path) -> None:
    """Writes a run's re-ranker for sentence-transformers' `CrossEncoder` and vLLM's `/score`.

    Both have the tokenizer join query and passage, which it then does as the training did: the
    query is the user's turn in the chat template, the passage the answer, and EOS ends it. The
    score of a pair is the reward without `rankdistill_shift`, which changes no order.

    Raises:
        UserError: the run is not finished, the folder is there or cannot be written, or the
            tokenizer is none of the package tokenizers.
    """
    check_run(run, REWARD_MODEL)
    if to.exists():
        raise UserError(f"'{to}' is there already: name another folder.")
    tokenizer = load_tokenizer(str(run / REWARD_MODEL))
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"{type(tokenizer).__name__} cannot join two texts by a template.")
    join_as_trained(tokenizer)
    model: Any = AutoModelForSequenceClassification.from_pretrained(run / REWARD_MODEL)
    model.config.sentence_transformers = {"activation_fn": IDENTITY}
    with in_making(to) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def join_as_trained(tokenizer: PreTrainedTokenizerFast) -> None:
    """Has the tokenizer join two texts as the prompt and the response of a conversation."""
    prompt = rendered(tokenizer, [{"role": "user", "content": QUERY}], add_generation_prompt=True)
    before, found, after = prompt.partition(QUERY)
    if not found:
        raise UserError("The chat template leaves out what the user says.")
    alone = tokenizer("a")["input_ids"]
    first = alone[: len(alone) - len(tokenizer("a", add_special_tokens=False)["input_ids"])]
    pieces = {
        "<first>": first,
        "<before>": tokenizer(before, add_special_tokens=False)["input_ids"],
        "<after>": tokenizer(after, add_special_tokens=False)["input_ids"],
        "<end>": [tokenizer.eos_token_id],
    }
    there = {name: ids for name, ids in pieces.items() if ids}

    def template(*names: str) -> list[str]:
        return [name for name in names if name in there or name.startswith("$")]

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template("<first>", "$A"),
        pair=template("<before>", "$A", "<after>", "$B", "<end>"),
        special_tokens=[
            {"id": name, "ids": ids, "tokens": tokenizer.convert_ids_to_tokens(ids)}
            for name, ids in there.items()
        ],
    )
