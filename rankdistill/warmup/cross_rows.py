"""A teacher of another tokenizer as the target of a student's tokens.

Two next-token distributions speak of the same thing where they follow the same text. Character
offsets tell where that is; tokens of the same characters are the same outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from rankdistill.errors import UserError
from rankdistill.forward import GroupBatch, TokenGroup, bound_layout, collate
from rankdistill.models import place
from rankdistill.objectives.divergences import divergence_named
from rankdistill.warmup.head import BlockDivergence, HiddenRows
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Divergence

NOWHERE = -1
_SPELLINGS = (("\u0120", " "), ("\u2581", " "), ("\u010a", "\n"))
"""How byte-level and SentencePiece vocabularies write spaces and line breaks."""


class SharedTokens(NamedTuple):
    """Tokens of the same characters in two vocabularies; EOS goes with EOS."""

    ours: Tensor
    """[S] ids of the first."""
    theirs: Tensor
    """[S] ids of the second."""


def shared_tokens(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> SharedTokens:
    """What both vocabularies have, in the order of the first one's ids."""
    a, b = _spelled(ours), _spelled(theirs)
    pairs = [(a[text], b[text]) for text in a.keys() & b.keys()]
    pairs.append((_eos(ours), _eos(theirs)))
    return SharedTokens(*torch.tensor(sorted(pairs)).unbind(dim=1))


def ends_in_text(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Token ids of a response's text, without EOS, and the character after each of them.

    Raises:
        UserError: A tokenizer without a fast version does not tell.
    """
    if not tokenizer.is_fast:
        raise UserError(
            f"the tokenizer of '{tokenizer.name_or_path}' has no fast version, so its tokens' "
            "places in a text are unknown: use warmup=sequence."
        )
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(coded["input_ids"]), [end for _, end in coded["offset_mapping"]]


def following_the_same_text(
    ends: Sequence[int], tokens: int, their_ends: Sequence[int], their_tokens: int
) -> list[int]:
    """[tokens] which of their tokens follows the same text as ours does; `NOWHERE`: none.

    Args:
        ends: The character after each of our tokens, EOS left out.
        tokens: Ours, EOS included; fewer than there are ends where the response was cut.
        their_ends: As `ends`.
        their_tokens: As `tokens`.

    >>> following_the_same_text([1, 3, 6], 4, [3, 6], 3)  # a|bc|def|EOS and abc|def|EOS
    [0, -1, 1, 2]
    """
    # Parts of one character all end where it ends: what follows the character is the last of them.
    ours = {end: index for index, end in enumerate([0, *ends][:tokens])}
    theirs = {end: index for index, end in enumerate([0, *their_ends][:their_tokens])}
    found = [NOWHERE] * tokens
    for end, index in ours.items():
        found[index] = theirs.get(end, NOWHERE)
    return found


def _spelled(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Text -> id of all tokens but EOS."""
    spelled: dict[str, int] = {}
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]):
        if index != tokenizer.eos_token_id:
            for written, meant in _SPELLINGS:
                token = token.replace(written, meant)
            spelled.setdefault(token, index)
    return spelled


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    assert isinstance(tokenizer.eos_token_id, int)  # `load_tokenizer` refuses one without
    return tokenizer.eos_token_id


@dataclass(frozen=True)
class CrossRows:
    """A `Target` whose rows are the teacher's that follow the same text.

    The divergence of a row is that of the two distributions over the shared tokens and one bucket
    for all others, plus the distance of the sorted probabilities of those others:

        ``D(p, q over shared tokens and the rest) + sum_i |p_(i) - q_(i)| over the rest``

    Where the vocabularies are the same it is `warmup=logits`; where they share nothing it is
    universal logit distillation (Boizard et al. 2024, arXiv:2402.12030, eq. 4). A row that follows
    no text that the teacher has read too is 0.
    """

    hidden: Tensor
    """[M, D of the teacher] its last hidden states, of its own tokens."""
    lm_head: Callable[[Tensor], Tensor]
    rows: Tensor
    """[N] which of the M; `NOWHERE` is none."""
    shared: SharedTokens
    divergence: str
    temperature: float

    def open(self, rows: slice) -> BlockDivergence:
        index = self.rows[rows]
        with torch.no_grad():
            teacher = self.lm_head(self.hidden[index.clamp(min=0)])

        def divergence(student_logits: Tensor, block: slice) -> Tensor:
            value = across(
                student_logits, teacher[block], self.shared, self.divergence, self.temperature
            )
            return value.masked_fill(index[block] == NOWHERE, 0.0)

        return divergence


