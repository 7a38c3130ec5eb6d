"""The figures of one model: diversity, repetition and length of what it wrote, its scores.

They are there to tell an improvement from a collapse: a model that only became surer of itself
writes responses that score higher, but are shorter, more repetitive and more alike. They travel
from the measurement to the report. No heavy import.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

from rankdistill.rows import Group, Response
from rankdistill.thoughts import has_no_answer, has_thoughts


@dataclass(frozen=True)
class PromptScores:
    """What the judge gave a model's responses to one prompt; position k of both is response k."""

    scores: list[float]
    """Teacher scores, the judge's own scale."""
    tokens: list[int]
    """Lengths of the answers, EOS included, without what was thought before them."""

    @property
    def mean(self) -> float:
        return fmean(self.scores)


@dataclass(frozen=True)
class ModelFigures:
    """One column of the report. None: not measured, or says nothing about this model."""

    name: str
    """Key in `metrics.json`, snake_case: `trained`."""
    label: str
    """Heading for people: `trained`."""
    temperature: float
    """At which its responses were sampled and its distributions are compared."""
    per_prompt: dict[str, PromptScores]
    """By prompt id; prompts without a scored response are left out."""
    unscored: int
    """Responses that the judge gave no score."""
    kendall_tau: list[float | None]
    """Tau-b per held-out group, the policy's own ranking against the judge's; None: undefined."""
    ordered_pairs: int
    """Pairs of those responses that the judge tells apart."""
    kl_to_baseline: float | None
    """KL(model || baseline), nats per token, on the model's own responses."""
    kl_to_teacher: float | None
    """KL(teacher || model), nats per token, on the teacher's responses."""
    entropy: float | None
    """Nats per token, on the model's own responses."""
    distinct_2: float | None
    repetition: float
    response_tokens: float
    """Mean length, EOS and thoughts included."""
    cut_share: float
    parameters: int
    tokens_per_second: float | None
    disk_bytes: int | None = None
    """Of its weights, as they are stored."""
    thought_tokens: float | None = None
    """Mean length of what a response thought before it answered; None: it thinks nothing."""
    answer_tokens: float | None = None
    """Mean length of the answers alone, likewise."""
    thought_only: float | None = None
    """Share of responses that ended before their thought did, likewise."""

    def row(self) -> dict[str, Any]:
        """Plain JSON values, for storing it: `from_row` restores it."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ModelFigures:
        values = {field.name: row[field.name] for field in fields(cls) if field.name in row}
        values["per_prompt"] = {key: PromptScores(**v) for key, v in row["per_prompt"].items()}
        return cls(**values)


def common_prompts(a: ModelFigures, b: ModelFigures) -> Sequence[str]:
    """Prompt ids that both models answered and the judge scored, in a fixed order."""
    return sorted(a.per_prompt.keys() & b.per_prompt.keys())


def distinct_n(responses: Iterable[Sequence[int]], n: int = 2) -> float | None:
    """Distinct n-grams of the responses over all their n-grams, in (0, 1]; None: no n-gram at all.

    responses: token ids. N-grams do not cross responses. Li et al. 2016 (arXiv:1510.03055) divide
    by the number of tokens; we divide by the number of n-grams, so that 1 means that nothing
    recurs. It falls as the amount of text grows, so compare equal numbers of responses only: the
    tables average it over prompts, each with the same number of responses.
    """
    seen: set[tuple[int, ...]] = set()
    total = 0
    for token_ids in responses:
        for gram in _ngrams(token_ids, n):
            seen.add(gram)
            total += 1
    return len(seen) / total if total else None


def repetition(token_ids: Sequence[int], n: int = 3) -> float:
    """Share of the n-grams that occurred before in the same response, in [0, 1).

    0: nothing recurs; near 1: a loop. The same as ``1 - distinct_n([token_ids], n)`` ("rep-n" of
    Welleck et al. 2020, arXiv:1908.04319); 0 for a response of fewer than n tokens.
    """
    distinct = distinct_n([token_ids], n)
    return 0.0 if distinct is None else 1.0 - distinct


def mean_length(responses: Iterable[Response]) -> float:
    """Tokens per response, EOS included. StatisticsError: no response."""
    return fmean(len(response["token_ids"]) for response in responses)


def thought_figures(responses: Sequence[Response]) -> tuple[float | None, float | None]:
    """Mean tokens that a response thought, and the share of responses without an answer.

    None: no response thought. A response that ended before its thought did has no answer.
    """
    if not any(has_thoughts(response["text"]) for response in responses):
        return None, None
    return (
        fmean(response.get("thought_tokens", 0) for response in responses),
        fmean(has_no_answer(response["text"]) for response in responses),
    )


def cut_share(responses: Iterable[Response]) -> float:
    """Share of the responses that the length limit cut, in [0, 1]. StatisticsError: none given."""
    return fmean(response["finish_reason"] == "length" for response in responses)


def group_distinct_2(groups: Iterable[Group]) -> float | None:
    """`distinct_n` of pairs of tokens in the responses to one prompt, averaged over prompts.

    None: there is no pair at all.

    How different a model's answers to the same prompt are, from each other and within themselves.
    """
    shares = [distinct_n((r["token_ids"] for r in group["responses"]), 2) for group in groups]
    defined = [share for share in shares if share is not None]
    return fmean(defined) if defined else None


def _ngrams(token_ids: Sequence[int], n: int) -> Iterator[tuple[int, ...]]:
    if n < 1:
        raise ValueError(f"an n-gram has at least one token, not {n}")
    return (tuple(token_ids[i : i + n]) for i in range(len(token_ids) - n + 1))
