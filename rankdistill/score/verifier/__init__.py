"""Responses that can be checked: `score=verifier`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from rich.markup import escape

from rankdistill.console import result
from rankdistill.errors import UserError
from rankdistill.fields import identity_of
from rankdistill.rows import Group, row_columns
from rankdistill.score.schema import CHECK_S, VerifierOptions
from rankdistill.score.scorer import Scorer, TeacherAccess, Verdict
from rankdistill.score.verifier.degenerate import is_degenerate
from rankdistill.score.verifier.instructions import check_names
from rankdistill.score.verifier.processes import Checkers
from rankdistill.score.verifier.rules import Checked, Rule, check_of, source_digest


@dataclass(frozen=True)
class Verifier(VerifierOptions, Scorer):
    """What a rule says of each response, mostly 1 or 0; the keys are in `conf/score/verifier.yaml`.

    A response whose check fails, or takes longer than the limit, has no value: NaN. How many those
    are, and why, is told.

    Raises:
        UserError: an unknown check, an unsafe or missing function, a package that is not installed,
            or a pattern or schema that is none.
    """

    name: ClassVar[str] = "verifier"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_of(self._rule)

    def check_columns(self, columns: Sequence[Mapping[str, Any]]) -> None:
        """Refuse instructions that no rule knows, before there are responses to check."""
        if self.checks_demands:
            for kept in columns:
                check_names(kept)

    @property
    def identity(self) -> dict[str, Any]:
        own = {"source": source_digest(self.rule)} if self._rule.own else {}
        # Outputs that were made before there was a limit are those of the default one.
        usual = ("timeout_s",) if self.timeout_s == CHECK_S else ()
        # Nor was there a value of degenerate responses.
        usual += ("degenerate",) if self.degenerate is None else ()
        return {
            "scorer": self.name,
            "code": _CODE.get(self.rule, 1),
            **identity_of(self, instead=("rule", *usual)),
            "check": self.rule,
            **own,
        }

    def __call__(
        self, groups: Sequence[Group], access: TeacherAccess, done: int = 0
    ) -> Iterator[list[Verdict]]:
        """The values of one group after the other; see `Scorer`."""
        asked = [
            ([response["text"] for response in group["responses"]], row_columns(group))
            for group in groups[done:]
        ]
        failures = _Failures()
        with Checkers(self._rule, self.timeout_s, len(asked)) as checkers:
            for group, answers in zip(groups[done:], checkers.answers(asked), strict=True):
                for answer in answers:
                    self._refuse(answer, groups)
                counts = failures.add(group["prompt_id"], answers)
                values = [math.nan if a.value is None else a.value for a in answers]
                yield [Verdict(self._without_degenerate(group, values), counts=counts)]
        failures.tell(self.rule)

    def _without_degenerate(self, group: Group, values: list[float]) -> list[float]:
        if self.degenerate is None:
            return values
        columns = row_columns(group)
        found = [is_degenerate(response["text"], columns) for response in group["responses"]]
        return [
            self.degenerate if bad and not math.isnan(value) else value
            for bad, value in zip(found, values, strict=True)
        ]

    @property
    def _rule(self) -> Rule:
        return Rule(self.rule, self.column, self.pattern)

    def _refuse(self, answer: Checked, groups: Sequence[Group]) -> None:
        """UserError: what is missing is missing for all responses."""
        if answer.mistake:
            raise UserError(answer.mistake)
        if answer.column and not any(answer.column in row_columns(group) for group in groups):
            kept = ", ".join(row_columns(groups[0])) or "none"
            raise UserError(
                f"score.rule={self.rule} needs the column '{answer.column}' of the prompts (kept: "
                f"{kept}): name it in prompts.keep, and in score.column if it is another."
            )


@dataclass
class _Failures:
    """The responses that could not be checked, and why."""

    responses: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def add(self, prompt_id: str, answers: Sequence[Checked]) -> Mapping[str, int]:
        """What a group's verdict counts."""
        self.responses += len(answers)
        missing = (a.failed or (a.column and f"there is no column '{a.column}'") for a in answers)
        failed = [reason for reason in missing if reason]
        if failed and not self.first:
            self.first = prompt_id
        self.reasons.update(failed)
        return {"unchecked": len(failed)} if failed else {}

    def tell(self, rule: str) -> None:
        count = self.reasons.total()
        if not count:
            return
        [(reason, times), *others] = self.reasons.most_common()
        more = f", and {len(others)} other reasons" if others else ""
        result(
            f"{count} of {self.responses} responses could not be checked by score.rule={rule} and "
            f"have no score, the first of prompt {self.first}; {times} of them: "
            f"{escape(reason)}{more}"
        )


_CODE = {"ifeval": 3, "json_schema": 2}
"""Counted up where a rule's values change."""
