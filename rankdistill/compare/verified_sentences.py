"""What verified demands say of objectives; a gain counts where its interval excludes 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rankdistill.compare.comparison import Comparison
from rankdistill.compare.verified import VerifiedTables, unit
from rankdistill.compare.wording import NAMED, differences, listed, sentence, told
from rankdistill.report.headline import Finding
from rankdistill.report.table import share_percent
from rankdistill.statistics import Interval

_CONTROLS = {
    "same_entropy": "the student before, sampled at the same entropy",
    "prompt": "the student before with a better prompt",
    "prompt_both": "the student before, both with a better prompt",
}
Named = tuple[str, Interval]
"""What is said behind a difference, and the difference."""


def headline(comparison: Comparison, verified: VerifiedTables) -> str:
    """One sentence: who follows most demands, of whom that is beyond noise, and whether it is more
    than a control that trains nothing reaches."""
    best, *others = (objective.label for objective in comparison.ordered)
    share = share_percent(comparison.mean(best))
    where = f"on {verified.base_prompts} {unit(verified)}"
    did = f"follows {share} of the demands"
    if verified.rule is not None:
        did = f"meets the rule {verified.rule} in {share} of its answers"
    follows = f"{best} {did} {where}"
    rest = _beside_controls(comparison, verified, best)
    if not others:
        gain = told(comparison.lead(best), comparison)
        return f"{follows}; over the student before training it gains {gain}{rest}."
    clear = [d for d in verified.differences if d.tested.beyond_noise]
    below = [d.worse for d in clear if d.better == best]
    level = [label for label in others if label not in below]
    if not clear:
        none = f"no difference between the {len(others) + 1} objectives is beyond noise"
        return f"{follows}, the most, but {none}{rest}."
    if not below:
        return f"{follows}, the most, but not beyond noise against {listed(level)}{rest}."
    whom = f"all {len(below)} others" if not level and len(below) > NAMED else listed(below)
    said = f"{follows}, more than {whom} beyond noise"
    return f"{said}; against {listed(level)} it is not{rest}." if level else f"{said}{rest}."


def _beside_controls(comparison: Comparison, verified: VerifiedTables, best: str) -> str:
    """The second half: what the strongest control leaves of the best one's gain."""
    found = verified.over_control(best)
    if found is None:
        return "; no control that trains nothing was measured"
    over, left = _CONTROLS[found[0]], found[1].interval
    if left.excludes() and left.mean > 0:
        return f"; over {over}, it gains {told(left, comparison)}"
    return f"; it is not shown to be ahead of {over}"


def findings(comparison: Comparison, verified: VerifiedTables) -> list[Finding | None]:
    """Differences, gains over the student before, and over the strongest control."""
    labels = [objective.label for objective in comparison.ordered if not objective.placebo]
    gains = {label: _gain(verified, label) for label in labels}
    controls = {label: found for label in labels if (found := _control(verified, label))}
    return [
        differences(comparison),
        _gains(gains, comparison) if gains else None,
        _over_controls(controls, comparison) if controls else None,
        _seeds(comparison, verified),
    ]


def _gain(verified: VerifiedTables, label: str) -> Named:
    name, figure = verified.gain(label)
    return f", {name}", figure.interval


def _control(verified: VerifiedTables, label: str) -> Named | None:
    found = verified.over_control(label)
    return found and (f" over {_CONTROLS[found[0]]}", found[1].interval)


def _gains(gains: Mapping[str, Named], comparison: Comparison) -> Finding:
    ahead, behind, unclear = _sorted(gains)
    by = "by the smaller of the sampled and the greedy gain"
    said = [
        f"{title}: {_told(labels, gains, comparison)}"
        for title, labels in (
            (f"More than before training, {by}", ahead),
            (f"Less than before training, {by}", behind),
            (f"Not shown to be more than before training, {by}", unclear),
        )
        if labels
    ]
    return Finding("warning" if behind or not ahead else "good", sentence(". ".join(said)))


def _over_controls(controls: Mapping[str, Named], comparison: Comparison) -> Finding:
    ahead, behind, unclear = _sorted(controls)
    rest = behind + unclear
    said = [
        f"{title} the strongest control, which trains nothing: {_told(own, controls, comparison)}"
        for title, own in (("More than", ahead), ("Not shown to be more than", rest))
        if own
    ]
    return Finding("warning" if rest else "good", sentence(". ".join(said)))


def _sorted(found: Mapping[str, Named]) -> tuple[list[str], list[str], list[str]]:
    """Labels above 0, below 0, and those whose interval has it."""
    clear = [label for label, (_, interval) in found.items() if interval.excludes()]
    ahead = [label for label in clear if found[label][1].mean > 0]
    behind = [label for label in clear if label not in ahead]
    return ahead, behind, [label for label in found if label not in clear]


def _told(labels: Iterable[str], found: Mapping[str, Named], comparison: Comparison) -> str:
    return "; ".join(
        f"{label} {told(found[label][1], comparison)}{found[label][0]}" for label in labels
    )


def _seeds(comparison: Comparison, verified: VerifiedTables) -> Finding | None:
    if comparison.seeds == 1:
        return None
    return Finding(
        "plain",
        f"Intervals of gains resample {unit(verified)} and speak of these trained students; "
        "differences between objectives take in how much seeds differ as well.",
    )
