"""The teacher's own log-probability of a response as its score, or how far it exceeds another's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from rankdistill.errors import UserError
from rankdistill.fields import identity_of
from rankdistill.forward import TokenGroup, bind, collate, micro_batches, response_logps
from rankdistill.models import Model, device, encode_prompt, identity, recoded, token_group
from rankdistill.rows import Group, Message
from rankdistill.sample import require_backend, require_vllm
from rankdistill.score.remote import RemoteTeacher, served_logps
from rankdistill.score.schema import LikelihoodOptions
from rankdistill.score.scorer import Scorer, TeacherAccess

NO_PROMPT = [{"role": "user", "content": ""}]
"""What the unconditional log-probability is conditioned on: a template needs a turn to answer."""


@dataclass(frozen=True)
class Likelihood(LikelihoodOptions, Scorer):
    """log P(response | prompt) under the teacher, in nats."""

    name: ClassVar[str] = "likelihood"
    uses_teacher: ClassVar[bool] = True
    is_likelihood: ClassVar[bool] = True
    reads_thoughts: ClassVar[bool] = True

    @property
    def identity(self) -> dict[str, Any]:
        own: dict[str, Any] = {"scorer": self.name, "code": 1}
        # vLLM's rounding differs from that of transformers, wherever its server is.
        own |= identity_of(self, instead=("contrast", "through"))
        if self.through != "transformers":
            own["through"] = "vllm"
        if self.contrast == "unconditional":
            return {**own, "contrast": self.contrast}
        return {**own, "contrast": identity(self.contrast)} if self.contrast else own

    @property
    def runs_here(self) -> bool:
        """See `Scorer`."""
        return not self.remote

    @property
    def on_this_machine(self) -> bool:
        """Whether it needs the memory that a sampler's engine takes."""
        return self.through == "transformers" and device().type != "cpu"

    def check(self, access: TeacherAccess) -> None:
        """Refuse at start-up an engine that isn't there, or that would not quantise."""
        if self.through == "transformers":
            return
        if self.remote:
            RemoteTeacher(self.through).check()
        else:
            require_vllm("score.through")
            require_backend("score.through", access.teacher)
        quantization = access.teacher.loading.quantization
        if quantization is not None:
            raise UserError(
                "vLLM (score.through) serves the teacher as it is stored, but teacher.quantization "
                f"is {quantization}: set it to null, or score.through to transformers."
            )

    def check_conversations(
        self, conversations: Sequence[list[Message]], access: TeacherAccess
    ) -> None:
        """Refuse conversations that the teacher's chat template refuses."""
        if access.teacher.path == access.writer.path:
            return  # they are of those that the template took
        tokenizer = access.teacher.tokenizer()
        for conversation in conversations:
            encode_prompt(tokenizer, conversation)

    def __call__(
        self, groups: Sequence[Group], access: TeacherAccess, done: int = 0
    ) -> Iterator[list[list[float]]]:
        """The scores `[group][response]` of some groups after the other; see `Scorer`."""
        if self.through != "transformers":
            return self._served(groups, access, done)
        return self._computed(groups, access, done)

    def _computed(
        self, groups: Sequence[Group], access: TeacherAccess, done: int
    ) -> Iterator[list[list[float]]]:
        """Through transformers, one micro-batch after the other."""
        teacher = Reader.load(access.teacher, groups, access)
        contrast: Reader | None = None
        if self.contrast == "unconditional":
            contrast = replace(teacher, tokens=_bare(teacher.tokens, access.teacher))
        elif self.contrast:
            contrast = Reader.load(self._contrasted(access), groups, access)
        for indices in micro_batches(teacher.tokens, self.max_batch_tokens, access.layout):
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

    def _served(
        self, groups: Sequence[Group], access: TeacherAccess, done: int
    ) -> Iterator[list[list[float]]]:
        """Through vLLM: a pass for what is subtracted, then the teacher's, group by group."""
        logps, left, teacher = self._asker(access), groups[done:], access.teacher
        tokens = _tokens(teacher, left, access)
        subtracted = [[0.0] * len(group.responses) for group in tokens]
        if self.contrast == "unconditional":
            subtracted = list(logps(teacher, _bare(tokens, teacher)))
        elif self.contrast:
            contrast = self._contrasted(access)
            subtracted = list(logps(contrast, _tokens(contrast, left, access)))
        of_teacher = logps(teacher, tokens)
        for group, sums, less in zip(tokens, of_teacher, subtracted, strict=True):
            lengths = [max(len(r), 1) if self.per_token else 1 for r in group.responses]
            yield [[(a - b) / n for a, b, n in zip(sums, less, lengths, strict=True)]]

    def _contrasted(self, access: TeacherAccess) -> Model:
        """The model that is subtracted, loaded as the teacher is."""
        return Model.named(self.contrast or "", access.teacher.loading)

    def _asker(
        self, access: TeacherAccess
    ) -> Callable[[Model, Sequence[TokenGroup]], Iterator[list[float]]]:
        """What gives the log-probabilities of groups under a model."""
        if self.remote:
            remote = RemoteTeacher(self.through)
            return lambda _, groups: _told(groups, remote.logps(_readable(groups)))
        assert access.engine is not None
        served = partial(served_logps, access.engine())
        return lambda model, groups: _told(groups, served(model, _readable(groups)))


def _tokens(model: Model, groups: Sequence[Group], access: TeacherAccess) -> list[TokenGroup]:
    """The groups in a model's tokens, of which a response that was cut before any text has none."""
    tokenizer = model.tokenizer()
    return [token_group(group, tokenizer) for group in recoded(groups, access.writer, model)]


def _readable(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    """The same, where a response without a token has one that keeps its place."""
    return [TokenGroup(g.prompt, [r if len(r) else [0] for r in g.responses]) for g in groups]


def _told(groups: Sequence[TokenGroup], values: Iterable[Sequence[float]]) -> Iterator[list[float]]:
    """The values of `_readable(groups)`; NaN of a response without a token: nothing is guessed."""
    for group, row in zip(groups, values, strict=True):
        pairs = zip(group.responses, row, strict=True)
        yield [value if len(ids) else math.nan for ids, value in pairs]


def _bare(tokens: Sequence[TokenGroup], model: Model) -> list[TokenGroup]:
    """The same responses to an empty message."""
    prompt = encode_prompt(model.tokenizer(), NO_PROMPT)
    return [TokenGroup(prompt, group.responses) for group in tokens]


@dataclass(frozen=True)
class Reader:
    """A model, and the groups in its tokens."""

    model: Any
    layout: str
    tokens: list[TokenGroup]

    @classmethod
    def load(cls, model: Model, groups: Sequence[Group], access: TeacherAccess) -> Reader:
        """The model, and the groups, which `access.writer` wrote, in its tokens."""
        bound = bind(model.load_on_device(), access.layout)
        return cls(bound, access.layout, _tokens(model, groups, access))

    def logps(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and lengths [groups, responses] of the groups `indices`; NaN of a
        response without a token."""
        groups = [self.tokens[i] for i in indices]
        batch = collate(_readable(groups), self.layout).to(self.model.device)
        with torch.no_grad():
            output = response_logps(self.model, batch)
        for row, group in enumerate(groups):
            empty = [place for place, ids in enumerate(group.responses) if not len(ids)]
            output.logps[row, empty] = math.nan
        return output.logps, output.lengths
