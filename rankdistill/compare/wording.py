"""How figures and names are put in the comparison's sentences."""

from __future__ import annotations

from collections.abc import Iterable

from rankdistill.compare.comparison import Comparison
from rankdistill.compare.contrasts import Planned
from rankdistill.compare.statistics import Difference, Tested
from rankdistill.report.headline import Finding
from rankdistill.report.table import points, signed
from rankdistill.statistics import Interval

NAMED = 4
"""Most pairs that one sentence names."""


def told(difference: Interval, comparison: Comparison, p: float | None = None) -> str:
    """`+5.0 points (95 % interval +1.0 to +9.0, p 0.003)`: of the comparison's measure."""
    text = points if comparison.in_points else signed
    unit = " points" if comparison.in_points else ""
    if difference.low is None or difference.high is None:
        return f"{text(difference.mean)}{unit}, no interval"
    interval = f"95 % interval {text(difference.low)} to {text(difference.high)}"
    more = "" if p is None else f", p {p_text(p)}"
    return f"{text(difference.mean)}{unit} ({interval}{more})"


def differences(comparison: Comparison) -> Finding | None:
    """Which pairs differ beyond noise, and which are to be called equal."""
    found = comparison.exploratory
    if not found:
        return None
    clear = [d for d in found if d.tested.beyond_noise]
    rest = [d for d in found if not d.tested.beyond_noise]
    said = []
    if clear:
        largest = sorted(clear, key=lambda d: -d.tested.estimate.mean)
        if (unnamed := len(clear) - NAMED) > 0:
            told_alone = (
                f"{d.better} over {d.worse} {difference_alone(d.tested.estimate, comparison)}"
                for d in largest[:NAMED]
            )
            said.append(f"Beyond noise: {'; '.join(told_alone)}; and {unnamed} more below.")
        else:
            shown = "; ".join(difference_text(d, comparison) for d in largest)
            said.append(f"Beyond noise: {shown}.")
    if rest:
        shown = "; ".join(f"{d.better} and {d.worse}" for d in rest[:NAMED])
        more = f"; and {len(rest) - NAMED} more below" if len(rest) > NAMED else ""
        said.append(f"Not beyond noise, to be called equal here: {shown}{more}.")
    return Finding("good" if clear else "plain", " ".join(said))


def contrast_text(planned: Planned, comparison: Comparison) -> str:
    """`DPO minus RRHF: -0.21 (95 % interval -0.32 to -0.10, p 0.003), beyond noise`."""
    tested = planned.tested
    figures = told(tested.estimate, comparison, tested.adjusted)
    return f"{planned.title}: {figures}, {verdict(tested)}"


def difference_alone(difference: Interval, comparison: Comparison) -> str:
    """`+5.0 points`, where interval and p-value stand elsewhere."""
    text = points if comparison.in_points else signed
    return f"{text(difference.mean)}{' points' if comparison.in_points else ''}"


def difference_text(difference: Difference, comparison: Comparison) -> str:
    """`RRHF over DPO: +0.21 (95 % interval +0.10 to +0.32, p 0.003)`."""
    tested = difference.tested
    return (
        f"{difference.better} over {difference.worse}: "
        f"{told(tested.estimate, comparison, tested.adjusted)}"
    )


def p_text(value: float) -> str:
    """< 0.001, or two or three digits."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def verdict(tested: Tested) -> str:
    """In words."""
    return "beyond noise" if tested.beyond_noise else "not beyond noise"


def listed(names: Iterable[str]) -> str:
    """`a, b and c`; with semicolons where a name has a comma."""
    parts = list(names)
    if len(parts) < 3:
        return " and ".join(parts)
    if any("," in part for part in parts):
        return f"{'; '.join(parts[:-1])}; and {parts[-1]}"
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."
