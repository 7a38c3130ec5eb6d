"""What the comparison says, in sentences that claim no more than it can tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rankdistill.compare.comparison import Comparison
from rankdistill.compare.figures import points
from rankdistill.evaluate.report.headline import FEW_PROMPTS, Finding, judge_warning
from rankdistill.evaluate.report.table import signed

_NAMED = 4
"""Most pairs that one sentence names."""


def headline(comparison: Comparison) -> str:
    """One sentence: who is ahead beyond noise, and of whom that cannot be said."""
    objectives = comparison.objectives
    where = f"on {len(comparison.prompts)} held-out prompts"
    if len(objectives) == 1:
        seeds = len(objectives[0].runs)
        return (
            f"{objectives[0].label}, {seeds} seeds {where}: the lead is "
            f"{_told(comparison.leads[objectives[0].label], comparison)}."
        )
    best = comparison.ordered[0].label
    others = [objective.label for objective in comparison.ordered[1:]]
    below = [o for o in others if _beyond(comparison.difference(best, o))]
    level = [o for o in others if o not in below]
    if not any(d.tested.beyond_noise for d in comparison.differences):
        return (
            f"No difference between the {len(objectives)} objectives is beyond noise {where}: "
            f"{_list(o.label for o in comparison.ordered)} are equal as far as this comparison "
            "can tell."
        )
    if not below:
        return (
            f"{best} has the highest {comparison.measure} {where}, but not beyond noise against "
            f"{_list(level)}."
        )
    whom = f"all {len(below)} others" if not level and len(below) > _NAMED else _list(below)
    told = f"{best} is ahead of {whom} beyond noise {where}"
    return f"{told}; against {_list(level)} it is not." if level else f"{told}."


def findings(comparison: Comparison) -> list[Finding]:
    """What a reader must know beside the headline."""
    found = [_differences(comparison), _leads(comparison), _control(comparison)]
    return [finding for finding in [*found, *_cautions(comparison)] if finding is not None]


def banner(comparison: Comparison) -> str | None:
    """Where the judge is what a student was trained to please."""
    warnings = (judge_warning(run.metrics) for o in comparison.objectives for run in o.runs)
    return next(filter(None, warnings), None)


def difference_text(difference: Difference, comparison: Comparison) -> str:
    """`RRHF over DPO: +0.21, 95 % interval +0.10 to +0.32, corrected p 0.003`."""
    return f"{difference.better} over {difference.worse}: {_told(difference.tested, comparison)}"


def p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def verdict(tested: Tested) -> str:
    return "beyond noise" if tested.beyond_noise else "not beyond noise"


def _differences(comparison: Comparison) -> Finding | None:
    if not comparison.differences:
        return None
    clear = [d for d in comparison.differences if d.tested.beyond_noise]
    rest = [d for d in comparison.differences if not d.tested.beyond_noise]
    said = []
    if clear:
        told = "; ".join(difference_text(d, comparison) for d in _largest(clear)[:_NAMED])
        more = f"; and {len(clear) - _NAMED} more below" if len(clear) > _NAMED else ""
        said.append(f"Beyond noise: {told}{more}.")
    if rest:
        told = _list((f"{d.better} and {d.worse}" for d in rest[:_NAMED]), "; ")
        more = f"; and {len(rest) - _NAMED} more below" if len(rest) > _NAMED else ""
        said.append(f"Not beyond noise, to be called equal here: {told}{more}.")
    return Finding("good" if clear else "plain", " ".join(said))


def _leads(comparison: Comparison) -> Finding:
    leads = {o.label: comparison.leads[o.label] for o in comparison.ordered}
    ahead = [o for o, t in leads.items() if t.beyond_noise and t.estimate.mean > 0]
    behind = [o for o, t in leads.items() if t.beyond_noise and t.estimate.mean < 0]
    unclear = [o for o, t in leads.items() if not t.beyond_noise]
    said = []
    if ahead:
        said.append(f"better than before training beyond noise: {_list(ahead)}")
    if behind:
        said.append(f"worse than before training beyond noise: {_list(behind)}")
    if unclear:
        said.append(f"no change beyond noise: {_list(unclear)}")
    kind = "warning" if behind or not ahead else "good"
    return Finding(kind, _sentence("; ".join(said)))


def _control(comparison: Comparison) -> Finding | None:
    """Whether a gain is more than the student before, sampled more sharply."""
    tested = {
        o.label: comparison.over_control[o.label]
        for o in comparison.ordered
        if o.label in comparison.over_control
    }
    if not tested:
        return None
    more = [o for o, t in tested.items() if t.beyond_noise and t.estimate.mean > 0]
    not_shown = [o for o in tested if o not in more]
    said = []
    if more:
        said.append(f"more than sharpening: {_list(more)}")
    if not_shown:
        said.append(
            f"not shown to be more than sharpening: {_list(not_shown)}, each against the "
            "student before training sampled at the same entropy"
        )
    return Finding("warning" if not_shown else "good", _sentence("; ".join(said)))


def _cautions(comparison: Comparison) -> list[Finding | None]:
    found: list[Finding | None] = [
        Finding("warning", f"Failed: {run.folder.name}: {run.sentence}")
        for run in comparison.failed
    ]
    if comparison.seeds == 1 and len(comparison.objectives) > 1:
        found.append(
            Finding(
                "warning",
                "One seed: this compares these trained students. Whether another seed would turn "
                "the order around is not in the data; add seed=0,1,2.",
            )
        )
    elif comparison.seeds == 2:
        found.append(
            Finding(
                "plain",
                "Two seeds tell little about how much seeds differ: intervals are wide for it.",
            )
        )
    prompts = len(comparison.prompts)
    if prompts < FEW_PROMPTS:
        found.append(Finding("warning", f"Only {prompts} prompts: the intervals are rough."))
    if comparison.left_out:
        text = f"{comparison.left_out} prompts have no value in every run and are left out."
        found.append(Finding("warning", text))
    unpaired = [d for d in comparison.differences if d.paired_seeds == 0]
    if unpaired:
        told = _list((f"{d.better} and {d.worse}" for d in unpaired), "; ")
        text = f"No seed in common, so their warm-ups and samples differ too: {told}."
        found.append(Finding("warning", text))
    return found


def _told(tested: Tested, comparison: Comparison) -> str:
    estimate = tested.estimate
    text: Callable[[float | None], str] = signed if comparison.sampled else points
    unit = "" if comparison.sampled else " points"
    if estimate.low is None or estimate.high is None:
        return f"{text(estimate.mean)}{unit}, no interval"
    interval = f"95 % interval {text(estimate.low)} to {text(estimate.high)}"
    return f"{text(estimate.mean)}{unit} ({interval}, p {p_text(tested.adjusted)})"


def _largest(differences: Sequence[Difference]) -> list[Difference]:
    return sorted(differences, key=lambda d: -d.tested.estimate.mean)


def _beyond(difference: Difference | None) -> bool:
    return difference is not None and difference.tested.beyond_noise


def _list(names: object, separator: str = ", ") -> str:
    parts = list(names)  # type: ignore[call-overload]
    if separator != ", " or len(parts) < 2:
        return separator.join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
