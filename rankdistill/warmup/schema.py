"""The keys of `warmup`: names, types, ranges, and what they change of the weights.

The warm-ups themselves, which `_target_` names, add to these how they train; so a mistake is told
before anything heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from rankdistill.errors import UserError
from rankdistill.fields import (
    above_zero,
    at_least,
    identity_of,
    irrelevant,
    require,
    require_choice,
    within,
)
from rankdistill.optimiser import Optimiser

SOURCES = ("teacher", "data")
KEEP = ("all", "best")
ENGINES = ("transformers", "vllm")
LAYERS = ("last", "all")


@dataclass(frozen=True)
class Lessons:
    """What a warm-up asks for.

    Args:
        source: `teacher` samples the responses, `data` takes those that the prompts came with,
            `conversations` are a data set of their own.
        responses_per_prompt: Responses that the teacher writes to a prompt; 0: to no train prompt.
        keep: `all`, or the `best` by score.
        minimum_score: Responses that score less are left out; None: none are.
        thoughts: Whether what the teacher thinks (between `<think>` and `</think>`) is learned too.
        request: What is added to a prompt for the teacher alone; None: nothing.
    """

    source: str = "teacher"
    responses_per_prompt: int = 1
    keep: str = "all"
    minimum_score: float | None = None
    thoughts: bool = True
    request: str | None = None

    @property
    def scored(self) -> bool:
        """Whether the scorer has a say."""
        return self.keep == "best" or self.minimum_score is not None

    @property
    def as_sampled(self) -> bool:
        """Whether all that the teacher wrote is learned as it wrote it."""
        return self.thoughts and not self.scored and self.request is None


@dataclass(frozen=True, kw_only=True)
class NoWarmupOptions:
    """No warm-up has no keys."""


@dataclass(frozen=True, kw_only=True)
class Optimisation(Optimiser):
    """How a warm-up is optimised; the keys beyond `Optimiser` are:

    Args:
        responses_per_step: Responses in one optimiser step, over all devices.
        eval_steps: Steps, or below 1 the share of all steps, between measurements on the
            validation prompts.
        learn_from: `teacher`, which writes responses, or `data`: those that came with the prompts.
            They have a key of their own, as the responses of every warm-up have.
        max_prompts: The first so many train prompts are answered and learned from; None: all.

    Raises:
        UserError: A value is out of its range.
    """

    learning_rate: float = 3e-4
    responses_per_step: int = 8
    eval_steps: float = irrelevant(0.25)
    learn_from: str = "teacher"
    max_prompts: int | None = None

    group: ClassVar[str] = "warmup"
    counted_elsewhere: ClassVar[tuple[str, ...]] = ("learn_from", "max_prompts")
    """Keys that the rows or the models come from, whose own keys are hashed beside `identity`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("warmup", self, 1, "responses_per_step", "max_prompts")
        above_zero("warmup", self, "eval_steps")
        require_choice("warmup.learn_from", self.learn_from, SOURCES)

    @property
    def lessons(self) -> Lessons | None:
        """The responses that are learned; None: none, the student stays as it is."""
        return Lessons(source=self.learn_from)

    @property
    def weighed(self) -> dict[str, Any]:
        """The keys that change the weights, for `identity`."""
        return identity_of(self, instead=self.counted_elsewhere)


