"""The control that a gain is held against: the warmed-up student, merely sampled more sharply.

A policy that training made surer of itself scores higher under a likelihood for that alone. So the
warmed-up student is sampled at the temperature that gives its responses the trained one's entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rankdistill.evaluate.model_figures import ModelFigures
from rankdistill.evaluate.tokens import batches_of, matching_temperature, mean_entropy
from rankdistill.forward import TokenGroup, bind
from rankdistill.models import encode_prompt
from rankdistill.sample.stage import sample
from rankdistill.store import Partial

if TYPE_CHECKING:
    from rankdistill.evaluate.stage import Evaluation, Reference

BOUNDS = (0.1, 5.0)
"""Temperatures that are considered."""


def control_temperature(
    evaluation: Evaluation, warmed_up: ModelFigures, trained: ModelFigures, reference: Reference
) -> float:
    """The temperature at which the warmed-up student's responses have the trained one's entropy.

    In two steps: the temperature that gives the responses it wrote at its own temperature that
    entropy, then, since at another temperature it writes others, a secant through the entropy of
    what it writes there.
    """
    wanted, start = trained.entropy or 0.0, warmed_up.entropy or 0.0
    first = _on_given_responses(evaluation, wanted, reference)
    entropy = _of_own_responses(evaluation, first, reference)
    if abs(start - entropy) < 1e-6:
        return first
    step = (wanted - entropy) * (warmed_up.temperature - first) / (start - entropy)
    return round(min(max(first + step, BOUNDS[0]), BOUNDS[1]), 4)


def _on_given_responses(evaluation: Evaluation, wanted: float, reference: Reference) -> float:
    run = evaluation.run

    def make(partial: Partial) -> Mapping[str, Any]:
        held_out = reference.held_out(run)
        matched = matching_temperature(
            bind(held_out.baseline, held_out.layout),
            _batches(evaluation, reference, reference.baseline.groups),
            wanted,
            base_temperature=reference.baseline.temperature,
            bounds=BOUNDS,
        )
        return {"temperature": round(matched.temperature, 4)}

    identity = {
        "code": 2,
        "model": evaluation.baseline.identity,
        "answers": reference.baseline.scored.key,
        "entropy": wanted,
        "layout": run.settings.train.layout.name,
        **evaluation.read_identity,
    }
    what = "temperature that gives the warmed-up student the trained one's entropy"
    return run.stage("evaluate", what, identity, make).manifest["counts"]["temperature"]


def _of_own_responses(evaluation: Evaluation, temperature: float, reference: Reference) -> float:
    """Entropy of what the warmed-up student writes at `temperature`, nats a token."""
    run, most = evaluation.run, evaluation.suite.read_prompts
    prompts, key = evaluation.prompts[:most], evaluation.prompts_key
    if most is not None:
        key = f"{key} first {len(prompts)}"
    sampled = sample(
        run, evaluation.baseline, prompts, key, "student",
        evaluation.suite.responses_per_prompt, temperature=temperature,
    )  # fmt: skip
    identity = {
        "code": 1,
        "model": evaluation.baseline.identity,
        "responses": sampled.key,
        "temperature": temperature,
        "layout": run.settings.train.layout.name,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        held_out = reference.held_out(run)
        batches = _batches(evaluation, reference, sampled.rows())
        model = bind(held_out.baseline, held_out.layout)
        return {"entropy": mean_entropy(model, batches, temperature)}

    what = f"entropy of what it writes at temperature {temperature:.2f}"
    return run.stage("evaluate", what, identity, make).manifest["counts"]["entropy"]


def _batches(evaluation: Evaluation, reference: Reference, groups: Sequence[Any]) -> Any:
    held_out = reference.held_out(evaluation.run)
    tokens = [
        TokenGroup(
            encode_prompt(held_out.tokenizer, group["messages"]),
            [response["token_ids"] for response in group["responses"]],
        )
        for group in groups[: evaluation.suite.read_prompts]
    ]
    return batches_of(tokens, max_batch_tokens=held_out.max_batch_tokens, layout=held_out.layout)
