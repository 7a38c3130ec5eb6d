"""The prompts stage: read, measured and split once; with prompts that the teacher writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rankdistill.fields import Amount
from rankdistill.models import Rows, encode_prompt
from rankdistill.prompts import load_prompts, prompt_id, source_identity
from rankdistill.prompts.augment import REASONS, Filter, requests, written
from rankdistill.prompts.demands import demands_digest
from rankdistill.prompts.instructions import InstructionOptions, with_demands
from rankdistill.prompts.similarity import SUITES, Evaluated, evaluated_identity
from rankdistill.prompts.sources import OWN, check_source, hub_identity
from rankdistill.prompts.splits import SPLITS, require_splits
from rankdistill.rows import Group, Message, Prompt
from rankdistill.schema import AugmentConfig, PromptsConfig
from rankdistill.stages.run import Run
from rankdistill.stages.sample import sample
from rankdistill.stages.settings import Settings
from rankdistill.store import Output, Partial
from rankdistill.thoughts import answer_of, thinks


def augmented(run: Run, prompts: Rows) -> Rows:
    """The prompts with further train prompts that the teacher wrote, and how many were dropped."""
    settings, prompts = run.settings.prompts, prompts.held()
    rows = prompts.rows
    augment = settings.augment
    seeds = prompts.of_splits("train").rows
    if not seeds:
        return prompts
    wanted = requests(seeds, augment.requests, augment.evolved, run.settings.seed)
    asking = [
        {"prompt_id": f"{request.kind}-{i}", "split": "train", "messages": request.messages}
        for i, request in enumerate(wanted)
    ]
    key = {"prompts": prompts.key, "requests": asdict(augment), "code": 1}
    most = settings.max_prompt_tokens
    answered = sample(
        run, run.writing_teacher, Rows(asking, key), "teacher", 1, max_response_tokens=most
    )
    identity = {
        "code": 1,
        "prompts": prompts.key,
        "answers": answered.key,
        "augment": asdict(augment),
        "max_prompt_tokens": most,
        "tokenizer": run.start.tokenizer_identity,
        **({"thoughts": "left out"} if thinks(answered) else {}),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        tokenizer = run.start.tokenizer()

        def fits(prompt: Prompt) -> bool:
            return len(encode_prompt(tokenizer, prompt["messages"])) <= most

        more, counts = new_prompts(rows, answered.rows, augment, fits)
        partial.shards().put([*rows, *more])
        splits = ("train", "validation", "heldout")
        held = {s: sum(r["split"] == s for r in [*rows, *more]) for s in splits}
        return {"asked": len(asking), "kept": len(more), **counts, **held}

    what = f"{len(asking)} more by the teacher, from {len(seeds)}"
    return Rows.of(run.stage("prompts", what, identity, make))


def new_prompts(
    rows: Sequence[Any], answers: Sequence[Any], augment: AugmentConfig, fits: Any
) -> tuple[list[Prompt], dict[str, int]]:
    """The new prompts in the order of the answers, and how many were dropped by reason.

    Args:
        rows: Prompts of all splits.
        answers: Groups of one response, whose ids are ``kind-number``.
        augment: Of the settings.
        fits: Prompt -> whether it is short enough for the student.
    """
    counts: dict[str, int] = dict.fromkeys(REASONS, 0)
    deciding = Filter(
        rows,
        rouge_l=augment.rouge_l,
        least_words=augment.least_words,
        most_words=augment.most_words,
    )
    kept: list[Prompt] = []
    for answer in answers:
        text = written(answer_of(answer["responses"][0]["text"]))
        messages = [Message(role="user", content=text)]
        prompt = Prompt(prompt_id=prompt_id(messages), split="train", messages=messages)
        prompt["origin"] = answer["prompt_id"].partition("-")[0]
        if _unfinished(answer, text):
            reason = "cut"
        else:
            reason = deciding.refuses(text) if fits(prompt) else "too_long"
        if reason is None:
            kept.append(prompt)
        else:
            counts[reason] += 1
    return kept, counts


def _unfinished(answer: Group, text: str) -> bool:
    """Whether the response was cut inside the new prompt."""
    response = answer["responses"][0]
    return response["finish_reason"] == "length" and response["text"].rstrip(' "”').endswith(text)


def check_prompts(settings: Settings) -> None:
    """Refuse prompts that are not there or empty before a model is fetched or converted."""
    if settings.rank.path is None:
        for path in settings.prompts.sets:
            check_source(path)
    for path in settings.rank.sets:
        if not Path(path).expanduser().is_dir():
            check_source(path, "ranked set", ())
    for name in settings.prompts.decontaminate.against:
        _check_evaluation(name)
    own = settings.warmup.own_conversations
    if own is not None and settings.warmup.lessons is not None:
        check_source(own.path, "file of conversations", ())


def _check_evaluation(name: str) -> None:
    if name not in SUITES:
        check_source(name, "file of an evaluation", SUITES)
        return
    remedy = (
        f"give a file of its rows in the place of '{name}' in prompts.decontaminate.against, or "
        "run once with a connection."
    )
    hub_identity(SUITES[name], remedy=remedy)


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


def read_set(
    run: Run,
    stage: str,
    what: str,
    identity: Mapping[str, Any],
    make: Callable[[Partial], Mapping[str, Any]],
) -> Output:
    """The output of a set that was read; anew where an earlier version left out rows with tools."""
    output = run.stage(stage, what, identity, make)
    if output.manifest["counts"].get("tool_calls"):
        output = run.stage(stage, what, {**identity, "tools": 1}, make)
    return output


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

    identity = _identity(settings, run.start.tokenizer_identity, demanding)
    prompts = Rows.of(read_set(run, "prompts", settings.named, identity, make))
    if settings.augment.requests:
        prompts = augmented(run, prompts)
    trained = () if run.settings.rank.path else ("train",)
    require_splits(prompts.counts, f"prompts.path '{settings.named}'", *trained, "heldout")
    return prompts


def _identity(
    settings: PromptsConfig, tokenizer: Mapping[str, str], demanding: InstructionOptions | None
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
        **({} if all(path in OWN for path in settings.sets) else {"reader": 4}),
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
