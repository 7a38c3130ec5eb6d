"""Classes that a YAML may name by `_target_` and that have moved, by their old name."""

from __future__ import annotations

import re

MOVED = {
    "rankdistill.evaluate.suites.AlpacaEval": "rankdistill.suites.AlpacaEval",
    "rankdistill.evaluate.suites.GSM8K": "rankdistill.suites.GSM8K",
    "rankdistill.evaluate.suites.HellaSwag": "rankdistill.suites.HellaSwag",
    "rankdistill.evaluate.suites.IFEval": "rankdistill.suites.IFEval",
    "rankdistill.evaluate.suites.MTBench": "rankdistill.suites.MTBench",
    "rankdistill.evaluate.suites.Pairs": "rankdistill.suites.Pairs",
    "rankdistill.evaluate.suites.alpaca_eval.AlpacaEval": "rankdistill.suites.AlpacaEval",
    "rankdistill.evaluate.suites.mt_bench.MTBench": "rankdistill.suites.MTBench",
    "rankdistill.evaluate.suites.pairs.Pairs": "rankdistill.suites.Pairs",
    "rankdistill.evaluate.suites.tasks.GSM8K": "rankdistill.suites.GSM8K",
    "rankdistill.evaluate.suites.tasks.HellaSwag": "rankdistill.suites.HellaSwag",
    "rankdistill.evaluate.suites.tasks.IFEval": "rankdistill.suites.IFEval",
    "rankdistill.suites.tasks.IFEval": "rankdistill.suites.IFEval",
    "rankdistill.sweep.Sweep": "rankdistill.app.sweep.Sweep",
}
_TARGET = re.compile(r"""(_target_["']?\s*:\s*["']?)(rankdistill(?:\.\w+)+)""")


def names_ours(text: str) -> bool:
    """Whether a YAML's text names a class of ours."""
    return _TARGET.search(text) is not None


def renamed(text: str) -> tuple[str, dict[str, str]]:
    """The text with today's names and all else as it was; the names that changed, by the old."""
    by_old: dict[str, str] = {}

    def today(match: re.Match[str]) -> str:
        old = match[2]
        if old in MOVED:
            by_old[old] = MOVED[old]
        return match[1] + MOVED.get(old, old)

    return _TARGET.sub(today, text), by_old
