"""The teacher's own log-probability of a response as its score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bind, collate, micro_batches, response_logps
from rankdistill.models import encode_prompt, load_model, load_tokenizer, recoded
from rankdistill.records import Group
from rankdistill.score.base import Judge


@dataclass(frozen=True)
class Likelihood:
    """log P(response | prompt) under the teacher, in nats.

    Args:
        per_token: Divide by the number of response tokens, EOS included.
        max_batch_tokens: Tokens that go through the teacher at once.
    """

    per_token: bool
    max_batch_tokens: int

    name: ClassVar[str] = "likelihood"

    def __post_init__(self) -> None:
        if self.max_batch_tokens < 1:
            raise UserError(f"score.max_batch_tokens is {self.max_batch_tokens}; give at least 1.")

    @property
    def identity(self) -> dict[str, Any]:
        return {"scorer": self.name, "code": 1, "per_token": self.per_token}

    def __call__(
        self, groups: Sequence[Group], judge: Judge, done: int = 0
    ) -> Iterator[list[list[float]]]:
        """The scores `[group][response]` of one micro-batch after the other; see `Scorer`."""
        tokenizer = load_tokenizer(judge.path)
        tokens = [
            TokenGroup(
                encode_prompt(tokenizer, group["messages"]),
                [response["token_ids"] for response in group["responses"]],
            )
            for group in recoded(groups, judge.writer, judge.path)
        ]
        model: Any = load_model(
            judge.path,
            precision=judge.precision,
            attn_implementation=judge.attn_implementation,
            trust_remote_code=judge.trust_remote_code,
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        bind(model.to(device).eval(), judge.layout)
        for indices in micro_batches(tokens, self.max_batch_tokens, judge.layout):
            indices = [i for i in indices if i >= done]
            if not indices:
                continue
            batch = collate([tokens[i] for i in indices], judge.layout).to(device)
            with torch.no_grad():
                output = response_logps(model, batch)
            values = output.logps / output.lengths if self.per_token else output.logps
            yield [
                values[row, : len(tokens[i].responses)].tolist() for row, i in enumerate(indices)
            ]
