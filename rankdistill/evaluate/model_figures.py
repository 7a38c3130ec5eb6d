"""The figures of one model, as they travel from the measurement to the report. No heavy import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any


@dataclass(frozen=True)
class PromptScores:
    """What the judge gave a model's responses to one prompt; position k of both is response k."""

    scores: list[float]
    """Teacher scores, the judge's own scale."""
    tokens: list[int]
    """Lengths, EOS included."""

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
    """Mean length, EOS included."""
    cut_share: float
    parameters: int
    tokens_per_second: float | None
    disk_bytes: int | None = None
    """Of its weights, as they are stored."""

    def row(self) -> dict[str, Any]:
        """Plain JSON values, for storing it: `from_row` restores it."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ModelFigures:
        values = {field.name: row[field.name] for field in fields(cls)}
        values["per_prompt"] = {key: PromptScores(**v) for key, v in row["per_prompt"].items()}
        return cls(**values)


def common_prompts(a: ModelFigures, b: ModelFigures) -> Sequence[str]:
    """Prompt ids that both models answered and the judge scored, in a fixed order."""
    return sorted(a.per_prompt.keys() & b.per_prompt.keys())
