"""Evaluation suites beside the built-in figures: each is one YAML in `eval/` and one class here.

A suite measures one model at a time, so that the points of a sweep share what was measured of the
models that they share. Suites of your own: a YAML with `_target_` in a folder `eval/` that
`--config-dir` names, its first line ``# @package eval.NAME``.
"""

from rankdistill.suites.alpaca_eval import AlpacaEval
from rankdistill.suites.instructions import IFBench, IFEval
from rankdistill.suites.mt_bench import MTBench
from rankdistill.suites.pairs import Pairs
from rankdistill.suites.suite import Figure, Measured, Suite
from rankdistill.suites.tasks import GSM8K, HellaSwag

__all__ = [
    "GSM8K",
    "AlpacaEval",
    "Figure",
    "HellaSwag",
    "IFBench",
    "IFEval",
    "MTBench",
    "Measured",
    "Pairs",
    "Suite",
]
