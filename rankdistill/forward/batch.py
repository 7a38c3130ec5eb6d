"""Groups of responses as tensors, in one of three layouts, and which position sees which.

- `shared`: one sequence, ``[prompt, r1 .. rC]`` per group, one group after another; a prompt is
  computed once.
- `packed`: one sequence, ``[prompt, r1, prompt, r2, ..]``; nothing is shared, nothing is padded.
- `padded`: one row per response, ``[prompt, r]`` padded on the right.

Axes: **B** groups (prompts), **C** candidates of a group, **N** all response tokens of the batch.
The N tokens are in the order group, candidate, position in every layout, so results compare one to
one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rankdistill.errors import UserError, suggest

LAYOUTS = ("shared", "packed", "padded")
PADDING_ID = 0


@dataclass(frozen=True)
class Segment:
    """A prompt and the responses that follow it; a sequence without sharing is a prompt alone."""

    prompt: int
    """Tokens of the prompt: each sees itself and the earlier ones."""
    responses: tuple[int, ...] = ()
    """Tokens of each response: each sees the prompt, itself and the earlier ones of its own."""

    @property
    def longest(self) -> int:
        """Tokens of the longest response."""
        return max(self.responses)


@dataclass(frozen=True, eq=False)
class ResponseRows:
    """How the responses of a segment lie: one after another, or as rows of equal length."""

    count: int
    longest: int
    real: Tensor | None
    """[S] place among count * longest of each of the S tokens; None where all places are taken."""

    def spread(self, x: Tensor) -> Tensor:
        """[1, H, S, D] -> [count, H, longest, D], zeros where a response is shorter."""
        x = x[0]
        if self.real is not None:
            rows = x.new_zeros(x.shape[0], self.count * self.longest, *x.shape[2:])
            x = rows.index_copy(1, self.real, x)
        return x.unflatten(1, (self.count, self.longest)).transpose(0, 1)

    def join(self, x: Tensor) -> Tensor:
        """[count, H, longest, D] -> [1, H, S, D]: the inverse of `spread`."""
        x = x.transpose(0, 1).flatten(1, 2)
        return (x if self.real is None else x.index_select(1, self.real))[None]


class AttentionPlan:
    """The segments of a sequence in order, and the indices and masks that are made from them.

    One plan serves all layers and the recomputation of gradient checkpointing, so what it makes is
    kept. No dataclass: FSDP would hand a copy of it to every layer.
    """

    def __init__(self, segments: tuple[Segment, ...]) -> None:
        self.segments = segments
        self.windows: set[int | None] = set()
        """The sliding windows that layers have asked for so far."""
        self._made: dict[tuple, Any] = {}

    @property
    def sizes(self) -> list[int]:
        """Lengths that cut the sequence into prompt, responses, prompt, responses, .."""
        return [n for each in self.segments for n in (each.prompt, sum(each.responses))]

    def rows(self, index: int, device: torch.device) -> ResponseRows:
        """How the responses of segment `index` lie."""

        def make() -> ResponseRows:
            lengths = self.segments[index].responses
            longest = max(lengths)
            if min(lengths) == longest:
                return ResponseRows(len(lengths), longest, None)
            taken = torch.arange(longest) < torch.tensor(lengths)[:, None]
            return ResponseRows(len(lengths), longest, taken.flatten().nonzero()[:, 0].to(device))

        return self.once(("rows", index, device), make)

    def prompt_mask(self, index: int, window: int | None, device: torch.device) -> Tensor | None:
        """[P, P] bool, True is seen; None where plain causal attention is the same."""
        length = self.segments[index].prompt
        if window is None or length <= window:
            return None
        return self._mask(length, length, window, device)

    def response_mask(self, index: int, window: int | None, device: torch.device) -> Tensor:
        """[longest, P + longest] bool, True is seen: the prompt and the response's earlier tokens.

        A sliding window counts positions: a response's first token is next to the prompt's last,
        wherever it lies in the sequence.
        """
        segment = self.segments[index]
        return self._mask(segment.longest, segment.prompt + segment.longest, window, device)

    def reaches(self, index: int, window: int | None) -> bool:
        """Whether the last token of every response still sees the whole prompt."""
        segment = self.segments[index]
        return window is None or segment.prompt + segment.longest <= window

    def _mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
        """[Q, K] bool for the last Q of K positions."""

        def make() -> Tensor:
            position = torch.arange(keys, device=device)
            distance = position[keys - queries :, None] - position
            seen = distance >= 0
            return seen if window is None else seen & (distance < window)

        return self.once(("mask", queries, keys, window, device), make)

    def once(self, key: tuple, make: Callable[[], Any]) -> Any:
        """What `make` returns, made when `key` is asked for the first time."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


