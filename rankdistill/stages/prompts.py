"""The prompts stage: read, measured and split once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.fields import Amount
from rankdistill.models import Rows, encode_prompt
from rankdistill.prompts import load_prompts, source_identity
from rankdistill.prompts.contamination import SUITES, Evaluated, evaluated_identity
from rankdistill.prompts.demands import demands_digest
from rankdistill.prompts.instructions import InstructionOptions, with_demands
from rankdistill.prompts.sources import SHIPPED, check_source
from rankdistill.prompts.splits import SPLITS
from rankdistill.rows import Prompt
from rankdistill.schema import PromptsConfig
from rankdistill.stages.augment import augmented
from rankdistill.stages.run import Run
from rankdistill.stages.settings import Settings
from rankdistill.store import Partial


def check_prompts(settings: Settings) -> None:
    """Refuse prompts that are not there or empty before a model is fetched or converted."""
    if settings.rank.path is None:
        for path in settings.prompts.sets:
            check_source(path)
    for path in settings.rank.sets:
        if not Path(path).expanduser().is_dir():
            check_source(path, "ranked set")
    for name in settings.prompts.decontaminate.against:
        check_source(SUITES.get(name, name), "file of an evaluation")
    own = settings.warmup.own_conversations
    if own is not None and settings.warmup.lessons is not None:
        check_source(own.path, "file of conversations")


def mixture_identity(
    sets: Mapping[str, Amount], identity: Callable[[str], Mapping[str, Any]]
) -> Any:
    """What determines the rows of one set, or of several with how much is taken of each.

    Args:
        identity: Of a set by its path.
    """
    [(first, amount), *others] = sets.items()
    if amount is None and not others:
        return identity(first)
    return [[identity(name), amount, name] for name, amount in sets.items()]


def contamination_identity(settings: PromptsConfig) -> dict[str, Any]:
    """What keeping evaluations out of training adds to an identity; nothing where it is not."""
    what = settings.decontaminate
    if not what.against:
        return {}
    return {"decontaminate": evaluated_identity(what.against, what.ngram)}


def evaluated_by(settings: PromptsConfig) -> Evaluated | None:
    """What the evaluations that are kept out of training ask; None where there are none."""
    what = settings.decontaminate
    return Evaluated(what.against, what.ngram) if what.against else None


def load(run: Run) -> Rows:
    """The prompts of all splits.

    Raises:
        UserError: No prompt to train on, where responses are to be sampled, or none to report on.
    """
    settings = run.settings.prompts
    demanding = None
    if settings.instructions is not None:
        demanding = InstructionOptions(**asdict(settings.instructions))

    def make(partial: Partial) -> Mapping[str, Any]:
        rows, counts = _read(settings, run.start.tokenizer(), demanding)
        partial.shards().put(rows)
        return counts

    identity = _identity(settings, dict(run.start.identity), demanding)
    prompts = Rows.of(run.stage("prompts", settings.named, identity, make))
    if settings.augment.requests:
        prompts = augmented(run, prompts)
    needed = ["heldout"] if run.settings.rank.path else ["train", "heldout"]
    for split in needed:
        if not prompts.counts.get(split):
            raise UserError(
                f"prompts.path '{settings.named}' leaves no prompt for the {split} split: give "
                f"more prompts, or a larger prompts.splits.{split}."
            )
    return prompts


def _identity(
    settings: PromptsConfig, tokenizer: dict[str, Any], demanding: InstructionOptions | None
) -> dict[str, Any]:
    """What the prompts depend on; `tokenizer` is what measures them."""
    identity = {
        "code": 2,
        "source": mixture_identity(settings.sets, source_identity),
        "column": settings.column,
        "response_column": settings.response_column,
        "max_prompt_tokens": settings.max_prompt_tokens,
        "splits": asdict(settings.splits),
        "limit": asdict(settings.limit),
        "tokenizer": tokenizer,
        # What is read of a row of somebody else's; the shipped sets have always been read alike.
        **({} if all(path in SHIPPED for path in settings.sets) else {"reader": 4}),
        **contamination_identity(settings),
        **({"split_column": settings.split_column} if settings.split_column != "split" else {}),
        **({"keep": list(settings.keep)} if settings.keep else {}),
        **({"split_by": settings.split_by} if settings.split_by else {}),
    }
    if demanding is not None:
        drawn = {**asdict(demanding), "demands": demands_digest()}
        identity["instructions"] = {"code": 1, **drawn}
    return identity


def _read(
    settings: PromptsConfig, tokenizer: Any, demanding: InstructionOptions | None
) -> tuple[list[Prompt], dict[str, int]]:
    """The prompts, with the demands that are drawn for them, and counts as of `load_prompts`."""
    rows, counts = load_prompts(
        settings.sets,
        tokenizer,
        max_prompt_tokens=settings.max_prompt_tokens,
        splits=asdict(settings.splits),
        limit=asdict(settings.limit),
        seed=0,
        column=settings.column,
        response_column=settings.response_column,
        keep=settings.keep,
        split_by=settings.split_by,
        split_column=settings.split_column,
        strict=settings.strict,
        evaluated=evaluated_by(settings),
    )
    if demanding is not None:
        made = with_demands(rows, demanding)
        most = settings.max_prompt_tokens
        rows = [p for p in made if len(encode_prompt(tokenizer, p["messages"])) <= most]
        counts["too_long"] += len(made) - len(rows)
        counts |= {name: sum(p["split"] == name for p in rows) for name in SPLITS}
    return rows, counts
