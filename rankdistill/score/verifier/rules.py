"""The rules by name, and what is said of one response."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rankdistill.errors import UserError, suggest
from rankdistill.score.verifier import answers, instructions
from rankdistill.score.verifier.answers import Check
from rankdistill.score.verifier.function import load_function


@dataclass(frozen=True)
class Rule:
    """What makes a check; the fields are the keys of `score=verifier`."""

    rule: str
    column: str
    pattern: str | None

    @property
    def own(self) -> bool:
        """Whether it is a function of the user's."""
        return ":" in self.rule


@dataclass(frozen=True)
class Checked:
    """What came of checking one response: a value, or the reason why there is none."""

    value: float | None = None
    """None: the rule has no value for it, or one of the other fields says why."""
    failed: str = ""
    """What the check failed by, on this response."""
    column: str = ""
    """The column that the prompt does not have."""
    mistake: str = ""
    """What is wrong for every response."""


def check_of(rule: Rule) -> Check:
    """The check. UserError: there is none of that name, or what it needs is missing."""
    if rule.own:
        return load_function(rule.rule)
    if rule.rule not in _CHECKS:
        raise UserError(
            f"score.rule is '{rule.rule}', which is neither a check nor a "
            f"module:function: {suggest(rule.rule, _CHECKS)}"
        )
    return _CHECKS[rule.rule](rule.column, rule.pattern)


_CHECKS: dict[str, Callable[[str, str | None], Check]] = {
    "number": answers.number,
    "math": answers.math_verify,
    "regex": answers.regex,
    "json_schema": answers.json_schema,
    "ifeval": instructions.ifeval,
    "reasoning_gym": answers.reasoning_gym,
}
