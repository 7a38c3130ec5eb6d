"""IFBench of two `recipe=evaluate` runs, and of the one's answers cut to the other's lengths.

    python docs/figures/ifbench_cut.py AFTER BEFORE FILE MODEL    # that of eval.ifbench.path

Shorter answers alone: those of BEFORE, each cut to as many tokens as AFTER's answer to the same
prompt has, by the tokenizer of MODEL. Nothing is generated: the answers are read from the store, in
which the runs left them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.errors import UserError
from rankdistill.evaluate.items import ItemValues, change
from rankdistill.models import load_tokenizer
from rankdistill.prompts.sources import read_rows
from rankdistill.report import read_metrics
from rankdistill.report.table import points, share_percent
from rankdistill.store import Store
from rankdistill.suites.harness import item_values
from rankdistill.suites.instructions import MEANS, _Checks, verdicts

CHECKER = "ifbench.instructions_registry"


def answers(run: Path) -> list[str]:
    """What the model of a run wrote. UserError: the run or the store does not have it."""
    for stage in read_metrics(run)["stages"]:
        output = Store().find(stage["key"]) if stage["stage"] == "evaluate" else None
        if output is not None and output.manifest["identity"].get("suite") == "ifbench":
            return [row["text"] for row in output.rows("items")]
    raise UserError(f"{run} has no IFBench in this store: run it again.")


def main(after: Path, before: Path, file: str, model: str) -> None:
    try:
        from ifbench.instructions_registry import INSTRUCTION_DICT
    except ImportError as error:
        raise UserError(f"IFBench's checks are not installed: {error}.") from error

    trained, untrained = answers(after), answers(before)
    docs = [row for _, row in read_rows(file)]
    tokenizer, checks = load_tokenizer(model), _Checks(CHECKER, INSTRUCTION_DICT)
    ids = [[tokenizer(text)["input_ids"] for text in texts] for texts in (trained, untrained)]
    cut = [str(tokenizer.decode(of[: len(to)])) for to, of in zip(*ids, strict=True)]
    lengths = [np.mean([len(of) for of in each]) for each in ids]
    print(f"Tokens per answer: {lengths[1]:.0f} before, {lengths[0]:.0f} after.\n")

    def mean(texts: Sequence[str], how: str) -> ItemValues:
        rows: list[Mapping[str, Any]] = []
        for i, (doc, text) in enumerate(zip(docs, texts, strict=True)):
            said = verdicts(doc, [text], checks.follows)
            rows.append({"id": str(i), "values": {f"{k},none": v for k, v in said.items()}})
        return ItemValues.mean_of([item_values(rows, of) for of in MEANS[f"mean_{how}"]])

    print("| | followed | after, minus it |\n|---|---:|---:|")
    for how in ("strict", "loose"):
        last = mean(trained, how)
        for name, texts in (("before", untrained), ("before, cut to the lengths after", cut)):
            values = mean(texts, how)
            found = change(last, values)
            assert found is not None and found.low is not None and found.high is not None
            share = share_percent(float(np.mean(values.sums.sum(1) / values.counts.sum(1))))
            interval = f"({points(found.low)} to {points(found.high)})"
            print(f"| {name}, mean {how} | {share} | {points(found.mean)} {interval} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Hold a change on IFBench against shorter answers."
    )
    parser.add_argument("after", type=Path, help="run folder of recipe=evaluate, after training")
    parser.add_argument("before", type=Path, help="the same before it")
    parser.add_argument("file", help="that eval.ifbench.path names")
    parser.add_argument("model", help="folder of either model, for its tokenizer")
    given = parser.parse_args()
    try:
        main(given.after, given.before, given.file, given.model)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
