"""A checklist for each prompt, judged item by item: `score=rubric`.

Gunjal et al. 2025, Rubrics as Rewards (arXiv:2507.17746). What a program can tell is decided by a
verifier's rule in place of the judge, which misses false answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rankdistill.errors import UserError
from rankdistill.rows import Group, row_columns
from rankdistill.score.judge.modes import Brief, Plan
from rankdistill.score.judge.prompts import delimited, load_frame
from rankdistill.score.judge.scorer import VERDICT_TOKENS, LLMJudge
from rankdistill.score.judge.verdicts import choice_form
from rankdistill.score.schema import RubricOptions
from rankdistill.score.scorer import Questions, TeacherAccess, Verdict
from rankdistill.score.verifier import Verifier

KEYS = ("item", "weight", "rule", "expects")
RULES = ("number", "math", "regex", "json_schema", "ifeval")
"""Of `score=verifier`; a data set names no function of anybody's."""
ITEMS = 6
"""What the planner takes a checklist to have."""
MET = {"yes": 1.0, "no": 0.0}

Decided = Mapping[tuple[str, int], Sequence[float]]
"""By prompt id and place of the item: what a rule says of each response."""


@dataclass(frozen=True)
class Item:
    """One thing that a response is to do, or with a weight below 0 is not to do."""

    text: str
    weight: float = 1.0
    rule: str | None = None
    """Of `score=verifier`; None: the judge says."""
    expects: Any = None
    """What the rule holds a response against: a pattern, an answer, a schema, IFEval's columns."""


def items_of(columns: Mapping[str, Any], column: str) -> list[Item]:
    """The checklist of a prompt: texts, or mappings with `KEYS`.

    Raises:
        UserError: no such column, or what is in it is no checklist.
    """
    if column not in columns:
        kept = ", ".join(columns) or "none"
        raise UserError(
            f"score=rubric needs the column '{column}' of the prompts (kept: {kept}): name it in "
            "prompts.keep, and in score.column if it is another."
        )
    given = columns[column]
    items = [_item(each, column) for each in given] if isinstance(given, list) else []
    if not any(item.weight > 0 for item in items):
        raise UserError(
            f"The column '{column}' has {json.dumps(given)[:80]}, which is no checklist: give a "
            "list of texts, or of {item: TEXT, weight: NUMBER}, one of them with a weight above 0."
        )
    return items


def _item(given: Any, column: str) -> Item:
    mapping: Any = {"item": given} if isinstance(given, str) else given
    if isinstance(mapping, Mapping) and set(mapping) <= set(KEYS):
        text, weight, rule = mapping.get("item"), mapping.get("weight", 1.0), mapping.get("rule")
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        counts = number and math.isfinite(weight) and weight != 0
        if isinstance(text, str) and counts and rule in (None, *RULES):
            return Item(text, float(weight), rule, mapping.get("expects"))
    raise UserError(
        f"The column '{column}' has the item {json.dumps(given)[:80]}: give a text, or a mapping "
        f"of {', '.join(KEYS)}, whose weight is a number other than 0, and whose rule one of "
        f"{', '.join(RULES)}."
    )


@dataclass(frozen=True)
class Rubric(RubricOptions, LLMJudge):
    """The weight of the items that a response meets, over that of all items with weights above 0.

    At most 1; below 0 where it does what it should not. Items that have no vote, since the judge's
    answer was set aside or a rule failed, count on neither side; they are the `missing_votes`.

    Raises:
        UserError: as `LLMJudge`.
    """

    name: ClassVar[str] = "rubric"

    @property
    def relative(self) -> bool:
        return False

    @property
    def without_answer(self) -> float:
        """See `Scorer`: nothing meets an item, whatever a rule says of an empty text."""
        return 0.0

    def questions(self, responses: int) -> Questions:
        """See `Scorer`; nobody knows the checklists before the prompts."""
        tokens = self.max_answer_tokens if self.explain else VERDICT_TOKENS
        return Questions(responses * ITEMS, 1, tokens, self.tensor_parallel_size)

    def check_columns(self, columns: Sequence[Mapping[str, Any]]) -> None:
        """Refuse prompts without a checklist, before there are responses to check."""
        for kept in columns:
            for item in items_of(kept, self.column):
                if item.rule is not None:
                    Verifier(item.rule, "expects", None)

    def _plans(self, groups: Sequence[Group], access: TeacherAccess) -> Iterator[Plan]:
        decided = decided_by_rules(groups, self.column, access)
        brief = self._brief()
        return (checklist(group, brief, self.column, decided) for group in groups)

    def _brief(self) -> Brief:
        frame = load_frame("rubric", self.prompt)
        return Brief(frame, [], self.explain, expected_score=False, shuffles=1, seed=self.seed)


def checklist(group: Group, brief: Brief, column: str, decided: Decided) -> Plan:
    """Each item that no rule decides, of each response; see `Rubric`."""
    items = items_of(row_columns(group), column)
    form = choice_form("met", list(MET), explain=brief.explain)
    texts = [response["text"] for response in group["responses"]]
    asked = [number for number, item in enumerate(items) if item.rule is None]
    answers = yield [
        brief.question(
            group,
            form,
            response=delimited("RESPONSE", text),
            criterion=delimited("ITEM", items[number].text),
        )
        for number in asked
        for text in texts
    ]
    said = iter(answers)
    votes = [
        [MET.get(str(next(said)), math.nan) for _ in texts]
        if item.rule is None
        else decided[group["prompt_id"], number]
        for number, item in enumerate(items)
    ]
    values = [_value(items, [row[k] for row in votes]) for k in range(len(texts))]
    missing = sum(math.isnan(vote) for row in votes for vote in row)
    return Verdict(values, counts={"missing_votes": missing} if missing else {})


def _value(items: Sequence[Item], votes: Sequence[float]) -> float:
    voted = [(i.weight, v) for i, v in zip(items, votes, strict=True) if not math.isnan(v)]
    most = sum(weight for weight, _ in voted if weight > 0)
    return sum(weight * vote for weight, vote in voted) / most if most else math.nan


def decided_by_rules(groups: Sequence[Group], column: str, access: TeacherAccess) -> Decided:
    """What the rules of hard items say, each rule asked once about all of its items."""
    by_rule: dict[str, dict[tuple[str, int], Any]] = {}
    for group in groups:
        for number, item in enumerate(items_of(row_columns(group), column)):
            if item.rule is not None:
                own = item.expects if item.rule == "ifeval" else {"expects": item.expects}
                shown = {**group, "columns": json.dumps(own)}
                by_rule.setdefault(item.rule, {})[group["prompt_id"], number] = shown
    found: dict[tuple[str, int], Sequence[float]] = {}
    for rule, rows in by_rule.items():
        parts = Verifier(rule, "expects", None)(list(rows.values()), access)
        verdicts = [verdict.values for part in parts for verdict in part]
        found |= zip(rows, verdicts, strict=True)
    return found
