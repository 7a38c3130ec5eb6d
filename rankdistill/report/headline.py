"""What the figures say, in sentences that do not claim more than the intervals allow, and what they
suggest to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rankdistill.report.ranked import ranked_cautions, ranked_headline
from rankdistill.report.ranking import ranking_cautions
from rankdistill.report.reward import has_reward, reward_cautions, reward_headline
from rankdistill.report.stages import several_versions
from rankdistill.report.suites import suite_cautions, suite_changes, suite_headline
from rankdistill.report.table import direction, number, percent, signed, tokens
from rankdistill.report.verified_sentences import (
    has_verified_headline,
    verified_findings,
    verified_headline,
)

Kind = Literal["good", "warning", "plain"]

FEW_PROMPTS = 20
"""Below it the bootstrap's intervals are too narrow to be trusted."""
ENTROPY_TOLERANCE = 0.1
"""Relative difference of entropies up to which the sharpening control is called matched."""


Verdict = Literal["above", "below", "unknown"]

BESIDE_CONTROL: dict[tuple[Verdict, Verdict | None], str] = {
    ("above", "above"): ", and above the same student merely sampled colder",
    ("above", "unknown"): ", but is not shown to beat the same student merely sampled colder",
    ("above", "below"): ", but below the same student merely sampled colder",
    ("above", None): "; no control says whether that is more than being surer",
    ("below", "below"): ", and below the same student merely sampled colder",
    ("below", "unknown"): "",
    ("below", "above"): "",
    ("below", None): "",
    ("unknown", "above"): ", though it scores above the same student merely sampled colder",
    ("unknown", "unknown"): "",
    ("unknown", "below"): ", and it scores below the same student merely sampled colder",
    ("unknown", None): "",
}
"""The headline's second half by the verdicts against the student before, and against the control
that trains nothing; None where there is no control."""
SAME_ENTROPY = 0.01
"""Relative change of entropy below which a student is neither surer nor less sure."""


@dataclass(frozen=True)
class Finding:
    """One sentence below the headline."""

    kind: Kind
    text: str


def headline(metrics: Mapping[str, Any]) -> str:
    """One sentence: what changed in the teacher's eyes, how sure that is, and whether a control
    that trains nothing reaches it as well.

    Of a verified run: how many more demands are followed. Where nothing was sampled: what changed
    in the order of held-out rankings.
    """
    if has_verified_headline(metrics):
        return verified_headline(metrics)
    if not metrics["models"]:
        if metrics.get("suites") and not has_reward(metrics) and metrics["ranked_set"] is None:
            return suite_headline(metrics)
        alone = has_reward(metrics) and metrics["ranked_set"] is None
        return reward_headline(metrics) if alone else ranked_headline(metrics)
    trained, baseline = _model(metrics, "trained"), _model(metrics, "baseline")
    difference = trained["score_difference"]
    if difference is None:
        return (
            f"The {trained['label']} and the {baseline['label']} student have no scored held-out "
            "prompt in common, so they cannot be compared."
        )
    where = f"on {trained['compared_prompts']} held-out prompts"
    scores = (
        f"{signed(difference['mean'])}{_range(difference, metrics)}; judge score "
        f"{_score(trained)} against {_score(baseline)}"
    )
    who, whom = f"{trained['label']} student", f"{baseline['label']} student"
    verdict = _verdict(difference)
    beside = _beside_control(metrics)
    # Where nothing was ranked there is no training that sampling colder could pass for.
    asked = beside is not None or metrics.get("ranking") is not None
    rest = BESIDE_CONTROL[verdict, beside] if asked else ""
    if verdict == "unknown":
        return (
            f"{where.capitalize()} no difference between the {who} and the {whom} can be told "
            f"({scores}){rest}."
        )
    return f"The {who} scores {verdict} the {whom} {where} ({scores}){rest}."


def findings(metrics: Mapping[str, Any]) -> list[Finding]:
    """What a reader must know beside the headline, the most important first."""
    mixed = several_versions([metrics])
    return _measured(metrics) + ([Finding("warning", mixed)] if mixed else [])


def _measured(metrics: Mapping[str, Any]) -> list[Finding]:
    ranked = _suites(metrics) + _ranked(metrics)
    ranked += [Finding("plain", text) for text in suite_cautions(metrics)]
    if not metrics["models"]:
        return ranked + _ranking(metrics)
    if has_verified_headline(metrics):
        # How sure the gain is, and whether a control reaches it, is in the headline already.
        said = verified_findings(metrics)
        first = [Finding(kind, text) for kind, text in said]  # type: ignore[arg-type]
    else:
        first = [_noise(metrics), _control(metrics)]
    found = [*first, _text_change(metrics), *_cautions(metrics)]
    return [finding for finding in found if finding is not None] + ranked + _ranking(metrics)


