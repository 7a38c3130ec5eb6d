"""The control that a gain is held against: the warmed-up student, merely sampled more sharply.

A policy that training made surer of itself scores higher under a likelihood for that alone. So the
warmed-up student is sampled at the temperature that gives its responses the trained one's entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rankdistill.evaluate.students import HeldOut
from rankdistill.evaluate.tokens import batches_of, matching_temperature, mean_entropy
from rankdistill.forward import bind
from rankdistill.models import Rows
from rankdistill.stages.comparison import Reference
from rankdistill.stages.run import Model, Run
from rankdistill.stages.sample import sample
from rankdistill.store import Partial

BOUNDS = (0.1, 5.0)
"""Temperatures that are considered."""


def control_temperature(
    run: Run,
    reference: Reference,
    prompts: Rows,
    *,
    own: float,
    wanted: float,
) -> float:
    """The temperature at which the baseline's responses have the trained student's entropy.

    In two steps: the temperature that gives the responses it wrote at its own temperature that
    entropy, then, since at another temperature it writes others, a secant through the entropy of
    what it writes there.

    Args:
        reference: Of the run; its baseline is the model that is sampled.
        prompts: Of the held-out split.
        own: Entropy of the baseline's responses at its own temperature, nats per token.
        wanted: The trained student's.

    Returns:
        A temperature within BOUNDS.
    """
    first = _for_own_responses(run, reference, wanted)
    entropy = _entropy_at(run, reference, prompts, first)
    if abs(own - entropy) < 1e-6:
        return first
    step = (wanted - entropy) * (reference.baseline.temperature - first) / (own - entropy)
    return round(min(max(first + step, BOUNDS[0]), BOUNDS[1]), 4)


def _for_own_responses(run: Run, reference: Reference, wanted: float) -> float:
    """The temperature that gives the responses which the baseline wrote that entropy."""

    def make(partial: Partial) -> Mapping[str, Any]:
        held_out = reference.held_out(run)
        matched = matching_temperature(
            bind(held_out.baseline, held_out.layout),
            _batches(held_out, reference.baseline.scored, reference.baseline.model),
            wanted,
            base_temperature=reference.baseline.temperature,
            bounds=BOUNDS,
        )
        return {"temperature": round(matched.temperature, 4)}

    identity = {
        "code": 2,
        "model": reference.baseline.model.identity,
        "answers": reference.baseline.scored.key,
        "entropy": wanted,
        "layout": run.settings.train.layout.name,
        **reference.read_identity,
    }
    what = "temperature that gives the warmed-up student the trained one's entropy"
    return run.stage("evaluate", what, identity, make).manifest["counts"]["temperature"]


def _entropy_at(run: Run, reference: Reference, prompts: Rows, temperature: float) -> float:
    """Entropy of what the baseline writes at `temperature`, nats per token."""
    suite, baseline = reference.suite, reference.baseline.model
    if suite.read_prompts is not None:
        prompts = prompts.first(suite.read_prompts)
    count = suite.responses_per_prompt
    sampled = sample(run, baseline, prompts, "student", count, temperature=temperature)
    identity = {
        "code": 1,
        "model": baseline.identity,
        "responses": sampled.key,
        "temperature": temperature,
        "layout": run.settings.train.layout.name,
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        held_out = reference.held_out(run)
        model = bind(held_out.baseline, held_out.layout)
        return {"entropy": mean_entropy(model, _batches(held_out, sampled, baseline), temperature)}

    what = f"entropy of what it writes at temperature {temperature:.2f}"
    return run.stage("evaluate", what, identity, make).manifest["counts"]["entropy"]


def _batches(held_out: HeldOut, answers: Rows, baseline: Model) -> Any:
    read = replace(answers, source=answers.rows[: held_out.read_prompts])
    budget, layout = held_out.max_batch_tokens, held_out.layout
    return batches_of(read.tokens(baseline), max_batch_tokens=budget, layout=layout)