@dataclass(frozen=True)
class TokenGroup:
    """A prompt and the responses to it, as token ids.

    The last prompt token predicts the first token of every response, so neither may be empty.
    """

    prompt: Sequence[int]
    responses: Sequence[Sequence[int]]
    """At least one, each at least one token (EOS included where the model wrote it)."""


@dataclass(frozen=True, eq=False)
class GroupBatch:
    """B groups as tensors; build it with `collate`."""

    groups: tuple[TokenGroup, ...]
    layout: str
    input_ids: Tensor
    """[1, L] for `shared` and `packed`, [rows, T] for `padded`."""
    position_ids: Tensor
    """The shape of `input_ids`; every response continues the positions of its prompt."""
    predictors: Tensor
    """[N] row of the flattened `input_ids` whose hidden state predicts the response token."""
    targets: Tensor
    """[N] the response tokens."""
    candidate: Tensor
    """[N] whose token it is: ``group * C + candidate``."""
    lengths: Tensor
    """[B, C] response tokens; 0 is padding (a group with fewer than C responses)."""
    attention_mask: Tensor | None = None
    """[rows, T] True is real, `padded` only; for models that do more than causal attention."""
    plan: AttentionPlan | None = field(default=None, repr=False)
    """Which token sees which, `shared` and `packed` only."""

    @property
    def B(self) -> int:
        """Groups in the batch."""
        return self.lengths.shape[0]

    @property
    def C(self) -> int:
        """The largest number of candidates of a group."""
        return self.lengths.shape[1]

    @property
    def mask(self) -> Tensor:
        """[B, C] bool, True is a real candidate."""
        return self.lengths > 0

    def to(self, device: torch.device | str) -> GroupBatch:
        """The batch with its tensors on `device`."""
        tensors = {name: x for name, x in vars(self).items() if isinstance(x, Tensor)}
        moved = {name: x.to(device) for name, x in tensors.items()}
        return replace(self, **moved)

    def in_layout(self, layout: str) -> GroupBatch:
        """The same groups in another layout, on the same device."""
        if layout == self.layout:
            return self
        return collate(self.groups, layout).to(self.input_ids.device)


def collate(groups: Sequence[TokenGroup], layout: str = "shared") -> GroupBatch:
    """Lays groups out as tensors on the CPU.

    Raises:
        UserError: an unknown layout, no group, or a group with an empty prompt, no response or an
            empty response.
    """
    check_layout(layout)
    if not groups:
        raise UserError("A batch needs at least one group of a prompt and its responses.")
    for index, group in enumerate(groups):
        _check_group(group, index)
    lay_out = {"shared": _shared, "packed": _packed, "padded": _padded}[layout]
    most = max(len(group.responses) for group in groups)
    lengths = [[len(response) for response in group.responses] for group in groups]
    candidate = [
        index * most + position
        for index, of_group in enumerate(lengths)
        for position, length in enumerate(of_group)
        for _ in range(length)
    ]
    return GroupBatch(
        groups=tuple(groups),
        layout=layout,
        targets=torch.tensor([token for group in groups for r in group.responses for token in r]),
        candidate=torch.tensor(candidate),
        lengths=torch.tensor([row + [0] * (most - len(row)) for row in lengths]),
        **lay_out(groups),
    )


def sum_by_candidate(values: Tensor, batch: GroupBatch) -> Tensor:
    """[N] -> [B, C]: the sum over each response's tokens, in at least float32.

    Where there is no candidate it is 0.
    """
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    sums = values.new_zeros(batch.B * batch.C).index_add(0, batch.candidate, values)
    return sums.view(batch.B, batch.C)


def token_count(group: TokenGroup, layout: str) -> int:
    """What a group costs against `max_batch_tokens`: the tokens the model computes for it.

    For `padded` that is the area of its own rows; `micro_batches` also counts what padding to the
    longest row of a batch costs.
    """
    check_layout(layout)
    prompt, lengths = len(group.prompt), [len(response) for response in group.responses]
    if layout == "shared":
        return prompt + sum(lengths)
    if layout == "packed":
        return prompt * len(lengths) + sum(lengths)
    return (prompt + max(lengths)) * len(lengths)


