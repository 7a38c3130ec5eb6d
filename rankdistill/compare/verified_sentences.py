"""What verified demands say of objectives; a gain counts where its interval excludes 0."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rankdistill.compare.comparison import Comparison
from rankdistill.compare.figures import share
from rankdistill.compare.verified import VerifiedTables
from rankdistill.compare.wording import NAMED, differences, excludes_0, listed, sentence, told
from rankdistill.evaluate.report.headline import Finding
from rankdistill.evaluate.statistics import Interval

_CONTROLS = {
    "same_entropy": "the student before, sampled at the same entropy",
    "prompt": "the student before with a better prompt",
    "prompt_both": "the student before, both with a better prompt",
}
Named = tuple[str, Interval]
"""Which difference it is, and the difference."""


def headline(comparison: Comparison, verified: VerifiedTables) -> str:
    """One sentence: who follows most demands, and of whom that is beyond noise."""
    best, *others = (objective.label for objective in comparison.ordered)
    follows = f"{best} follows {share(comparison.mean(best))} of the demands"
    where = f"on {verified.base_prompts} base prompts"
    if not others:
        gain = told(comparison.lead(best), comparison)
        return f"{follows} {where}; over the student before training it gains {gain}."
    below = [
        d.worse for d in verified.differences if d.better == best and d.tested.beyond_noise
    ]  # fmt: skip
    level = [label for label in others if label not in below]
    if not any(d.tested.beyond_noise for d in verified.differences):
        return (
            f"No difference between the {len(others) + 1} objectives is beyond noise {where}: "
            f"{listed([best, *others])} follow equally many demands as far as this comparison can "
            "tell."
        )
    if not below:
        return f"{follows} {where}, the most, but not beyond noise against {listed(level)}."
    whom = f"all {len(below)} others" if not level and len(below) > NAMED else listed(below)
    said = f"{follows} {where}, more than {whom} beyond noise"
    return f"{said}; against {listed(level)} it is not." if level else f"{said}."


def findings(comparison: Comparison, verified: VerifiedTables) -> list[Finding | None]:
    """Differences, gains over the student before, and over the strongest control."""
    labels = [objective.label for objective in comparison.ordered if not objective.placebo]
    gains = {label: _gain(verified, label) for label in labels}
    controls = {label: found for label in labels if (found := _control(verified, label))}
    return [
        differences(comparison),
        _gains(gains, comparison) if gains else None,
        _over_controls(controls, comparison) if controls else None,
        _seeds(comparison),
    ]


def _gain(verified: VerifiedTables, label: str) -> Named:
    name, figure = verified.gain(label)
    return name, figure.interval


def _control(verified: VerifiedTables, label: str) -> Named | None:
    found = verified.over_control(label)
    return found and (_CONTROLS[found[0]], found[1].interval)


def _gains(gains: Mapping[str, Named], comparison: Comparison) -> Finding:
    ahead, behind, unclear = _sorted(gains)
    said = []
    if ahead:
        said.append(f"more than before training: {_told(ahead, gains, comparison)}")
    if behind:
        said.append(f"less than before training: {_told(behind, gains, comparison)}")
    if unclear:
        said.append(f"a gain that may be noise: {_told(unclear, gains, comparison)}")
    kind = "warning" if behind or not ahead else "good"
    return Finding(kind, _told_as("Of sampled and greedy answers the smaller gain", said))


def _over_controls(controls: Mapping[str, Named], comparison: Comparison) -> Finding:
    ahead, behind, unclear = _sorted(controls)
    said = []
    if ahead:
        said.append(f"more than that: {_told(ahead, controls, comparison)}")
    if rest := behind + unclear:
        said.append(f"not shown to be more: {_told(rest, controls, comparison)}")
    kind = "warning" if rest else "good"
    return Finding(kind, _told_as("The strongest control, which trains nothing", said))


def _sorted(found: Mapping[str, Named]) -> tuple[list[str], list[str], list[str]]:
    """Labels above 0, below 0, and those whose interval has it."""
    clear = [label for label, (_, interval) in found.items() if excludes_0(interval)]
    ahead = [label for label in clear if found[label][1].mean > 0]
    behind = [label for label in clear if label not in ahead]
    return ahead, behind, [label for label in found if label not in clear]


def _told(labels: Iterable[str], found: Mapping[str, Named], comparison: Comparison) -> str:
    return "; ".join(
        f"{label} {told(found[label][1], comparison)}, {found[label][0]}" for label in labels
    )


def _told_as(title: str, said: list[str]) -> str:
    return sentence(f"{title}: {'. '.join(part[:1].upper() + part[1:] for part in said)}")


def _seeds(comparison: Comparison) -> Finding | None:
    if comparison.seeds == 1:
        return None
    return Finding(
        "plain",
        "Intervals of gains resample base prompts and speak of these trained students; differences "
        "between objectives take in how much seeds differ as well.",
    )
