"""From a model and the responses it wrote to held-out prompts to its figures.

The caller samples and has the responses scored; here the models are run over given tokens only.
Every model of one comparison is measured against the same `HeldOut`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rankdistill.evaluate.model_figures import (
    ModelFigures,
    PromptScores,
    cut_share,
    group_distinct_2,
    mean_length,
    repetition,
    thought_figures,
)
from rankdistill.evaluate.tokens import (
    KnownRows,
    batches_of,
    entropy_and_divergence,
    mean_entropy,
    policy_values,
)
from rankdistill.forward import TokenGroup, bind
from rankdistill.models import token_groups, written
from rankdistill.rows import Group, Response, answer_tokens
from rankdistill.statistics import tau_b


@dataclass(frozen=True)
class HeldOut:
    """What all models of one comparison are measured against; models are bound when needed."""

    tokenizer: PreTrainedTokenizerBase
    """Of the students."""
    ranked: Sequence[Group]
    """Scored groups whose order every policy is asked for: the baseline's held-out responses."""
    baseline: PreTrainedModel
    """The model that differences are taken to: the warmed-up student."""
    teacher: PreTrainedModel | None
    """None where its tokenizer is another: then no KL to it exists."""
    teacher_groups: Sequence[Group]
    """The teacher's responses to the held-out prompts; the KL to the teacher is taken on them."""
    temperature: float
    """At which baseline and teacher were sampled."""
    max_batch_tokens: int
    layout: str = "shared"
    read_prompts: int | None = None
    """The models read the answers to as many prompts, the first ones; None: all."""

    @cached_property
    def teacher_rows(self) -> KnownRows | None:
        """The teacher on its own responses; None where it, or a response, is missing."""
        groups = token_groups(self.teacher_groups[: self.read_prompts], self.tokenizer)
        if self.teacher is None or not groups:
            return None
        batches = batches_of(groups, max_batch_tokens=self.max_batch_tokens, layout=self.layout)
        return KnownRows(bind(self.teacher, self.layout), batches)


def evaluate_model(
    name: str,
    model: PreTrainedModel,
    groups: Sequence[Group],
    held_out: HeldOut,
    *,
    label: str | None = None,
    temperature: float | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> ModelFigures:
    """The figures of one model.

    groups: the model's own responses to the held-out prompts, with their `score`. label: its
    heading, default: the name. temperature: at which they were sampled, default: the held-out
    set's. tokenizer: the model's own
    where it is not the students'; then the figures that need the others' tokens are None.

    ValueError: no response to measure.
    """
    temperature = held_out.temperature if temperature is None else temperature
    responses = [response for group in groups for response in group["responses"]]
    if not responses:
        raise ValueError(f"model '{name}' has no response to measure")
    token_figures = _TokenFigures(model, held_out, temperature, tokenizer is None)
    own = token_groups(groups[: held_out.read_prompts], tokenizer or held_out.tokenizer)
    taus, ordered_pairs = token_figures.agreement()
    entropy, kl_to_baseline = token_figures.entropy_and_kl(own)
    length = mean_length(responses)
    thought, without_answer = thought_figures(responses)
    return ModelFigures(
        name=name,
        label=label or name,
        temperature=temperature,
        per_prompt=prompt_scores(groups),
        unscored=sum(_score(response) is None for response in responses),
        kendall_tau=taus,
        ordered_pairs=ordered_pairs,
        kl_to_baseline=kl_to_baseline,
        kl_to_teacher=token_figures.kl_to_teacher(),
        entropy=entropy,
        distinct_2=group_distinct_2(groups),
        repetition=fmean(repetition(response["token_ids"]) for response in responses),
        response_tokens=length,
        cut_share=cut_share(responses),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        tokens_per_second=None,  # known to who sampled
        thought_tokens=thought,
        answer_tokens=None if thought is None else length - thought,
        thought_only=without_answer,
    )


def prompt_scores(groups: Sequence[Group]) -> dict[str, PromptScores]:
    """The scored responses of every prompt; prompts without any are left out."""
    result: dict[str, PromptScores] = {}
    for group in groups:
        scored = [(s, answer_tokens(r)) for r in group["responses"] if (s := _score(r)) is not None]
        if scored:
            scores, tokens = map(list, zip(*scored, strict=True))
            result[group["prompt_id"]] = PromptScores(scores, tokens)
    return result


@dataclass(frozen=True)
class _TokenFigures:
    """The figures that a model has to be run for."""

    model: PreTrainedModel
    held_out: HeldOut
    temperature: float
    shares_tokenizer: bool

    def entropy_and_kl(self, own: Sequence[TokenGroup]) -> tuple[float | None, float | None]:
        """Entropy, and KL(model || baseline), each at its sampling temperature."""
        baseline, temperature = self.held_out.baseline, self.held_out.temperature
        is_baseline = self.model is baseline and self.temperature == temperature
        if not own:
            return None, None
        if not self.shares_tokenizer or is_baseline:
            return mean_entropy(self._bound(), self._batches(own), self.temperature), None
        bind(baseline, self.held_out.layout)
        temperatures = (self.temperature, temperature)
        return entropy_and_divergence(self._bound(), baseline, self._batches(own), temperatures)

    def kl_to_teacher(self) -> float | None:
        """KL(teacher || model) on the teacher's responses, each at its sampling temperature."""
        known = self.held_out.teacher_rows
        if known is None or not self.shares_tokenizer or self.model is self.held_out.teacher:
            return None
        return known.divergence_to(self._bound(), (self.held_out.temperature, self.temperature))

    def agreement(self) -> tuple[list[float | None], int]:
        """Kendall's tau-b of every held-out group whose responses are scored, and the pairs in
        them that the scores tell apart."""
        if not self.shares_tokenizer:
            return [], 0
        ranked = self.held_out.ranked[: self.held_out.read_prompts]
        scored = written([_scored_only(group) for group in ranked])
        batches = self._batches(token_groups(scored, self.held_out.tokenizer))
        values = policy_values(self._bound(), batches)
        scores = [[r.get("score", 0.0) for r in group["responses"]] for group in scored]
        pairs = sum(a != b for given in scores for a, b in combinations(given, 2))
        return [tau_b(v, s) for v, s in zip(values, scores, strict=True)], pairs

    def _bound(self) -> PreTrainedModel:
        return bind(self.model, self.held_out.layout)

    def _batches(self, groups: Sequence[TokenGroup]):
        budget, layout = self.held_out.max_batch_tokens, self.held_out.layout
        return batches_of(groups, max_batch_tokens=budget, layout=layout)


def _score(response: Response) -> float | None:
    return response.get("score")


def _scored_only(group: Group) -> Group:
    kept = [r for r in group["responses"] if _score(r) is not None]
    return {**group, "responses": kept}
