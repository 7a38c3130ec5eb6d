"""How many prompts, responses and tokens a run goes through: read off a file, known, or assumed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rankdistill.errors import UserError
from rankdistill.fields import Amount
from rankdistill.plan.config import PlanConfig
from rankdistill.plan.shapes import known_data
from rankdistill.prompts.formats import conversation
from rankdistill.prompts.odd_rows import OddRow
from rankdistill.prompts.sources import OWN, read_rows
from rankdistill.rank.formats import ranked_row, with_answers
from rankdistill.rank.preferences import columns_of
from rankdistill.stages.settings import Settings

CHARACTERS = 4
"""Of a token of English text."""
DEMAND = 12
"""Tokens of a demand that is put behind a prompt."""
ANSWERED = 0.65
"""Of `sample.max_response_tokens`, what answers to demands take: the bundled model's 42 of 64."""
TEMPLATE = 30
"""Tokens that a chat template adds to a prompt."""


@dataclass(frozen=True)
class Counts:
    """Prompts by split, and tokens."""

    train: int
    validation: int
    heldout: int
    prompt: float
    """Mean tokens of a prompt."""
    response: float
    """Mean tokens of a response."""
    longest_prompt: int
    longest_response: int
    responses: int
    """Per prompt, in a ranked group before `rank.select`."""
    conversations: int
    """That the warm-up learns."""

    @property
    def group(self) -> float:
        """Mean tokens of a prompt with one response."""
        return self.prompt + self.response


@dataclass(frozen=True)
class _Source:
    """What is known of the rows that a run starts from."""

    rows: int
    prompt: float | None
    response: float | None
    responses: int | None


def count(settings: Settings, plan: PlanConfig) -> Counts:
    """What a run goes through.

    Raises:
        UserError: a data set of which nothing is known.
    """
    prompts, rank, sample = settings.prompts, settings.rank, settings.sample
    source = _source(settings, plan)
    shares, limits = prompts.splits, prompts.limit
    split = {}
    for name in ("train", "validation", "heldout"):
        most = getattr(limits, name)
        drawn = round(source.rows * getattr(shares, name))
        split[name] = drawn if most is None else min(drawn, most)
    sampled = rank.path is None
    demanded, taken = 0.0, 1.0
    if (instructions := prompts.instructions) is not None and sampled:
        each = instructions.demands_per_prompt
        demanded, taken = DEMAND * sum(each) / max(1, len(each)), ANSWERED
        split["train"] *= 1 + instructions.both_sides
        split["heldout"] = round(split["heldout"] * (1 + instructions.kept_out_share))
    longest = sample.max_response_tokens if sampled else rank.max_response_tokens
    if longest is None:
        longest = round(source.response or sample.max_response_tokens)
    half = prompts.max_prompt_tokens / 2
    found = source.prompt if source.prompt is not None else half
    prompt = plan.prompt_tokens if plan.prompt_tokens is not None else found + demanded
    most = taken * longest
    wanted = most if sampled or source.response is None else min(longest, source.response)
    return Counts(
        **split,
        prompt=min(prompt, prompts.max_prompt_tokens),
        response=plan.response_tokens or wanted,
        longest_prompt=prompts.max_prompt_tokens,
        longest_response=longest,
        responses=_responses(settings, plan, source),
        conversations=_conversations(settings, plan),
    )


def _responses(settings: Settings, plan: PlanConfig, source: _Source) -> int:
    sample, rank = settings.sample, settings.rank
    if rank.path is None:
        more = sample.teacher_response + sample.teacher_revision
        sides = settings.prompts.instructions
        opposite = sample.from_cluster and sides is not None and sides.both_sides
        return sum(sample.counts_of_writers.values()) * (1 + opposite) + more
    given = plan.responses or source.responses or rank.responses_per_prompt or 2
    return min(given, rank.responses_per_prompt or given)


def _source(settings: Settings, plan: PlanConfig) -> _Source:
    sets = settings.rank.sets or settings.prompts.sets
    if plan.prompts is not None:
        return _Source(plan.prompts, None, None, _known(next(iter(sets))).get("responses"))
    train = settings.prompts.splits.train
    parts = [_taken(_of_set(settings, path), amount, train) for path, amount in sets.items()]
    return _joined(parts) if len(parts) > 1 else parts[0]


def _taken(source: _Source, amount: Amount, train: float) -> _Source:
    """What a mixture takes of a set: a share, or so many rows of the train split."""
    if amount is None:
        return source
    if isinstance(amount, int):
        return replace(source, rows=min(source.rows, round(amount / train) if train else 0))
    return replace(source, rows=round(source.rows * amount))


def _joined(parts: Sequence[_Source]) -> _Source:
    """Several sets as one: means over their rows, where all are known."""
    rows = sum(part.rows for part in parts)

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        if len(known) < len(parts) or not rows:
            return None
        return sum(v * part.rows for v, part in zip(known, parts, strict=True)) / rows

    responses = mean([part.responses for part in parts])
    return _Source(
        rows,
        mean([part.prompt for part in parts]),
        mean([part.response for part in parts]),
        None if responses is None else round(responses),
    )


def _of_set(settings: Settings, path: str) -> _Source:
    known, ranked = _known(path), settings.rank.path is not None
    if known:
        return _Source(known["rows"], None, None, known.get("responses"))
    key = "rank.path" if ranked else "prompts.path"
    if path not in OWN and not Path(path).expanduser().is_file():
        raise UserError(
            f"The number of rows of {key} '{path}' is not known before it is read: give it as "
            "plan.prompts=N."
        )
    return _measured(settings, path, ranked)


def _measured(settings: Settings, path: str, ranked: bool) -> _Source:
    """Rows and characters of a file."""
    rows = prompt = written = answers = 0
    column, rank = settings.prompts.column, settings.rank
    pair = columns_of(rank.columns)
    for where, row in with_answers(read_rows(path)) if ranked else read_rows(path):
        try:
            if ranked:
                messages, given = ranked_row(
                    row, where, column=column, score=rank.score_column, columns=pair
                )
                answers += len(given)
                written += sum(len(response["text"]) for response in given)
            else:
                messages = conversation(row, where, column)
        except OddRow:  # which the run counts and leaves out
            continue
        prompt += sum(len(message["content"]) for message in messages)
        rows += 1
    if not rows:
        raise UserError(f"'{path}' is empty: write one prompt per line, or give plan.prompts=N.")
    mean = written / answers / CHARACTERS if answers else None
    return _Source(rows, prompt / rows / CHARACTERS + TEMPLATE, mean, round(answers / rows) or None)


def _conversations(settings: Settings, plan: PlanConfig) -> int:
    own = settings.warmup.own_conversations
    if own is None:
        return 0
    path, most = own.path, own.train
    rows = plan.conversations or _known(path).get("rows")
    if rows is None and Path(path).expanduser().is_file():
        rows = sum(1 for _ in read_rows(path))
    if rows is None and most is None:
        raise UserError(
            f"The number of rows of warmup.conversations '{path}' is not known before it is read: "
            "give it as plan.conversations=N."
        )
    return min(number for number in (rows, most) if number is not None)


def _known(path: str) -> Mapping[str, int]:
    return known_data().get(path, {})
