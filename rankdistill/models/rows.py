"""Rows between stages: prompts, or groups of responses in the tokens of a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from rankdistill.forward.batch import TokenGroup
from rankdistill.models.answers import encode_texts
from rankdistill.models.model import Model, ServedModel
from rankdistill.models.thoughts import Thoughts
from rankdistill.models.tokenizer import (
    encode_prompt,
    token_group,
    tokenizers_agree,
)
from rankdistill.store import Output
from rankdistill.store.sequences import mapped, places_of, selected, values_of
from rankdistill.thoughts import has_thoughts


@dataclass(frozen=True)
class Rows:
    """What one stage hands to the next: the rows, what determines them, and whose tokens they have.

    Iterates over its rows.
    """

    source: Sequence[Any] | Output
    """`Prompt` or `Group` rows, or the output that has them: a large set stays on the disk."""
    key: Any = None
    """What determines them, for the identity of what is made of them."""
    writer: Model | None = None
    """The model whose tokenizer the responses' token ids belong to; None of prompts."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """What the stage that made them counted."""

    @classmethod
    def of(cls, output: Output, writer: Model | None = None) -> Rows:
        """The rows of a stage's output."""
        return cls(output, output.key, writer, output.manifest["counts"])

    @property
    def rows(self) -> Sequence[Any]:
        """The rows; those of an output stay on the disk, and each is read when it is asked for."""
        return self.source.rows() if isinstance(self.source, Output) else self.source

    def held(self) -> Rows:
        """The same, found whole once and not looked at again."""
        return replace(self, source=self.rows)

    def __len__(self) -> int:
        if isinstance(self.source, Output):
            return self.source.manifest["rows"].get("rows", 0)
        return len(self.source)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def of_splits(self, *splits: str) -> Rows:
        """Those of some splits. The key stays: who takes them says of which splits they are."""
        rows = self.rows
        return replace(self, source=selected(rows, places_of(rows, "split", splits)))

    def first(self, count: int | None) -> Rows:
        """The first `count`, or all that there are where it is None."""
        rows = self.rows[:count]
        return replace(self, source=rows, key=f"{self.key} first {len(rows)}")

    def at_most(self, count: int | None) -> Rows:
        """The first `count` where there are more; else all, under their key."""
        return self if count is None or count >= len(self.rows) else self.first(count)

    def joined(self, more: Rows) -> Rows:
        """The groups, each with the responses that `more` has to the same prompt behind its own."""
        others = more.rows
        places = {name: place for place, name in enumerate(values_of(others, "prompt_id"))}

        def both(group: Any) -> Any:
            place = places.get(group["prompt_id"])
            added = [] if place is None else others[place]["responses"]
            return {**group, "responses": [*group["responses"], *added]}

        return replace(self, source=mapped(self.rows, both), key=[self.key, more.key])

    def recoded(self, reader: Model, *, whole_prompt: bool = False) -> Rows:
        """The same in the tokens of another model, see `recoded`."""
        assert self.writer is not None
        changed = recoding(self.writer, reader)
        if not changed:
            return replace(self, writer=reader)
        rows = recoded(self.rows, self.writer, reader, whole_prompt=whole_prompt)
        return replace(self, source=rows, key=[self.key, changed], writer=reader)

    def tokens(self, reader: Model) -> list[TokenGroup]:
        """The groups in the tokens of a model that reads them, see `token_groups`."""
        return token_groups(self.recoded(reader).rows, reader.tokenizer())


def token_groups(groups: Sequence[Any], tokenizer: PreTrainedTokenizerBase) -> list[TokenGroup]:
    """What is `written` of `Group` rows, in tokens."""
    return [token_group(group, tokenizer) for group in _written(groups)]


def written(groups: Sequence[Any]) -> list[Any]:
    """The groups with those of their responses that have a token, where there is one.

    A response without a token, such as a cut one that was nothing but thoughts, cannot be read.
    """
    return list(_written(groups))


def _written(groups: Iterable[Any]) -> Iterator[Any]:
    for group in groups:
        responses = [response for response in group["responses"] if response["token_ids"]]
        if responses:
            yield {**group, "responses": responses}


def recoding(writer: Model, reader: Model) -> dict[str, int]:
    """What an identity says where `recoded` has to change tokens; {} where the tokenizers agree."""
    if isinstance(writer, ServedModel):
        return {"recoding": 2}
    if writer.path == reader.path or tokenizers_agree(reader.tokenizer(), writer.tokenizer()):
        return {}
    return {"recoding": 2}


def recoded(
    groups: Sequence[Any], writer: Model, reader: Model, *, whole_prompt: bool = False
) -> list[Any]:
    """The groups with their responses' `token_ids` in the tokens of another model.

    Unchanged where the two tokenizers agree. Otherwise the responses are what the reader's chat
    template makes of them, see `encode_answers`; EOS is added where a response ended.

    Args:
        groups: `Group` rows.
        writer: The model whose tokens the responses have.
        reader: The model whose tokens they get.
        whole_prompt: Whether they stand behind the whole prompt, as those of a group do that they
            are to join; else a thought that the template opens may be left out.
    """
    if not recoding(writer, reader):
        return list(groups)
    tokenizer = reader.tokenizer()
    return [_recoded(group, tokenizer, whole_prompt) for group in groups]


def _recoded(group: Any, tokenizer: Any, whole_prompt: bool) -> Any:
    texts = [response["text"] for response in group["responses"]]
    whole = len(encode_prompt(tokenizer, group["messages"]))
    prompt, answers = encode_texts(tokenizer, group["messages"], texts, whole_prompt=whole_prompt)
    coded: list[Any] = [
        {**response, "token_ids": ids if response["finish_reason"] == "stop" else ids[:-1]}
        for response, ids in zip(group["responses"], answers, strict=True)
    ]
    if any(map(has_thoughts, texts)):
        thoughts = Thoughts.of(tokenizer)
        coded = [thoughts.counted(prompt, response) for response in coded]
    others = {key: value for key, value in group.items() if key != "prompt_tokens"}
    shorter = {"prompt_tokens": len(prompt)} if len(prompt) < whole else {}
    return {**others, **shorter, "responses": coded}
