"""How often our rules agree with lm-eval's checker of IFEval, on the answers of finished runs.

python docs/figures/checker_agreement.py RUN...

One row per rule of IFEval's that the answers were verified by, for every model of the runs: a rule
that training learned to fool would agree less after training than before. Rules named `form:` are
not IFEval's and never go there. Needs lm-eval (the extra `eval`).
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rankdistill.score.verifier.instructions import follows


def theirs(text: str, rule: str, arguments: dict[str, Any]) -> bool:
    """lm-eval's verdict."""
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    checker = INSTRUCTION_DICT[rule](rule)
    checker.build_description(**arguments)
    return bool(text.strip()) and bool(checker.check_following(text))


def verdicts(run: Path) -> Iterator[tuple[str, str, bool, bool]]:
    """(rule, model, ours, theirs) of every answer to a demand of IFEval's."""
    for line in (run / "answers.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        columns = json.loads(row.get("columns") or "{}")
        demands = zip(columns["instruction_id_list"], columns["kwargs"], strict=True)
        for rule, arguments in demands:
            if rule.startswith("form:"):
                continue
            for model, answers in row["responses"].items():
                for answer in answers:
                    text = answer["text"]
                    yield rule, model, follows(text, rule, arguments), theirs(text, rule, arguments)


def main(runs: list[str]) -> None:
    same: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for run in runs:
        for rule, model, ours, other in verdicts(Path(run)):
            same[rule, model].append(ours == other)
    models = sorted({model for _, model in same})
    print(f"| rule | {' | '.join(models)} |")
    print(f"|---|{'---|' * len(models)}")
    for rule in sorted({rule for rule, _ in same}):
        cells = [same.get((rule, model), []) for model in models]
        shown = [f"{100 * sum(c) / len(c):.1f} % of {len(c)}" if c else "" for c in cells]
        print(f"| `{rule}` | {' | '.join(shown)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
