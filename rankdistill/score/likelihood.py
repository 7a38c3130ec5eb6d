"""The teacher's own log-probability of a response as its score, or how far it exceeds another's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bind, collate, micro_batches, response_logps
from rankdistill.models import encode_prompt, identity, load_model, load_tokenizer, recoded
from rankdistill.records import Group
from rankdistill.score.base import Judge

NO_PROMPT = [{"role": "user", "content": ""}]
"""What the unconditional log-probability is conditioned on: a template needs a turn to answer."""


@dataclass(frozen=True)
class Likelihood:
    """log P(response | prompt) under the teacher, in nats.

    Args:
        per_token: Divide by the number of response tokens, EOS included.
        max_batch_tokens: Tokens that go through the teacher at once.
        contrast: What is subtracted. None: nothing. "unconditional": the teacher's log-probability
            of the response to an empty message, which leaves the pointwise mutual information of
            prompt and response (Li et al. 2016, arXiv:1510.03055). A model: its log-probability of
            the same response, which leaves DPO's implicit reward (Rafailov et al. 2023) of the
            teacher against that reference.
    """

    per_token: bool
    max_batch_tokens: int
    contrast: str | None = None

    name: ClassVar[str] = "likelihood"

    def __post_init__(self) -> None:
        if self.max_batch_tokens < 1:
            raise UserError(f"score.max_batch_tokens is {self.max_batch_tokens}; give at least 1.")

    @property
    def identity(self) -> dict[str, Any]:
        found = {"scorer": self.name, "code": 1, "per_token": self.per_token}
        if self.contrast == "unconditional":
            return {**found, "contrast": self.contrast}
        return {**found, "contrast": identity(self.contrast)} if self.contrast else found

    def __call__(
        self, groups: Sequence[Group], judge: Judge, done: int = 0
    ) -> Iterator[list[list[float]]]:
        """The scores `[group][response]` of one micro-batch after the other; see `Scorer`."""
        teacher = _Reader.load(judge.path, groups, judge)
        contrast: _Reader | None = None
        if self.contrast == "unconditional":
            bare = [TokenGroup(teacher.no_prompt, group.responses) for group in teacher.tokens]
            contrast = replace(teacher, tokens=bare)
        elif self.contrast:
            contrast = _Reader.load(self.contrast, groups, judge)
        for indices in micro_batches(teacher.tokens, self.max_batch_tokens, judge.layout):
            indices = [i for i in indices if i >= done]
            if not indices:
                continue
            values, lengths = teacher.logps(indices)
            if contrast is not None:
                values = values - contrast.logps(indices)[0]
            values = values / lengths if self.per_token else values
            yield [
                values[row, : len(teacher.tokens[i].responses)].tolist()
                for row, i in enumerate(indices)
            ]


@dataclass(frozen=True)
class _Reader:
    """A model, and the groups in its tokens."""

    model: Any
    layout: str
    tokens: list[TokenGroup]
    no_prompt: list[int]

    @classmethod
    def load(cls, path: str, groups: Sequence[Group], judge: Judge) -> _Reader:
        tokenizer = load_tokenizer(path)
        tokens = [
            TokenGroup(
                encode_prompt(tokenizer, group["messages"]),
                [response["token_ids"] for response in group["responses"]],
            )
            for group in recoded(groups, judge.writer, path)
        ]
        model: Any = load_model(
            path,
            precision=judge.precision,
            attn_implementation=judge.attn_implementation,
            trust_remote_code=judge.trust_remote_code,
        )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        bind(model.to(device).eval(), judge.layout)
        return cls(model, judge.layout, tokens, encode_prompt(tokenizer, NO_PROMPT))

    def logps(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and lengths [groups, responses] of the groups `indices`."""
        batch = collate([self.tokens[i] for i in indices], self.layout).to(self.model.device)
        with torch.no_grad():
            output = response_logps(self.model, batch)
        return output.logps, output.lengths