def _suites(metrics: Mapping[str, Any]) -> list[Finding]:
    kinds: dict[int, Kind] = {1: "good", 0: "plain", -1: "warning"}
    return [Finding(kinds[way], text) for way, text in suite_changes(metrics)]


def judge_warning(metrics: Mapping[str, Any]) -> str | None:
    """The banner, where the judge is what the student was trained to please."""
    if not metrics["judge"]["is_training_teacher"]:
        return None
    return (
        "Judged by its own teacher: "
        f"{metrics['judge']['name']} also ranked the training responses. A higher score shows that "
        "the student learned what this teacher prefers, not that people would prefer it."
    )


def _noise(metrics: Mapping[str, Any]) -> Finding | None:
    difference = _model(metrics, "trained")["score_difference"]
    if difference is None:
        return None
    if difference["low"] is None:
        return Finding(
            "warning", "A single prompt has no interval: this says nothing about others."
        )
    if _verdict(difference) != "unknown":
        return None
    return Finding(
        "warning",
        f"The {_level(metrics)} interval of the difference includes 0: it may be noise of the "
        "prompts that happened to be evaluated.",
    )


def _beside_control(metrics: Mapping[str, Any]) -> Verdict | None:
    """The verdict against the control; nothing is shown by one that is less sharp than it."""
    against = metrics["trained_against_control"]
    if against is None or metrics["control"] is None:
        return None
    verdict = _verdict(against["difference"])
    off = _entropy_gap(_model(metrics, "trained"), _model(metrics, "control"))
    less_sharp = off is not None and off > ENTROPY_TOLERANCE
    return "unknown" if verdict == "above" and less_sharp else verdict


def _unchanged(metrics: Mapping[str, Any]) -> bool:
    """Whether training changed neither the score nor how sure the student is, as far as is seen."""
    trained, baseline = _model(metrics, "trained"), _model(metrics, "baseline")
    gap = _entropy_gap(trained, baseline)
    still = gap is not None and abs(gap) < SAME_ENTROPY
    difference = trained["score_difference"]
    return still and difference is not None and _verdict(difference) == "unknown"


def _control(metrics: Mapping[str, Any]) -> Finding | None:
    """Whether the gain is more than the same student merely sampled at a lower temperature."""
    against = metrics["trained_against_control"]
    if against is None or metrics["control"] is None or _unchanged(metrics):
        return None
    trained, control = _model(metrics, "trained"), _model(metrics, "control")
    difference = against["difference"]
    who = (
        f"the {_model(metrics, 'baseline')['label']} student merely sampled at temperature "
        f"{number(control['temperature'], 2)} (entropy {number(control['entropy'])}, the "
        f"{trained['label']} student's {number(trained['entropy'])})"
    )
    by = f"{signed(difference['mean'])}{_range(difference, metrics)}"
    off = _entropy_gap(trained, control)
    verdict = _verdict(difference)
    if verdict == "above" and off is not None and off > ENTROPY_TOLERANCE:
        return Finding(
            "warning",
            f"Against {who} it gains {by}, but that control is less sharp than the "
            f"{trained['label']} student, so sharpening is not ruled out.",
        )
    if verdict == "above":
        return Finding("good", f"More than sharpening: it also beats {who}, by {by}.")
    if verdict == "below":
        return Finding(
            "warning", f"Not more than sharpening: it scores below {who}; difference {by}."
        )
    return Finding(
        "warning",
        f"Not shown to be more than sharpening: against {who} the difference is {by}, which "
        "includes 0. What it learned may only be to be surer.",
    )


def _text_change(metrics: Mapping[str, Any]) -> Finding:
    trained, baseline = _model(metrics, "trained"), _model(metrics, "baseline")
    told_above = {"repetition"} if has_verified_headline(metrics) else set()
    changes = [
        f"{words} {text(trained[key])} (was {text(baseline[key])})"
        for words, key, text in (
            ("length", "response_tokens", tokens),
            ("cut by length", "cut_share", percent),
            ("entropy", "entropy", number),
            ("distinct-2", "distinct_2", number),
            ("repetition", "repetition", percent),
        )
        if key not in told_above
    ]
    moved = trained["kl_to_baseline"]
    if moved is not None:
        changes.append(f"KL to the {baseline['label']} student {number(moved)} nats per token")
    return Finding("plain", f"How its responses changed: {', '.join(changes)}.")


