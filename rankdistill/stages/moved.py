"""Classes that a YAML may name by `_target_` and that have moved, by their old name."""

from __future__ import annotations

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
    "rankdistill.sweep.Sweep": "rankdistill.app.sweep.Sweep",
}