def micro_batches(
    groups: Sequence[TokenGroup], max_batch_tokens: int, layout: str
) -> list[list[int]]:
    """Splits groups into consecutive batches of at most `max_batch_tokens` tokens each, as indices.

    A group that is above the budget by itself gets a batch of its own.
    """
    check_layout(layout)
    batches: list[list[int]] = []
    rows = width = tokens = 0
    for index, group in enumerate(groups):
        longest = len(group.prompt) + max(len(response) for response in group.responses)
        rows, width = rows + len(group.responses), max(width, longest)
        tokens = rows * width if layout == "padded" else tokens + token_count(group, layout)
        if not batches or tokens > max_batch_tokens:
            batches.append([])
            rows, width, tokens = len(group.responses), longest, token_count(group, layout)
        batches[-1].append(index)
    return batches


def check_layout(layout: str) -> None:
    """Raises UserError where there is no such layout."""
    if layout not in LAYOUTS:
        raise UserError(f"There is no layout '{layout}'; {suggest(layout, LAYOUTS)}")


def _check_group(group: TokenGroup, index: int) -> None:
    if len(group.prompt) == 0:
        raise UserError(
            f"The prompt of group {index} of the batch has no token, so nothing predicts the first"
            " response token; drop the row or add a BOS token."
        )
    if len(group.responses) == 0:
        raise UserError(f"Group {index} of the batch has no response; drop the row.")
    for position, response in enumerate(group.responses):
        if len(response) == 0:
            raise UserError(
                f"Response {position} of group {index} of the batch has no token; drop it or give"
                " it its EOS token."
            )


def _shared(groups: Sequence[TokenGroup]) -> dict:
    """Tensors of the layout `shared`."""
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    segments: list[Segment] = []
    for group in groups:
        prompt = len(group.prompt)
        last_of_prompt = len(ids) + prompt - 1
        segments.append(_segment(prompt, [len(response) for response in group.responses]))
        ids += group.prompt
        positions += range(prompt)
        for response in group.responses:
            predictors += [last_of_prompt, *range(len(ids), len(ids) + len(response) - 1)]
            ids += response
            positions += range(prompt, prompt + len(response))
    return _sequence(ids, positions, predictors, segments)


def _segment(prompt: int, lengths: list[int]) -> Segment:
    """A lone response continues its prompt: plain causal attention over both."""
    return Segment(prompt + lengths[0]) if len(lengths) == 1 else Segment(prompt, tuple(lengths))


def _packed(groups: Sequence[TokenGroup]) -> dict:
    """Tensors of the layout `packed`."""
    ids: list[int] = []
    positions: list[int] = []
    predictors: list[int] = []
    segments: list[Segment] = []
    for prompt, response in _pairs(groups):
        length = len(prompt) + len(response)
        segments.append(Segment(length))
        predictors += range(len(ids) + len(prompt) - 1, len(ids) + length - 1)
        positions += range(length)
        ids += [*prompt, *response]
    return _sequence(ids, positions, predictors, segments)


def _sequence(
    ids: list[int], positions: list[int], predictors: list[int], segments: list[Segment]
) -> dict:
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "predictors": torch.tensor(predictors),
        "plan": AttentionPlan(tuple(segments)),
    }


def _padded(groups: Sequence[TokenGroup]) -> dict:
    """Tensors of the layout `padded`."""
    rows = [[*prompt, *response] for prompt, response in _pairs(groups)]
    width = max(len(row) for row in rows)
    starts = [len(prompt) - 1 for prompt, _ in _pairs(groups)]
    predictors = itertools.chain.from_iterable(
        range(index * width + start, index * width + len(row) - 1)
        for index, (start, row) in enumerate(zip(starts, rows, strict=True))
    )
    lengths = torch.tensor([len(row) for row in rows])
    return {
        "input_ids": torch.tensor([row + [PADDING_ID] * (width - len(row)) for row in rows]),
        "position_ids": torch.arange(width).repeat(len(rows), 1),
        "predictors": torch.tensor(list(predictors)),
        "attention_mask": torch.arange(width) < lengths[:, None],
    }


def _pairs(groups: Sequence[TokenGroup]) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
    for group in groups:
        for response in group.responses:
            yield group.prompt, response
