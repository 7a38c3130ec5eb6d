"""What cheaper explanations give of a run's change on IFEval, and its kinds apart, as Markdown.

    python docs/figures/ifeval_controls.py RUN FILE    # that of eval.ifeval.path

Shorter answers alone: the answers before training, each cut to as many tokens as the trained
model's answer to the same prompt has, and all cut to its mean. Habits: how often answers to other
prompts show what a kind asks for. Nothing is generated: the answers are read from the store, in
which the run left them.
"""

from __future__ import annotations

import argparse
import json
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
from rankdistill.score.verifier.instructions import follows
from rankdistill.store import Store
from rankdistill.suites.harness import item_values
from rankdistill.suites.instructions import MEANS, verdicts

_WITHOUT_ARGUMENTS: Mapping[str, Mapping[str, Any]] = {
    "detectable_content:postscript": {"postscript_marker": "P.S."},
    "detectable_format:title": {},
    "startend:quotation": {},
    "punctuation:no_comma": {},
    "change_case:english_lowercase": {},
    "combination:two_responses": {},
}
"""Kinds that any answer may show, with what else they are asked for with."""
Rows = Sequence[Mapping[str, Any]]
_STRICT = MEANS["mean_strict"]


def answers(run: Path) -> tuple[Rows, Rows]:
    """The items of the trained model, by the output that it was made in, and of the one before.

    UserError: the run or the store does not have them.
    """
    stages = read_metrics(run)["stages"]
    trained_in = [stage["key"] for stage in stages if stage["stage"] == "train"]
    found: dict[bool, Rows] = {}
    for key in dict.fromkeys(stage["key"] for stage in stages if stage["stage"] == "evaluate"):
        output = Store().find(key)
        if output is not None and output.manifest["identity"].get("suite") == "ifeval":
            model = json.dumps(output.manifest["identity"]["model"])
            found[bool(trained_in) and trained_in[-1] in model] = list(output.rows("items"))
    if len(found) < 2:
        raise UserError(
            f"{run} has no IFEval before and after in this store: run its recipe again."
        )
    return found[True], found[False]


def judged(docs: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[dict[str, Any]]:
    """Items of texts, as the suite has them."""
    return [
        {"id": str(i), "values": {f"{k},none": v for k, v in verdicts(doc, [text]).items()}}
        for i, (doc, text) in enumerate(zip(docs, texts, strict=True))
    ]


def mean_strict(rows: Sequence[Mapping[str, Any]]) -> ItemValues:
    return ItemValues.mean_of([item_values(rows, of) for of in _STRICT])


def main(run: Path, file: str) -> None:
    trained, before = answers(run)
    docs = [row for _, row in read_rows(file)]
    tokenizer = load_tokenizer(str(run / "model"))
    ids = [[tokenizer(row["text"])["input_ids"] for row in rows] for rows in (trained, before)]
    lengths = [[len(one) for one in of] for of in ids]
    mean = round(float(np.mean(lengths[0])))

    def cut(to: Sequence[int]) -> list[dict[str, Any]]:
        texts = [str(tokenizer.decode(one[:n])) for one, n in zip(ids[1], to, strict=True)]
        return judged(docs, texts)

    after = mean_strict(trained)
    print(f"Tokens per answer: {np.mean(lengths[1]):.0f} before, {mean} after.\n")
    print("| | followed, mean strict | trained, minus it |\n|---|---:|---:|")
    for name, rows in (
        ("before", before),
        ("before, each cut to the trained one's length", cut(lengths[0])),
        (f"before, all cut to {mean} tokens", cut([mean] * len(docs))),
    ):
        values = mean_strict(rows)
        found = change(after, values)
        assert found is not None and found.low is not None and found.high is not None
        interval = f"({points(found.low)} to {points(found.high)})"
        share = share_percent(values_mean(values))
        print(f"| {name} | {share} | {points(found.mean)} {interval} |")
    print("\n| kind | instructions | before | after | unasked, before | after |")
    print("|---|---:|---:|---:|---:|---:|")
    for kind, (count, *shares) in kinds(docs, before, trained).items():
        habits = [unasked(docs, rows, kind) for rows in (before, trained)]
        told = ["" if share is None else share_percent(share) for share in (*shares, *habits)]
        print(f"| {kind} | {count} | {' | '.join(told)} |")


def unasked(
    docs: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], kind: str
) -> float | None:
    """The share of the answers to other prompts that do it, a habit; None: it needs arguments."""
    if kind not in _WITHOUT_ARGUMENTS:
        return None
    asked = _WITHOUT_ARGUMENTS[kind]
    others = [
        follows(row["text"], kind, asked)
        for doc, row in zip(docs, rows, strict=True)
        if kind not in doc["instruction_id_list"]
    ]
    return float(np.mean(others))


def values_mean(values: ItemValues) -> float:
    return float(np.mean(values.sums.sum(axis=1) / values.counts.sum(axis=1)))


def kinds(
    docs: Sequence[Mapping[str, Any]], *models: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[int, float, float]]:
    """Instructions of each kind, and the shares that each model follows, strictly."""
    found: dict[str, list[tuple[bool, ...]]] = {}
    for doc, *rows in zip(docs, *models, strict=True):
        for place, kind in enumerate(doc["instruction_id_list"]):
            followed = tuple(bool(row["values"][_STRICT[1]][place]) for row in rows)
            found.setdefault(kind, []).append(followed)
    shares = {kind: np.mean(of, axis=0) for kind, of in sorted(found.items())}
    return {
        kind: (len(found[kind]), float(mean[0]), float(mean[1])) for kind, mean in shares.items()
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hold a run's change on IFEval against controls.")
    parser.add_argument("run", type=Path, help="run folder of recipe=ifeval_dpo")
    parser.add_argument("file", help="that eval.ifeval.path names")
    given = parser.parse_args()
    try:
        main(given.run, given.file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