@dataclass(frozen=True, kw_only=True)
class SFTOptions(Optimisation):
    """Keys of `warmup=sft`.

    Args:
        responses_per_prompt: Responses that the teacher writes to a prompt.
        keep: `all`, or the `best` of them by the run's scorer.
        minimum_score: Responses that score less are not learned; a verifier gives 1 where it
            agrees. None: all are good enough.
        rationale: Also learn how the teacher reasons, between `<think>` and `</think>`; needs a
            `minimum_score`. Scorers see the answer alone either way.
        request: What is added to a prompt for the teacher alone, for example to have it reason.
        conversations: A file or a data set of the hub, whose conversations are learned in place of
            responses to the run's prompts: every turn of the assistant. None: there is none.
        max_conversation_tokens: They are cut after so many tokens.
        train_conversations: Most of them to learn; None: all; 0: none, the student stays as it is.
        validation_conversations: How many of them are measured on instead.
    """

    responses_per_prompt: int = 1
    keep: str = "all"
    minimum_score: float | None = None
    rationale: bool = False
    request: str | None = None
    conversations: str | None = None
    max_conversation_tokens: int = 2048
    train_conversations: int | None = None
    validation_conversations: int = 64

    counted_elsewhere: ClassVar[tuple[str, ...]] = (
        "learn_from", "max_prompts", "responses_per_prompt", "keep", "minimum_score", "rationale",
        "request", "conversations", "max_conversation_tokens", "train_conversations",
        "validation_conversations",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("warmup", self, 1, "responses_per_prompt", "max_conversation_tokens")
        at_least("warmup", self, 0, "train_conversations", "validation_conversations")
        require_choice("warmup.keep", self.keep, KEEP)
        if self.rationale and self.minimum_score is None:
            raise UserError(
                "warmup.rationale learns a chain of thought only where a verifier agrees: choose "
                "one as score, and set warmup.minimum_score=1."
            )

    @property
    def lessons(self) -> Lessons | None:
        if self.conversations is not None:
            return Lessons(source="conversations") if self.train_conversations != 0 else None
        return Lessons(
            source=self.learn_from,
            responses_per_prompt=self.responses_per_prompt,
            keep=self.keep,
            minimum_score=self.minimum_score,
            thoughts=self.rationale,
            request=self.request,
        )

    @property
    def identity(self) -> dict[str, Any]:
        return {"warmup": "sft", "code": 2, **self.weighed}


@dataclass(frozen=True, kw_only=True)
class DistillationOptions(Optimisation):
    """Keys of every warm-up against the teacher's distributions.

    Args:
        temperature: Of both distributions, > 0.
        divergence: What `rankdistill.objectives.divergences.divergence_named` takes.
        assistants: Layers of students in between, from many to few: each is made of the one before
            and taught by it, and the student by the last (Mirzadeh et al. 2020, arXiv:1902.03393).
    """

    temperature: float = 1.0
    divergence: str = "forward_kl"
    assistants: tuple[int, ...] = ()

    # The warm-up of an assistant is an output of its own, which is the next one's teacher.
    counted_elsewhere: ClassVar[tuple[str, ...]] = ("learn_from", "max_prompts", "assistants")

    def __post_init__(self) -> None:
        super().__post_init__()
        above_zero("warmup", self, "temperature")
        falling = all(a > b for a, b in pairwise(self.assistants))
        least = all(layers >= 1 for layers in self.assistants)
        wanted = "in falling order, each at least 1"
        require("warmup.assistants", list(self.assistants), falling and least, wanted)


@dataclass(frozen=True, kw_only=True)
class StoredOptions(DistillationOptions):
    """Keys of warm-ups whose teacher runs along, or left its outputs on disk.

    Args:
        teacher_outputs: `live` runs the teacher on every batch; `hidden` runs it once and reads its
            last hidden states from disk (see `teacher_cache.py`), which is exact.
    """

    teacher_outputs: str = irrelevant("live")

    outputs: ClassVar[tuple[str, ...]] = ("live", "hidden")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice("warmup.teacher_outputs", self.teacher_outputs, self.outputs)

    @property
    def stored(self) -> dict[str, Any] | None:
        """What of the teacher is kept on disk, for the key of its output; None: it runs along."""
        return None if self.teacher_outputs == "live" else {"kind": self.teacher_outputs}


@dataclass(frozen=True, kw_only=True)
class LogitsOptions(StoredOptions):
    """Keys of `warmup=logits`.

    Args:
        alpha: Weight of the divergence, in [0, 1].
        teacher_outputs: Also `top_k`: the likeliest tokens and the mass of all others, from disk;
            the divergence is then a lower bound (see `support.py`).
        top_k: Tokens that `top_k` stores of each distribution.
        stored_temperatures: Further temperatures that `top_k` stores the mass of the rest at, for
            warm-ups that share what is stored.
        top_k_from: What runs the teacher for `top_k`: `transformers`, or `vllm` (prompt
            log-probabilities, at temperature 1 only).
    """

    teacher_outputs: str = "live"
    alpha: float = 1.0
    top_k: int = 64
    stored_temperatures: tuple[float, ...] = irrelevant(())
    top_k_from: str = "transformers"

    outputs: ClassVar[tuple[str, ...]] = ("live", "top_k", "hidden")
    # `live` and `hidden` are both exact; with `top_k`, the keys of what is left out count.
    counted_elsewhere: ClassVar[tuple[str, ...]] = (
        *DistillationOptions.counted_elsewhere, "teacher_outputs",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        within("warmup", self, "[0, 1]", "alpha")
        at_least("warmup", self, 1, "top_k")
        given = list(self.stored_temperatures)
        positive = all(temperature > 0 for temperature in given)
        require("warmup.stored_temperatures", given, positive, "all above 0")
        require_choice("warmup.top_k_from", self.top_k_from, ENGINES)
        if self.top_k_from == "vllm" and {self.temperature, *given} != {1.0}:
            raise UserError(
                "warmup.top_k_from=vllm has the teacher's log-probabilities at temperature 1 only: "
                "set warmup.temperature=1 and no stored_temperatures, or take transformers."
            )

    @property
    def identity(self) -> dict[str, Any]:
        counted = {"warmup": "logits", "code": 1, **self.weighed}
        if self.teacher_outputs != "top_k":
            del counted["top_k"], counted["top_k_from"]
        return counted

    @property
    def stored(self) -> dict[str, Any] | None:
        if self.teacher_outputs != "top_k":
            return super().stored
        temperatures = sorted({self.temperature, *self.stored_temperatures})
        own = {"kind": "top_k", "k": self.top_k, "temperatures": temperatures}
        return {**own, "engine": "vllm"} if self.top_k_from == "vllm" else own


@dataclass(frozen=True, kw_only=True)
class OnPolicyOptions(LogitsOptions):
    """Keys of `warmup=on_policy`.

    Args:
        rounds: Times that the student answers, and learns from it for `epochs`.
        student_share: Share of the prompts whose response is the student's (GKD's lambda), in
            [0, 1]; the others' is the one of `learn_from`.
    """

    divergence: str = "reverse_kl"
    epochs: float = 1.0
    rounds: int = 4
    student_share: float = 1.0

    # A round is an output of its own, and the next one's student.
    counted_elsewhere: ClassVar[tuple[str, ...]] = (*LogitsOptions.counted_elsewhere, "rounds")

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("warmup", self, 1, "rounds")
        within("warmup", self, "[0, 1]", "student_share")

    @property
    def lessons(self) -> Lessons:
        # Without any of them the teacher's responses still are what is measured on.
        return Lessons(source=self.learn_from, responses_per_prompt=int(self.student_share < 1))


@dataclass(frozen=True, kw_only=True)
class CrossTokenizerOptions(DistillationOptions):
    """Keys of `warmup=cross_tokenizer`.

    Args:
        alpha: Weight of the divergence, in [0, 1]; 1 - alpha is the cross-entropy's.
    """

    alpha: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        within("warmup", self, "[0, 1]", "alpha")

    @property
    def identity(self) -> dict[str, Any]:
        return {"warmup": "cross_tokenizer", "code": 1, **self.weighed}


@dataclass(frozen=True, kw_only=True)
class HiddenOptions(StoredOptions):
    """Keys of `warmup=hidden`.

    Args:
        alpha: Weight of the divergence, >= 0.
        beta: Weight of the cross-entropy with the response, >= 0.
        gamma: Weight of the states, > 0.
        layers: `last` matches the last hidden states, `all` those after every layer of the student.
        attention: Also match what the attention of every layer returns.
        relational: Weight, beside the cosine, of how tokens of a response resemble each other.
    """

    temperature: float = 2.0
    alpha: float = 5.0
    beta: float = 2.0
    gamma: float = 1.0
    layers: str = "last"
    attention: bool = False
    relational: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("warmup", self, 0, "alpha", "beta", "relational")
        require("warmup.gamma", self.gamma, self.gamma > 0, "above 0 under warmup=hidden")
        require_choice("warmup.layers", self.layers, LAYERS)
        if self.teacher_outputs == "hidden" and (self.layers != "last" or self.attention):
            raise UserError(
                "warmup.teacher_outputs=hidden keeps the teacher's last hidden states only: set it "
                "to live, or match warmup.layers=last without warmup.attention."
            )

    @property
    def identity(self) -> dict[str, Any]:
        return {"warmup": "hidden", "code": 1, **self.weighed}
