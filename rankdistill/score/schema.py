"""The keys of `score`: names, types, ranges, and what they change of the values.

The scorers themselves, which `_target_` names, add to these how they score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import urlsplit

from rankdistill.errors import UserError, suggest
from rankdistill.fields import above_zero, added, at_least, irrelevant, refuse_credentials, within

THROUGH = ("transformers", "vllm")
JUDGE_MODES = ("pointwise", "pairwise", "tournament", "listwise")


@dataclass(frozen=True)
class LikelihoodOptions:
    """Keys of `score=likelihood`.

    Args:
        per_token: Divide by the number of response tokens, EOS included.
        max_batch_tokens: Tokens that go through the teacher at once.
        contrast: What is subtracted. None: nothing. "unconditional": the teacher's log-probability
            of the response to an empty message, which leaves the pointwise mutual information of
            prompt and response (Li et al. 2016, arXiv:1510.03055). A model: its log-probability of
            the same response, which leaves DPO's implicit reward (Rafailov et al. 2023) of the
            teacher against that reference.
        through: What runs the teacher: `transformers`, `vllm`, or the URL of a `vllm serve` that
            does. What else is in a batch of vLLM's changes the rounding of a score.

    Raises:
        UserError: an unknown value.
    """

    per_token: bool
    max_batch_tokens: int = irrelevant()
    contrast: str | None = None
    through: str = "transformers"

    def __post_init__(self) -> None:
        at_least("score", self, 1, "max_batch_tokens")
        if self.through not in THROUGH and not self.remote:
            hint = suggest(self.through, THROUGH)
            raise UserError(f"score.through is {self.through}, which is no URL: {hint}")
        if self.remote and not _has_host(self.through):
            raise UserError(
                f"score.through is '{self.through}', which is no URL: give one such as "
                "http://127.0.0.1:8000/v1."
            )
        refuse_credentials("score.through", self.through)
        if self.remote and self.contrast not in (None, "unconditional"):
            raise UserError(
                f"score.contrast is the model {self.contrast}, but score.through is the URL of one "
                "teacher: set score.contrast to unconditional or null."
            )

    @property
    def remote(self) -> bool:
        """Whether `through` is a URL."""
        return self.through.startswith(("http://", "https://"))


def _has_host(url: str) -> bool:
    try:
        return bool(urlsplit(url).hostname) and urlsplit(url).port != 0
    except ValueError:  # a bracket that is not closed, a port that is no number
        return False


@dataclass(frozen=True, kw_only=True)
class JudgeEndpoint:
    """A judge behind an OpenAI-compatible endpoint, which `conf/score/judge.yaml` explains.

    Its verdicts depend on which model answers, and not on where.
    """

    endpoint: str | None = irrelevant()
    model: str | None
    key_variable: str = irrelevant()
    temperature: float
    max_answer_tokens: int
    concurrency: int = irrelevant()
    requests_per_minute: float | None = irrelevant()
    timeout_s: float = irrelevant()
    retries: int = irrelevant()
    chat_template_kwargs: Any = added(None)  # noqa: RUF009


def check_endpoint(group: str, judge: JudgeEndpoint) -> None:
    """UserError: a value of the endpoint's keys, which are in `group`, is out of its range."""
    at_least(group, judge, 1, "concurrency")
    at_least(group, judge, 8, "max_answer_tokens")
    at_least(group, judge, 0, "temperature", "retries")
    above_zero(group, judge, "timeout_s", "requests_per_minute")


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(JudgeEndpoint):
    """Keys of `score=judge`, which `conf/score/judge.yaml` explains.

    Raises:
        UserError: an unknown mode, no aspect, or a value out of its range.
    """

    mode: str
    aspects: list[str]
    prompt: str | None
    explain: bool
    expected_score: bool
    shuffles: int
    dollars_per_million_input_tokens: float = irrelevant()
    dollars_per_million_output_tokens: float = irrelevant()
    dtype: str
    gpu_memory_utilization: float = irrelevant()
    tensor_parallel_size: int = irrelevant()

    def __post_init__(self) -> None:
        if self.mode not in JUDGE_MODES:
            raise UserError(f"score.mode is '{self.mode}': {suggest(self.mode, JUDGE_MODES)}")
        check_endpoint("score", self)
        at_least("score", self, 1, "shuffles")
        dollars = ("dollars_per_million_input_tokens", "dollars_per_million_output_tokens")
        at_least("score", self, 0, *dollars)
        within("score", self, "(0, 1]", "gpu_memory_utilization")
        at_least("score", self, 1, "tensor_parallel_size")
        if not self.aspects:
            raise UserError("score.aspects is empty: give at least one, for example [overall].")


@dataclass(frozen=True, kw_only=True)
class RubricOptions(JudgeOptions):
    """Keys of `score=rubric`, which `conf/score/rubric.yaml` explains; it has one mode."""

    column: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode != "pointwise":
            raise UserError(
                f"score.mode is {self.mode}, and score=rubric asks about each response by itself: "
                "leave it at pointwise, or take score=judge."
            )


CHECK_S = 5.0
"""Seconds that the check of a response may take."""


@dataclass(frozen=True)
class VerifierOptions:
    """Keys of `score=verifier`, which `conf/score/verifier.yaml` explains.

    Raises:
        UserError: a value out of its range.
    """

    rule: str
    column: str
    pattern: str | None
    timeout_s: float = CHECK_S
    degenerate: float | None = None

    def __post_init__(self) -> None:
        above_zero("score", self, "timeout_s")

    by_rule: ClassVar[bool] = True
    verifies: ClassVar[bool] = True

    @property
    def checks_demands(self) -> bool:
        """See `Scorer`."""
        return self.rule == "ifeval"


@dataclass(frozen=True)
class WriterOptions:
    """Keys of `score=writer`, which `conf/score/writer.yaml` explains.

    Raises:
        UserError: the order is no list of different names.
    """

    order: Any
    """None, or names."""

    def __post_init__(self) -> None:
        order = self.order
        if order is None:
            return
        named = isinstance(order, Sequence) and all(isinstance(name, str) for name in order)
        if isinstance(order, str) or not named or len(set(order)) < max(2, len(order)):
            raise UserError(
                f"score.order is {order}: give at least two writers, from the strongest to the "
                "weakest, as in 'score.order=[teacher,student]'."
            )


@dataclass(frozen=True, kw_only=True)
class RewardModelOptions:
    """Keys of `score=reward_model`, which `conf/score/reward_model.yaml` explains.

    Raises:
        UserError: a value out of its range.
    """

    model: str
    precision: str
    attn_implementation: str = irrelevant()
    trust_remote_code: bool = irrelevant()
    max_tokens: int
    max_batch_tokens: int = irrelevant()
    chat_template_kwargs: Any = added(None)  # noqa: RUF009

    def __post_init__(self) -> None:
        at_least("score", self, 1, "max_tokens", "max_batch_tokens")
