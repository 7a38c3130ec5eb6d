"""What the comparison says, in sentences that claim no more than it can tell."""

from __future__ import annotations

from rankdistill.compare import verified_sentences
from rankdistill.compare.comparison import Comparison
from rankdistill.compare.contrasts import Planned
from rankdistill.compare.verified import unit
from rankdistill.compare.wording import (
    NAMED,
    contrast_text,
    difference_alone,
    differences,
    listed,
    sentence,
    told,
)
from rankdistill.report.headline import FEW_PROMPTS, Finding, judge_warning
from rankdistill.report.stages import several_versions


def headline(comparison: Comparison) -> str:
    """What was planned, where anything was; else who is ahead beyond noise, and of whom that cannot
    be said."""
    return _planned(comparison) if comparison.planned else _who_is_ahead(comparison)


def told_in_terminal(comparison: Comparison) -> str:
    """The headline, and a line with the figures of every contrast that was planned."""
    lines = (contrast_text(planned, comparison) for planned in comparison.planned)
    return "\n".join([headline(comparison), *lines])


def _planned(comparison: Comparison) -> str:
    """Every contrast with its difference, those beyond noise first."""
    planned = comparison.planned
    clear = [p for p in planned if p.tested.beyond_noise]
    rest = [p for p in planned if not p.tested.beyond_noise]

    def texts(of: list[Planned]) -> str:
        return "; ".join(f"{p.title} {difference_alone(p.tested.estimate, comparison)}" for p in of)

    if len(planned) == 1:
        verdict = "is" if clear else "is not"
        return f"The contrast named before the run {verdict} beyond noise: {texts(planned)}."
    how_many = {0: "none is", 1: "one is"}.get(len(clear), f"{len(clear)} are")
    said = f"Of {len(planned)} contrasts named before the run {how_many} beyond noise"
    said = f"{said}: {texts(clear or rest)}."
    return f"{said} Not beyond noise: {texts(rest)}." if clear and rest else said


def _who_is_ahead(comparison: Comparison) -> str:
    if comparison.verified:
        return verified_sentences.headline(comparison, comparison.verified)
    objectives = comparison.objectives
    where = f"on {len(comparison.prompts)} held-out prompts"
    if len(objectives) == 1:
        seeds = len(objectives[0].runs)
        lead = comparison.leads[objectives[0].label]
        return (
            f"{objectives[0].label}, {seeds} seeds {where}: the gain is "
            f"{told(lead.estimate, comparison, lead.adjusted)}"
            f"{_beside_control(comparison, objectives[0].label)}."
        )
    best = comparison.ordered[0].label
    others = [objective.label for objective in comparison.ordered[1:]]
    below = [o for o in others if (d := comparison.difference(best, o)) and d.tested.beyond_noise]
    level = [o for o in others if o not in below]
    if not any(d.tested.beyond_noise for d in comparison.differences):
        return (
            f"No difference between the {len(objectives)} objectives is beyond noise {where}: "
            f"{listed(o.label for o in comparison.ordered)} are equal as far as this comparison "
            f"can tell{_any_beside_control(comparison)}."
        )
    if not below:
        return (
            f"{best} has the highest {comparison.measure} {where}, but not beyond noise against "
            f"{listed(level)}{_beside_control(comparison, best)}."
        )
    whom = f"all {len(below)} others" if not level and len(below) > NAMED else listed(below)
    said = f"{best} is ahead of {whom} beyond noise {where}"
    rest = f"; against {listed(level)} it is not" if level else ""
    return f"{said}{rest}{_beside_control(comparison, best)}."


def findings(comparison: Comparison) -> list[Finding]:
    """What a reader must know beside the headline."""
    if comparison.verified:
        found = verified_sentences.findings(comparison, comparison.verified)
    else:
        found = [differences(comparison), _leads(comparison), _control(comparison)]
    versions = _versions(comparison)
    exploratory = _exploratory(comparison) if comparison.planned else None
    said = [exploratory, *found, *_placebos(comparison), *_cautions(comparison), versions]
    return [finding for finding in said if finding is not None]


def _exploratory(comparison: Comparison) -> Finding:
    return Finding(
        "plain",
        "All else was not named before the run: it is exploratory, and to be confirmed by another. "
        + _who_is_ahead(comparison),
    )


def banner(comparison: Comparison) -> str | None:
    """Where the judge is what a student was trained to please."""
    warnings = (judge_warning(run.metrics) for o in comparison.objectives for run in o.runs)
    return next(filter(None, warnings), None)