def _cautions(metrics: Mapping[str, Any]) -> list[Finding]:
    prompts = _model(metrics, "trained")["compared_prompts"] or 0
    if has_verified_headline(metrics):
        prompts = metrics["verified"]["clusters"]
    cautions = []
    if 1 < prompts < FEW_PROMPTS:
        text = f"Only {prompts} prompts: the intervals are rough, and too narrow."
        cautions.append(Finding("warning", text))
    for model in metrics["models"].values():
        if model["unscored_responses"]:
            who = f"{model['unscored_responses']} responses of {model['label']}"
            cautions.append(Finding("warning", f"{who} got no score and are left out."))
    return cautions


def _ranked(metrics: Mapping[str, Any]) -> list[Finding]:
    """What held-out rankings of an existing set say."""
    if metrics.get("ranked_set") is None:
        return []
    said = [Finding(kind, text) for kind, text in ranked_cautions(metrics)]  # type: ignore[arg-type]
    return ([Finding("plain", ranked_headline(metrics))] if metrics["models"] else []) + said


def _ranking(metrics: Mapping[str, Any]) -> list[Finding]:
    """What speaks against the ranking that was trained on, and the reward model that learnt it."""
    said = [*ranking_cautions(metrics), *reward_cautions(metrics)]
    return [Finding(kind, text) for kind, text in said]  # type: ignore[arg-type]


def _entropy_gap(trained: Mapping[str, Any], control: Mapping[str, Any]) -> float | None:
    """How much less sharp the control is, relative; negative: it is sharper."""
    if not trained["entropy"] or control["entropy"] is None:
        return None
    return control["entropy"] / trained["entropy"] - 1.0


def _verdict(interval: Mapping[str, Any]) -> Verdict:
    verdicts: tuple[Verdict, ...] = ("unknown", "above", "below")
    return verdicts[direction(interval)]


def _range(interval: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    if interval["low"] is None or interval["high"] is None:
        return ", no interval"
    return f", {_level(metrics)} interval {signed(interval['low'])} to {signed(interval['high'])}"


def _level(metrics: Mapping[str, Any]) -> str:
    return percent(metrics["statistics"]["interval_level"])


def _score(model: Mapping[str, Any]) -> str:
    return number(model["score"]["mean"] if model["score"] else None)


def _model(metrics: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    return metrics["models"][metrics[role]]


Metrics = Mapping[str, Any]
MANY_CUT = 0.3
"""Share of responses cut by the length limit from which that is said."""
ENOUGH_PROMPTS = 100
"""Held-out prompts below which an interval is wide."""
MORE_REPETITION = 2.0
"""Times that repetition has risen from which a lower rate is suggested."""


def next_steps(metrics: Metrics, folder: str = "") -> list[str]:
    """Sentences, with what to type between backticks.

    Args:
        folder: Of the run, as it can be typed; "" leaves out commands that need it.
    """
    return [*_doubts(metrics), *_commands(metrics, folder)]


def _doubts(metrics: Metrics) -> Iterator[str]:
    trained = metrics["models"].get(metrics["trained"])
    if trained is None:
        return
    if metrics["judge"]["is_training_teacher"] and not metrics.get("verified"):
        yield "a judge that did not rank the training responses: `score@eval.judge=judge`"
    if (trained["cut_share"] or 0.0) > MANY_CUT:
        told = f"{percent(trained['cut_share'])} of its responses were cut"
        yield f"longer responses: `sample.max_response_tokens=`, since {told}"
    if trained["prompts"] < ENOUGH_PROMPTS:
        yield "more held-out prompts, for narrower intervals: `prompts.limit.heldout=`"
    before = metrics["models"].get(metrics["baseline"])
    rose = trained["repetition"], before and before["repetition"]
    if rose[0] and rose[1] and rose[0] > 0.02 and rose[0] > MORE_REPETITION * rose[1]:
        yield "a lower `train.learning_rate=`, since repetition has doubled"


def _commands(metrics: Metrics, folder: str) -> Iterator[str]:
    if not folder:
        return
    place = shlex.quote(folder)
    yield f"beside another run: `python -m rankdistill.compare {place} OTHER`"
    if metrics["optimiser_steps"] is not None:
        yield f"talk to it: `python -m rankdistill.chat {place}`"
        yield f"publish or serve it: `python -m rankdistill.export {place}`"
