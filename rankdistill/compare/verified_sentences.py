"""What verified demands say of objectives; a gain counts where its interval excludes 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rankdistill.compare.comparison import Comparison
from rankdistill.compare.verified import VerifiedTables, unit
from rankdistill.compare.wording import NAMED, differences, listed, told
from rankdistill.report.headline import Finding
from rankdistill.report.table import points, share_percent
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
        return f"{follows}, the most, but not beyond noise against {_others(level)}{rest}."
    whom = f"all {len(below)} others" if not level and len(below) > NAMED else _others(below)
    said = f"{follows}, more than {whom} beyond noise"
    return f"{said}; against {_others(level)} it is not{rest}." if level else f"{said}{rest}."


def _others(labels: Sequence[str]) -> str:
    return listed(labels) if len(labels) <= NAMED else f"{len(labels)} others"


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
    than = "than before training, by the smaller of the sampled and the greedy gain"
    parts = {"More": ahead, "Less": behind, "Not shown to be more": unclear}
    kind = "warning" if behind or not ahead else "good"
    return Finding(kind, _told(parts, than, gains, comparison))


def _over_controls(controls: Mapping[str, Named], comparison: Comparison) -> Finding:
    ahead, behind, unclear = _sorted(controls)
    than = "than the strongest control, which trains nothing"
    parts = {"More": ahead, "Not shown to be more": behind + unclear}
    kind = "warning" if behind or unclear else "good"
    return Finding(kind, _told(parts, than, controls, comparison))


def _sorted(found: Mapping[str, Named]) -> tuple[list[str], list[str], list[str]]:
    """Labels above 0, below 0, and those whose interval has it."""
    clear = [label for label, (_, interval) in found.items() if interval.excludes()]
    ahead = [label for label in clear if found[label][1].mean > 0]
    behind = [label for label in clear if label not in ahead]
    return ahead, behind, [label for label in found if label not in clear]


def _told(
    parts: Mapping[str, Sequence[str]],
    than: str,
    found: Mapping[str, Named],
    comparison: Comparison,
) -> str:
    """A sentence for each part that has objectives, the largest first; only the first says `than`.

    Where there are many, the table alone has intervals, and what each is over.
    """
    many = len(found) > NAMED
    said = []
    for title, labels in parts.items():
        if not labels:
            continue
        each = [
            f"{label} {points(interval.mean)}"
            if many
            else f"{label} {told(interval, comparison)}{behind}"
            for label in sorted(labels, key=lambda label: -found[label][1].mean)
            for behind, interval in (found[label],)
        ]
        of = "" if said else f" {than}{', in points (intervals are below)' if many else ''}"
        said.append(f"{title}{of}: {'; '.join(each)}.")
    return " ".join(said)


def _seeds(comparison: Comparison, verified: VerifiedTables) -> Finding | None:
    if comparison.seeds == 1:
        return None
    return Finding(
        "plain",
        f"Intervals of gains resample {unit(verified)} and speak of these trained students; "
        "differences between objectives take in how much seeds differ as well.",
    )
