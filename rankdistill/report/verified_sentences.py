"""What a verified run says in sentences: how much is gained, and whether it is more than a control
that trains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rankdistill.evaluate.verified_figures import CONTROLS, GAINS
from rankdistill.report.table import direction, points, share
from rankdistill.report.verified import unit
from rankdistill.report.verified_guards import guard_cautions

Metrics = Mapping[str, Any]
_CONTROL_NAMES = {
    "same_entropy": "the same entropy",
    "prompt": "a better prompt",
    "prompt_both": "a better prompt for both",
}


def has_verified_headline(metrics: Metrics) -> bool:
    """Whether a gain of the trained student was verified."""
    return bool((metrics.get("verified") or {}).get("headline"))


def verified_headline(metrics: Metrics) -> str:
    """One sentence: the smaller of the two gains, and what the strongest control leaves of it."""
    block = metrics["verified"]
    name = block["headline"]
    contrast = block["contrasts"][name]
    gain = contrast["trained"]
    who, whom = f"{block['arms']['trained']['label']} student", _one(block["arms"]["warmed_up"])
    where = f"({name}; {unit(block)})"
    sign = direction(gain)
    if sign == 0:
        told = f"{points(gain['mean'])} points {_bounds(gain)}"
        rest = "".join(f"; {text}" for text in _better_controls(block))
        return f"No gain of the {who} over {whom} can be told: {told} {where}{rest}."
    more = "more" if sign > 0 else "fewer"
    told = f"{share(abs(gain['mean']))} points {more}"
    did = (
        f"follows {told} of the demands"
        if block["rule"] == "ifeval"
        else f"meets the rule {block['rule']} in {told} of its answers"
    )
    rest = _against_controls(block) + _where(contrast) if sign > 0 else ""
    return f"The {who} {did} than {whom} {_bounds(gain, sign)} {where}{rest}."


def judge_line(metrics: Metrics) -> str | None:
    """Who judged a verified run, and what that cannot see; None where nothing was verified."""
    block = metrics.get("verified")
    if not block:
        return None
    said = f"Verified by the rule `{block['rule']}`"
    if _ranked_by_rule(metrics):
        said += ", which also ranked the training responses"
    if block["rule"] == "ifeval":
        said += "; it sees the form of an answer, not what it says: see the guards"
    return f"{said}."


def verified_findings(metrics: Metrics) -> list[tuple[str, str]]:
    """(kind, sentence) of what a reader must know beside the headline."""
    block = metrics["verified"]
    no_control = "No control that trains nothing was measured beside the gain."
    return [
        *_only_sampled(block),
        *_kept_out(block["contrasts"][block["headline"]]),
        *([] if _controls(block) else [("warning", no_control)]),
        *_teacher_best(block),
        *guard_cautions(metrics),
        *_prompting(block),
    ]


def _against_controls(block: Metrics) -> str:
    """What the gain is beside the controls: more than all of them, or not shown to be."""
    controls = _controls(block)
    if not controls:
        return ""
    level = [name for name in controls if direction(controls[name]) == 0]
    better = list(_better_controls(block))
    if not level and not better:
        strongest, left = min(controls.items(), key=lambda item: item[1]["mean"])
        which = "the strongest control" if len(controls) > 1 else "the control"
        return (
            f", and {share(left['mean'])} {_bounds(left)} more than {which}, "
            f"{_CONTROL_NAMES[strongest]}"
        )
    told = [
        f"{_CONTROL_NAMES[name]} ({points(controls[name]['mean'])} {_bounds(controls[name])})"
        for name in level
    ]
    said = [f"not shown to be more than {' or '.join(told)}"] if told else []
    return "".join(f"; {text}" for text in [*said, *better])


def _better_controls(block: Metrics) -> Iterator[str]:
    """Of the controls that reach more than the trained student."""
    for name, left in _controls(block).items():
        if direction(left) < 0:
            told = f"{share(-left['mean'])} {_bounds(left, -1)}"
            yield f"it is {told} less than {_CONTROL_NAMES[name]}"


def _controls(block: Metrics) -> dict[str, Metrics]:
    """What the trained student has over each control that was measured."""
    found = {name: block["contrasts"].get(name) for name in CONTROLS}
    return {name: of["trained"] for name, of in found.items() if of and of["trained"]}


def _where(contrast: Metrics) -> str:
    """In marks or in restrictions, where the gain is not shown in both."""
    words = {"marks": "marks", "restrictions": "restrictions of the whole text"}
    signs = {name: direction(contrast[name]) for name in words if contrast[name]}
    if len(signs) < len(words) or all(sign > 0 for sign in signs.values()):
        return ""
    gained = [words[name] for name, sign in signs.items() if sign > 0]
    rest = [
        f"{words[name]} {'are not shown to change' if sign == 0 else 'are followed less'}"
        for name, sign in signs.items()
        if sign <= 0
    ]
    return ": " + "; ".join([*(f"in {name}" for name in gained), *rest])


def _only_sampled(block: Metrics) -> Iterator[tuple[str, str]]:
    """A student that is only surer gains where it is sampled, and not where it is greedy."""
    gains = {name: block["contrasts"].get(name) for name in GAINS}
    if not all(gain and gain["trained"] for gain in gains.values()):
        return
    smaller = block["headline"]
    larger = next(name for name in GAINS if name != smaller)
    of = gains[larger]["trained"]
    if direction(of) > 0 and direction(gains[smaller]["trained"]) <= 0:
        told = f"{points(of['mean'])} points {_bounds(of)}"
        why = ": it may only be surer" if smaller == "greedy" else ""
        yield "warning", f"A gain is shown of {larger} answers alone, {told}{why}."


def _kept_out(contrast: Metrics) -> Iterator[tuple[str, str]]:
    """Whether following demands is learnt, or only the kinds that were trained."""
    change = contrast["kept_out"]
    if change is None:
        return
    told = f"{points(change['mean'])} points {_bounds(change)}"
    sign = direction(change)
    verdict = {1: "more are followed", 0: "no change is shown", -1: "fewer are followed"}[sign]
    kind = {1: "good", 0: "plain", -1: "warning"}[sign]
    yield kind, f"Of kinds of demands that no training prompt has {verdict}: {told}."


def _teacher_best(block: Metrics) -> Iterator[tuple[str, str]]:
    """Whether the student goes beyond what its teacher can be had to answer."""
    best, contrast = block.get("teacher_best"), block["contrasts"].get("teacher_best")
    if not best or not contrast or contrast["trained"] is None:
        return
    change = contrast["trained"]
    sign = direction(change)
    kind = {1: "good", 0: "plain", -1: "warning"}[sign]
    verdict = {
        1: "is right more often than", 0: "is not told apart from", -1: "is right less often than"
    }[sign]  # fmt: skip
    shares = [f"{way} {share(value)} %" for way, value in best["validation"].items()]
    yield (
        kind,
        f"Greedy, the {block['arms']['trained']['label']} student {verdict} the best of the "
        f"teacher's ways, {best['chosen']}: {points(change['mean'])} points {_bounds(change)}. On "
        f"validation prompts, where it was chosen: {', '.join(shares)}.",
    )


def _prompting(block: Metrics) -> Iterator[tuple[str, str]]:
    """How the better prompt was chosen."""
    prompting = block["prompting"]
    if prompting:
        shares = [f"{way} {share(value)} %" for way, value in prompting["validation"].items()]
        yield (
            "plain",
            f"The better prompt, {prompting['chosen']}, was chosen on validation prompts, by the "
            f"student before this training: {', '.join(shares)}.",
        )


def _ranked_by_rule(metrics: Metrics) -> bool:
    """Whether training responses were ranked, by this judge, and not dealt ranks at random."""
    scorers = (metrics.get("ranking") or {}).get("scorers")
    judge = metrics["judge"]["name"]
    if metrics["optimiser_steps"] is None or (scorers and not {judge, "verifier"} & set(scorers)):
        return False
    rankings = [stage for stage in metrics["stages"] if stage["stage"] == "rank"]
    return bool(rankings) and not any(s["counts"].get("placebo_groups") for s in rankings)


def _bounds(interval: Metrics, sign: int = 1) -> str:
    """`[5.0, 22.5]`; with sign -1 those of the difference the other way round."""
    bounds: Sequence[float | None] = interval["low"], interval["high"]
    if None in bounds:
        return "[no interval]"
    low, high = sorted(sign * bound for bound in bounds if bound is not None)
    return f"[{share(low)}, {share(high)}]"


def _one(arm: Metrics) -> str:
    """`the warmed-up one`; `the one before training`."""
    label = str(arm["label"])
    if label.startswith("before"):
        return f"the one {label}"
    return f"the {label.replace('warmed up', 'warmed-up')} one"
