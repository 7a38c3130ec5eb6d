"""Responses to show: spread over the score differences, so that nobody has to trust a selection."""

from __future__ import annotations

from typing import Any

from rankdistill.evaluate.model_figures import common_prompts
from rankdistill.evaluate.report.run_report import RunReport
from rankdistill.records import Group, Response

SHOWN = 6

HOW_CHOSEN = (
    "Held-out prompts are ordered by the score difference between the trained student and the "
    "baseline, and taken at even distances from the largest loss to the largest gain. Of every "
    "model the first response sampled is shown, not its best. Scores are of that response; the "
    "difference is of the means over all responses to the prompt."
)


def choose_samples(report: RunReport) -> list[dict[str, Any]]:
    """At most `SHOWN` held-out prompts with every model's first response.

    From the prompt where the trained student loses most to the one where it gains most. Only
    prompts whose groups were handed over for both models.
    """
    models = {model.name: model for model in report.models}
    trained, baseline = models[report.trained], models[report.baseline]
    groups = {name: {g["prompt_id"]: g for g in rows} for name, rows in report.groups.items()}
    at_hand = groups.get(trained.name, {}).keys() & groups.get(baseline.name, {}).keys()
    differences = {
        prompt: trained.per_prompt[prompt].mean - baseline.per_prompt[prompt].mean
        for prompt in common_prompts(trained, baseline)
        if prompt in at_hand
    }
    ordered = sorted(differences, key=lambda prompt: (differences[prompt], prompt))
    return [
        {
            "prompt_id": prompt,
            "difference": differences[prompt],
            "position": f"{ordered.index(prompt) + 1} of {len(ordered)}",
            "messages": [dict(m) for m in groups[trained.name][prompt]["messages"]],
            "responses": {
                model.name: _first(groups[model.name][prompt])
                for model in report.models
                if prompt in groups.get(model.name, {}) and groups[model.name][prompt]["responses"]
            },
        }
        for prompt in _spread(ordered, SHOWN)
    ]


def _spread(ordered: list[str], count: int) -> list[str]:
    """`count` of the values at even distances, both ends among them."""
    if len(ordered) <= count:
        return ordered
    return [ordered[round(i * (len(ordered) - 1) / (count - 1))] for i in range(count)]


def _first(group: Group) -> dict[str, Any]:
    return shown(group["responses"][0])


def shown(response: Response) -> dict[str, Any]:
    """What a report shows of a response."""
    return {
        "text": response["text"],
        "score": response.get("score"),
        "tokens": len(response["token_ids"]),
        "cut": response["finish_reason"] == "length",
    }
