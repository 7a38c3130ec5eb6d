"""Contrasts that a person names before the run, such as `dpo-rrhf` and `dpo-control`.

They are few and were chosen without a look at the figures, so they are corrected for each other
alone (Holm); all other differences are exploratory, and corrected for each other as well. A side is
an objective, or what it is held against by itself: `control`, `before`, `teacher`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from rankdistill.compare.groups import ObjectiveRuns
from rankdistill.compare.statistics import Difference, Estimate, Tested, of_objectives, tested
from rankdistill.compare.verified import VerifiedTables
from rankdistill.errors import UserError, suggest
from rankdistill.evaluate.verified_figures import CONTROLS, GAINS

CONTROL, BEFORE, TEACHER = "control", "before", "teacher"
OWN = {
    CONTROL: "the strongest control",
    BEFORE: "the student before training",
    TEACHER: "the teacher",
}
"""What an objective may be held against beside another one, as a person and a page call it."""
_OF_DEMANDS = {CONTROL: CONTROLS, BEFORE: GAINS, TEACHER: (TEACHER,)}
"""The same as differences of verified demands: all that are there must be beaten."""
_CALLED = {
    "same_entropy": "same entropy",
    "prompt": "better prompt",
    "prompt_both": "better prompt, both with it",
}


class Contrast(NamedTuple):
    """The first minus the second."""

    objective: str
    """A label."""
    over: str
    """A label, or a key of `OWN`."""

    @property
    def pair(self) -> frozenset[str]:
        return frozenset(self)


@dataclass(frozen=True)
class Planned:
    """A contrast with what was found, corrected for all that were planned."""

    contrast: Contrast
    title: str
    """`DPO minus RRHF`."""
    tested: Tested


class OverOwn(NamedTuple):
    """An objective minus what it is held against by itself."""

    estimate: Estimate
    which: str
    """The one that leaves least, by its name: `same entropy`; that of `OWN` where it has none."""


OverOwns = Callable[[Contrast], OverOwn]
"""What was found of a contrast with a key of `OWN`. UserError: it was not measured."""


class Named(NamedTuple):
    """An objective, and what it is called."""

    label: str
    options: Sequence[str] = ()
    """Of recipe and objective, as commands name them."""
    method: str = ""


def names_of(objectives: Iterable[ObjectiveRuns]) -> list[Named]:
    """A placebo has its label alone: all else it shares with what it is the placebo of."""
    found = []
    for objective in objectives:
        first = objective.runs[0]
        recipe = str(first.metrics["recipe"])
        of_command = [objective.option, None if recipe == "none" else recipe]
        options = [*first.chosen, *filter(None, of_command)]
        named = Named(objective.label, options, objective.method)
        found.append(Named(objective.label) if objective.placebo else named)
    return found


def contrasts_in(
    objectives: Sequence[ObjectiveRuns], over_own: OverOwns
) -> tuple[list[Contrast], list[str]]:
    """The contrasts that the configurations of the runs name (`contrasts`), and the names of those
    whose objectives are not here or not measured, as where a part of a sweep is compared."""
    runs = [run for objective in objectives for run in objective.runs]
    names = dict.fromkeys(name for run in runs for name in run.config.get("contrasts") or ())
    found: dict[frozenset[str], Contrast] = {}
    not_here = []
    for name in names:
        try:
            (contrast,) = contrasts_of([name], names_of(objectives))
            if contrast.over in OWN:
                over_own(contrast)
        except UserError:
            not_here.append(name)
        else:
            found.setdefault(contrast.pair, contrast)
    return list(found.values()), not_here


def contrasts_of(names: Iterable[str], objectives: Sequence[Named]) -> list[Contrast]:
    """The contrasts that are named.

    Args:
        names: Each two sides with a hyphen between: labels, options of recipe or objective, or
            methods, in any case, with or without spaces and marks (`best_of_n`, `DPO, placebo`);
            the second one may be of `OWN`.
        objectives: That there are.

    Raises:
        UserError: a side that is none or several of them, a contrast of one with itself, or one
            that is named twice.
    """
    found: dict[frozenset[str], Contrast] = {}
    for name in names:
        contrast = _contrast(name, objectives)
        if contrast.pair in found:
            raise UserError(f"the contrast '{name}' is named twice: leave one out.")
        found[contrast.pair] = contrast
    return list(found.values())


def planned_and_rest(
    contrasts: Sequence[Contrast],
    differences: Sequence[Difference],
    over_own: OverOwns,
) -> tuple[list[Planned], list[Difference]]:
    """The contrasts, corrected together, and every pair, those that are none corrected together.

    Args:
        contrasts: As named; the sign of what is found is theirs.
        differences: Every pair of objectives.
        over_own: Of an objective and what it is held against by itself.
    """
    of_pair = {frozenset((d.better, d.worse)): d for d in differences}
    estimates, titles = [], []
    for contrast in contrasts:
        difference, over = of_pair.get(contrast.pair), OWN.get(contrast.over, contrast.over)
        if difference is None:
            estimate, which = over_own(contrast)
            over += "" if which == contrast.over else f" ({which})"
        else:
            estimate = difference.tested.estimate
            estimate = estimate if difference.better == contrast.objective else reversed_(estimate)
        estimates.append(estimate)
        titles.append(f"{contrast.objective} minus {over}")
    planned = [
        Planned(*one) for one in zip(contrasts, titles, tested(estimates), strict=True)
    ]  # fmt: skip
    rest = [d for pair, d in of_pair.items() if pair not in {c.pair for c in contrasts}]
    adjusted = {p.contrast.pair: p.tested.adjusted for p in planned}
    again = zip(rest, tested([d.tested.estimate for d in rest]), strict=True)
    adjusted |= {frozenset((d.better, d.worse)): one.adjusted for d, one in again}
    return planned, [
        replace(d, tested=Tested(d.tested.estimate, adjusted[pair])) for pair, d in of_pair.items()
    ]


def over_own_demands(verified: VerifiedTables, contrast: Contrast, *, seed: int = 0) -> OverOwn:
    """What verified demands say of a contrast with a key of `OWN`.

    The spread of seeds is pooled over all objectives, as that of gains is.

    Raises:
        UserError: it was not measured.
    """
    found = {}
    for name in _OF_DEMANDS[contrast.over]:
        tables = verified.minus[name]
        if contrast.objective in tables:
            estimates = of_objectives(list(tables.values()), seed=seed)
            place = list(tables).index(contrast.objective)
            found[_CALLED.get(name, name)] = estimates[place]
    if not found:
        raise not_measured(contrast)
    return least(found)


def not_measured(contrast: Contrast) -> UserError:
    """What to say of a contrast with a key of `OWN` that has no figures."""
    return UserError(
        f"{contrast.objective} was not measured against {OWN[contrast.over]}, so there is no such "
        "contrast: leave it out."
    )


def least(estimates: Mapping[str, Estimate]) -> OverOwn:
    """Over all of several at once: the smallest difference, with the largest of the p-values.

    That is the test of "more than each of them" (intersection-union, Berger 1982): it needs no
    correction for how many there are, nor for which of them turned out to be the strongest.

    Args:
        estimates: By what they are over.
    """
    which = min(estimates, key=lambda name: estimates[name].mean)
    p_value = max(estimate.p_value for estimate in estimates.values())
    return OverOwn(replace(estimates[which], p_value=p_value), which)


def reversed_(estimate: Estimate) -> Estimate:
    """The same difference seen from the other side."""
    low = None if estimate.high is None else -estimate.high
    high = None if estimate.low is None else -estimate.low
    return replace(estimate, mean=-estimate.mean, low=low, high=high)


def _contrast(name: str, objectives: Sequence[Named]) -> Contrast:
    cuts = [match.start() for match in re.finditer("-", name)]
    splits = [(name[:at].strip(), name[at + 1 :].strip()) for at in cuts]
    if not any(all(split) for split in splits):
        raise UserError(
            f"'{name}' is no contrast: give two objectives with a hyphen between, such as dpo-rrhf,"
            f" or one and {', '.join(OWN)}, such as dpo-control."
        )
    # A name may have a hyphen of its own, so the split is the one whose sides are known.
    known = [
        (a, b) for a, b in splits if _found(a, objectives) and (b in OWN or _found(b, objectives))
    ]
    first, second = (known or [split for split in splits if all(split)])[0]
    objective = _label(first, name, objectives)
    over = second if second in OWN else _label(second, name, objectives)
    if objective == over:
        raise UserError(f"the contrast '{name}' is of {objective} with itself: name two.")
    return Contrast(objective, over)


def _label(side: str, name: str, objectives: Sequence[Named]) -> str:
    found = _found(side, objectives)
    if len(found) == 1:
        return found[0]
    labels = [objective.label for objective in objectives]
    if found:
        raise UserError(
            f"'{side}' of the contrast '{name}' is several objectives: name one by its label, "
            f"{' or '.join(found)}."
        )
    raise UserError(
        f"there is no objective '{side}' for the contrast '{name}': {suggest(side, labels)}"
    )


def _found(side: str, objectives: Sequence[Named]) -> list[str]:
    """Labels of the objectives with this name: a label, else an option, else a method."""
    for names in (lambda o: [o.label], lambda o: o.options, lambda o: [o.method]):
        if found := [o.label for o in objectives if _bare(side) in map(_bare, names(o))]:
            return found
    return []


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.lower())
