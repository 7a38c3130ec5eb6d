"""The keys of `eval`: names, types, ranges, and what they change of the figures.

The suites themselves, which `_target_` names, add to these how they measure; `quick`, `ranked` and
`verified` are measured by the evaluate stage. `eval/NAME.yaml` explains the keys.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from rankdistill.errors import UserError
from rankdistill.fields import at_least, irrelevant, require, require_choice, within
from rankdistill.score.schema import JudgeEndpoint, check_endpoint

BACKENDS = ("hf", "vllm")
CHECKERS = ("lm_eval", "own")


@dataclass(frozen=True, kw_only=True)
class QuickOptions:
    """Keys of `eval=[quick]`. UserError: a value is out of its range."""

    version: int
    responses_per_prompt: int
    sharpening_control: bool
    max_batch_tokens: int = irrelevant()
    read_prompts: int | None

    def __post_init__(self) -> None:
        keys = ("version", "responses_per_prompt", "read_prompts", "max_batch_tokens")
        at_least("eval.quick", self, 1, *keys)


@dataclass(frozen=True, kw_only=True)
class RankedOptions:
    """Keys of `eval=[ranked]`. UserError: a value is out of its range."""

    version: int
    length_match: float
    max_batch_tokens: int = irrelevant()

    def __post_init__(self) -> None:
        within("eval.ranked", self, "[0, 1)", "length_match")
        at_least("eval.ranked", self, 1, "version", "max_batch_tokens")


@dataclass(frozen=True, kw_only=True)
class VerifiedOptions:
    """Keys of `eval=[verified]`. UserError: a value is out of its range."""

    version: int
    greedy: bool
    prompted: bool
    best_of: list[int]
    best_of_prompts: int
    guard_prompts: int
    form: str | None
    majority: int | None
    max_batch_tokens: int = irrelevant()

    def __post_init__(self) -> None:
        for n in self.best_of:
            require("a value of eval.verified.best_of", n, n >= 1, "at least 1")
        keys = ("version", "best_of_prompts", "guard_prompts", "majority", "max_batch_tokens")
        at_least("eval.verified", self, 1, *keys)
        if self.majority is not None and not self.greedy:
            raise UserError(
                "eval.verified.majority holds the greedy student against the teacher: set "
                "eval.verified.greedy=true."
            )
        if self.form is not None:
            _check_pattern(self.form)


def _check_pattern(form: str) -> None:
    try:
        re.compile(form)
    except re.error as error:
        raise UserError(
            f"eval.verified.form '{form}' is no regular expression: {error}."
        ) from error


@dataclass(frozen=True, kw_only=True)
class HarnessOptions:
    """Keys of a task of lm-eval. UserError: a value is out of its range."""

    version: int
    path: str | None
    shots: int
    limit: int | None
    chat_template: bool
    max_response_tokens: int | None
    backend: str
    batch_size: int = irrelevant()

    name: ClassVar[str] = "gsm8k"

    def __post_init__(self) -> None:
        counts = ("version", "limit", "batch_size", "max_response_tokens")
        at_least(f"eval.{self.name}", self, 1, *counts)
        at_least(f"eval.{self.name}", self, 0, "shots")
        require_choice(f"eval.{self.name}.backend", self.backend, BACKENDS)


@dataclass(frozen=True, kw_only=True)
class IFEvalOptions(HarnessOptions):
    """Keys of `eval=[ifeval]`."""

    checker: str = "lm_eval"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(f"eval.{self.name}.checker", self.checker, CHECKERS)


@dataclass(frozen=True, kw_only=True)
class IFBenchOptions(HarnessOptions):
    """Keys of `eval=[ifbench]`."""

    checker: str


@dataclass(frozen=True, kw_only=True)
class MTBenchOptions:
    """Keys of `eval=[mt_bench]`. UserError: a value is out of its range."""

    version: int
    questions: str | None
    references: str | None
    prompts: str | None
    limit: int | None
    max_response_tokens: int
    judge: JudgeEndpoint

    def __post_init__(self) -> None:
        check_endpoint("eval.mt_bench.judge", self.judge)
        at_least("eval.mt_bench", self, 1, "version", "limit", "max_response_tokens")


@dataclass(frozen=True, kw_only=True)
class AlpacaEvalOptions:
    """Keys of `eval=[alpaca_eval]`. UserError: a value is out of its range."""

    version: int
    reference: str | None
    prompt: str | None
    limit: int | None
    temperature: float
    max_response_tokens: int
    judge: JudgeEndpoint

    def __post_init__(self) -> None:
        check_endpoint("eval.alpaca_eval.judge", self.judge)
        at_least("eval.alpaca_eval", self, 1, "version", "limit", "max_response_tokens")
        at_least("eval.alpaca_eval", self, 0, "temperature")


@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """Keys of `eval=[pairs]`. UserError: a value is out of its range."""

    version: int
    path: str | None
    limit: int | None
    reward_model: str | None
    max_tokens: int
    max_batch_tokens: int = irrelevant()

    def __post_init__(self) -> None:
        at_least("eval.pairs", self, 1, "version", "limit", "max_tokens", "max_batch_tokens")