def _leads(comparison: Comparison) -> Finding:
    leads = {o.label: comparison.leads[o.label] for o in comparison.ordered}
    ahead = [o for o, t in leads.items() if t.beyond_noise and t.estimate.mean > 0]
    behind = [o for o, t in leads.items() if t.beyond_noise and t.estimate.mean < 0]
    unclear = [o for o, t in leads.items() if not t.beyond_noise]
    said = []
    if ahead:
        said.append(f"better than before training beyond noise: {listed(ahead)}")
    if behind:
        said.append(f"worse than before training beyond noise: {listed(behind)}")
    if unclear:
        said.append(f"no change beyond noise: {listed(unclear)}")
    kind = "warning" if behind or not ahead else "good"
    return Finding(kind, sentence("; ".join(said)))


def _beside_control(comparison: Comparison, best: str) -> str:
    """The other half of who is ahead: whether that is more than being surer."""
    if best not in comparison.over_control:
        return ""
    if _more_than_sharpening(comparison, best):
        return ", and it is more than sharpening"
    return ", and it is not shown to be more than sharpening"


def _any_beside_control(comparison: Comparison) -> str:
    """The same of objectives of which none is ahead."""
    if not comparison.over_control:
        return ""
    more = [label for label in comparison.over_control if _more_than_sharpening(comparison, label)]
    return f"; more than sharpening: {listed(more) or 'none is shown to be'}"


def _more_than_sharpening(comparison: Comparison, label: str) -> bool:
    """Whether an objective gains over the student before, sampled at the same entropy."""
    tested = comparison.over_control[label]
    return tested.beyond_noise and tested.estimate.mean > 0


def _control(comparison: Comparison) -> Finding | None:
    """Whether a gain is more than the student before, sampled more sharply."""
    tested = [o.label for o in comparison.ordered if o.label in comparison.over_control]
    if not tested:
        return None
    more = [label for label in tested if _more_than_sharpening(comparison, label)]
    not_shown = [label for label in tested if label not in more]
    said = []
    if more:
        said.append(f"more than sharpening: {listed(more)}")
    if not_shown:
        said.append(
            f"not shown to be more than sharpening: {listed(not_shown)}, each against the "
            "student before training sampled at the same entropy"
        )
    return Finding("warning" if not_shown else "good", sentence("; ".join(said)))


def _placebos(comparison: Comparison) -> list[Finding]:
    """Whether ranks that say nothing give a gain as well: then a gain is not the ranking's."""
    labels = [o.label for o in comparison.ordered if o.placebo]
    sentences = []
    for label in labels:
        lead = comparison.lead(label)
        who = "The placebo" if len(labels) == 1 else label
        said = f"{who}, trained on permuted ranks, gains {told(lead, comparison)}"
        if not lead.excludes():
            sentences.append(Finding("good", f"{said}: noise."))
        elif lead.mean < 0:
            sentences.append(Finding("plain", f"{said}: such ranks do harm."))
        else:
            text = f"{said}: warning: so much of a gain is not the ranking's."
            sentences.append(Finding("warning", text))
    return sentences


def _cautions(comparison: Comparison) -> list[Finding | None]:
    cautions: list[Finding | None] = [
        Finding("warning", f"Failed: {run.folder.name}: {run.sentence}")
        for run in comparison.failed
    ]
    alone = [o.label for o in comparison.objectives if len(o.runs) == 1]
    if alone and len(comparison.objectives) > 1:
        said = f"One seed of {' and '.join(alone)}: whether another would be as far ahead or behind"
        if len(alone) == len(comparison.objectives):
            said = (
                "One seed: this compares these trained students. Whether another seed would turn "
                "the order around"
            )
        cautions.append(Finding("warning", f"{said} is not in the data; add seed=0,1,2."))
    elif comparison.seeds == 2 and not comparison.verified:
        text = "Two seeds tell little about how much seeds differ: intervals are wide for it."
        cautions.append(Finding("plain", text))
    verified = comparison.verified
    prompts = verified.base_prompts if verified else len(comparison.prompts)
    if prompts < FEW_PROMPTS:
        of = unit(verified) if verified else "prompts"
        cautions.append(Finding("warning", f"Only {prompts} {of}: the intervals are rough."))
    if comparison.not_verified:
        cautions.append(Finding("warning", comparison.not_verified))
    if comparison.not_here:
        text = (
            f"Contrasts that the runs name, and that are not here: {listed(comparison.not_here)}."
        )
        cautions.append(Finding("warning", text))
    if comparison.left_out:
        text = f"{comparison.left_out} prompts have no value in every run and are left out."
        cautions.append(Finding("warning", text))
    unpaired = [d for d in comparison.told_differences if d.paired_seeds == 0]
    if unpaired:
        named = "; ".join(f"{d.better} and {d.worse}" for d in unpaired)
        text = f"No seed in common, so their warm-ups and samples differ too: {named}."
        cautions.append(Finding("warning", text))
    return cautions


def _versions(comparison: Comparison) -> Finding | None:
    runs = [run for objective in comparison.objectives for run in objective.runs]
    text = several_versions(run.metrics for run in runs)
    return Finding("warning", text) if text else None
