"""Responses that can be checked: `score=verifier`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rankdistill.errors import UserError, suggest
from rankdistill.fields import identity_of
from rankdistill.rows import Group
from rankdistill.score.schema import VerifierOptions
from rankdistill.score.scorer import Scorer, TeacherAccess
from rankdistill.score.verifier import answers, instructions
from rankdistill.score.verifier.function import load_function, source_digest

Check = Callable[[str, Mapping[str, Any]], float]
"""(response, the kept columns of its prompt) -> value."""


@dataclass(frozen=True)
class Verifier(VerifierOptions, Scorer):
    """What a rule says of each response, mostly 1 or 0; the keys are in `conf/score/verifier.yaml`.

    Raises:
        UserError: an unknown check, an unsafe or missing function, a package that is not installed,
            or a pattern or schema that is none.
    """

    name: ClassVar[str] = "verifier"

    def __post_init__(self) -> None:
        self._check()

    @property
    def identity(self) -> dict[str, Any]:
        own = {"source": source_digest(self.rule)} if ":" in self.rule else {}
        return {
            "scorer": self.name,
            "code": _CODE.get(self.rule, 1),
            **identity_of(self, instead=("rule",)),
            "check": self.rule,
            **own,
        }

    def __call__(
        self, groups: Sequence[Group], access: TeacherAccess, done: int = 0
    ) -> Iterator[list[list[float]]]:
        """The values of one group after the other; see `Scorer`."""
        check = self._check()
        for group in groups[done:]:
            columns = json.loads(group.get("columns") or "{}")
            yield [[self._value(check, r["text"], columns, group) for r in group["responses"]]]

    def _value(self, check: Check, text: str, columns: Mapping[str, Any], group: Group) -> float:
        try:
            value = float(check(text, columns))
        except KeyError as error:
            kept = ", ".join(columns) or "none"
            raise UserError(
                f"score.rule={self.rule} needs the column {error} of the prompts (kept: "
                f"{kept}): name it in prompts.keep, and in score.column if it is another."
            ) from error
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"score.rule={self.rule} failed on a response to prompt "
                f"{group['prompt_id']}: {type(error).__name__}: {error}"
            ) from error
        return value if math.isfinite(value) else math.nan

    def _check(self) -> Check:
        if ":" in self.rule:
            return load_function(self.rule)
        if self.rule not in _CHECKS:
            raise UserError(
                f"score.rule is '{self.rule}', which is neither a check nor a "
                f"module:function: {suggest(self.rule, _CHECKS)}"
            )
        return _CHECKS[self.rule](self.column, self.pattern)


_CODE = {"ifeval": 3}
"""Counted up where a rule's values change."""
_CHECKS: dict[str, Callable[[str, str | None], Check]] = {
    "number": answers.number,
    "math": answers.math_verify,
    "regex": answers.regex,
    "json_schema": answers.json_schema,
    "ifeval": instructions.ifeval,
    "reasoning_gym": answers.reasoning_gym,
}