def across(
    student_logits: Tensor,
    teacher_logits: Tensor,
    shared: SharedTokens,
    divergence: str,
    temperature: float,
) -> Tensor:
    """[n] the divergence of `CrossRows`, times T^2, of [n, V student] and [n, V teacher].

    The bucket is there where both have other tokens: one that has none could not reach the other's.
    """
    log_q, rest_q = _parts(student_logits, shared.ours, temperature)
    log_p, rest_p = _parts(teacher_logits.to(student_logits), shared.theirs, temperature)
    if rest_q.shape[1] and rest_p.shape[1]:
        log_q = torch.cat([log_q, rest_q.logsumexp(dim=-1, keepdim=True)], dim=-1)
        log_p = torch.cat([log_p, rest_p.logsumexp(dim=-1, keepdim=True)], dim=-1)
    of_shared = divergence_named(divergence)(log_q, log_p, 1.0)
    return (of_shared + sorted_distance(rest_q.exp(), rest_p.exp())) * temperature**2


def sorted_distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """[n] ``sum_i |a_(i) - b_(i)|`` of [n, V] and [n, W], each sorted, the shorter with 0s."""
    width = max(ours.shape[1], theirs.shape[1])
    a, b = (
        pad(rows.sort(dim=-1, descending=True).values, (0, width - rows.shape[1]))
        for rows in (ours, theirs)
    )
    return (a - b).abs().sum(dim=-1)


def _parts(logits: Tensor, shared: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities [n, S] of the shared tokens and [n, V - S] of the others."""
    logp = torch.log_softmax(logits / temperature, dim=-1)
    others = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    others[shared] = False
    return logp[:, shared], logp[:, others]


class CrossTeacher:
    """A teacher that runs on every micro-batch, on its own tokens of the same text.

    Args:
        model: Frozen and bound, see `TeacherModel.load`.
        groups: [rows] prompt and response of every row of the student in the teacher's tokens.
        alignment: [rows] see `following_the_same_text`.
        shared: The student's ids are the first.
        divergence: What the student is measured by.
    """

    def __init__(
        self,
        model: Any,
        groups: Sequence[TokenGroup],
        alignment: Sequence[Sequence[int]],
        shared: SharedTokens,
        divergence: Divergence,
    ) -> None:
        self._model, self._groups, self._alignment = model, groups, alignment
        self._shared, self._divergence = shared, divergence

    def to(self, device: torch.device) -> CrossTeacher:
        """The teacher on `device`."""
        place(self._model, device)
        self._shared = SharedTokens(*(ids.to(device) for ids in self._shared))
        return self

    @property
    def figures(self) -> dict[str, float]:
        """What two tokenizers have in common here."""
        places = [place for row in self._alignment for place in row]
        share = sum(place != NOWHERE for place in places) / len(places)
        return {"shared_tokens": len(self._shared.ours), "aligned_share": share}

    @torch.no_grad()
    def target(self, batch: GroupBatch, rows: Sequence[TokenRow]) -> CrossRows:
        """The teacher's side of the response tokens of `rows`, which `batch` holds."""
        groups = [self._groups[row.index] for row in rows]
        own = collate(groups, bound_layout(self._model)).to(self._shared.ours.device)
        hidden, lm_head, _ = self._model(group_batch=own, head=HiddenRows())
        index, start = [], 0
        for row, group in zip(rows, groups, strict=True):
            places = self._alignment[row.index]
            index += [place if place == NOWHERE else start + place for place in places]
            start += len(group.responses[0])
        at = torch.tensor(index, device=hidden.device)
        return CrossRows(hidden, lm_head, at, self._shared, *self._divergence)
