"""The composed configuration as typed objects, checked before anything is computed."""

from __future__ import annotations

import re
from dataclasses import dataclass, is_dataclass, replace
from inspect import signature
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from rankdistill.errors import UserError, suggest
from rankdistill.evaluate.schema import QuickOptions, RankedOptions, VerifiedOptions
from rankdistill.fields import at_least, require_choice, within
from rankdistill.objectives.candidates import Objective
from rankdistill.objectives.checks import try_objective
from rankdistill.sample import NAMES, Sampler
from rankdistill.schema import (
    ClusterConfig,
    Precision,
    PromptsConfig,
    RankConfig,
    RetrievalConfig,
    RoundReference,
    SampleConfig,
    StudentConfig,
    TeacherConfig,
)
from rankdistill.score.ensemble import Ensemble
from rankdistill.score.scorer import Scorer
from rankdistill.stages.authors import check_authors, order_writers
from rankdistill.stages.moved import MOVED
from rankdistill.stages.targets import check_target
from rankdistill.stages.values import check_values, refuse_added
from rankdistill.suites.suite import Suite, shipped
from rankdistill.trackers import chosen_trackers
from rankdistill.train.schema import PPOTrainOptions, RewardOptions, TrainOptions
from rankdistill.warmup.warmup import Warmup

MOST_ROUNDS = 1000
NO_SUITE = (
    "no suite of `eval` applies, so there would be nothing to report: give eval=[quick] or "
    "another, or with a ranked set (rank.path) eval=[ranked]."
)


@dataclass(frozen=True)
class Settings:
    """One run. Groups that are plug-ins are built; `options` has their keys, for hashing."""

    prompts: PromptsConfig
    teacher: TeacherConfig
    student: StudentConfig
    sample: SampleConfig
    sampler: Sampler | None
    """One of the user's own; None: the one that `sample.sampler` names."""
    rank: RankConfig
    retrieval: RetrievalConfig | None
    """What is searched, where a re-ranker is trained."""
    cluster: ClusterConfig | None
    """Where rows are sampled and scored; None: by the processes of the run."""
    reward: RewardOptions
    train: TrainOptions
    quick: QuickOptions | None
    ranked: RankedOptions | None
    verified: VerifiedOptions | None
    suites: dict[str, Suite]
    """The others of `eval`, by name."""
    warmup: Warmup
    scorer: Scorer | Ensemble
    judge: Scorer | Ensemble | None
    """The held-out judge of the evaluation; None: the scorer."""
    objective: Objective
    options: dict[str, dict[str, Any]]
    base: str | None
    rounds: int
    round_reference: RoundReference
    seed: int
    report_to: list[str]

    @property
    def trains(self) -> bool:
        """Whether anything is trained at all; otherwise models are evaluated as they are."""
        return self.rounds > 0 or self.warmup.lessons is not None


def with_precision(settings: Settings, precision: str) -> Settings:
    """The settings with a machine's precision, bfloat16 or float32, in the place of `auto`.

    Before anything is hashed: an output is known by the precision that it was made in.
    """
    own = Precision[precision]
    teacher, student, vllm = settings.teacher, settings.student, settings.sample.vllm
    # vLLM calls the precision that a model was saved in `auto`.
    dtype = {"auto": precision, "stored": "auto"}.get(vllm.dtype, vllm.dtype)
    return replace(
        settings,
        teacher=replace(teacher, precision=own) if teacher.precision is Precision.auto else teacher,
        student=replace(student, precision=own) if student.precision is Precision.auto else student,
        sample=replace(settings.sample, vllm=replace(vllm, dtype=dtype)),
    )


def build(config: DictConfig) -> Settings:
    """Typed settings of a composed configuration.

    Raises:
        UserError: A plug-in refuses an argument, or a value is out of its range.
    """
    groups = set(Settings.__dataclass_fields__) - {"sampler"} | {
        "score",
        "eval",
        "name",
        "contrasts",
    }
    unknown = set(config) - groups
    if unknown:
        name = sorted(map(str, unknown))[0]
        raise UserError(f"there is no key '{name}': {suggest(name, map(str, config))}")
    if OmegaConf.is_missing(config, "eval"):
        raise UserError(NO_SUITE)
    check_values(config)
    for group in config:
        refuse_added(config[group], str(group))
    options: dict[str, Any] = {
        group: OmegaConf.to_container(config[group], resolve=True, enum_to_str=True)
        for group in ("warmup", "score", "objective")
    }
    typed: dict[str, Any] = {
        group: OmegaConf.to_object(config[group])
        for group in ("prompts", "teacher", "student", "sample", "rank", "reward", "train")
    }
    order_writers(options["score"], typed["sample"])
    settings = Settings(
        **typed,
        sampler=_sampler(typed["sample"].sampler),
        retrieval=_typed(config, "retrieval"),
        cluster=_typed(config, "cluster"),
        quick=_typed(config, "eval.quick"),
        ranked=_typed(config, "eval.ranked"),
        verified=_typed(config, "eval.verified"),
        suites=_suites(config),
        warmup=_plug_in("warmup", options["warmup"]),
        scorer=_scorer("score", options["score"]),
        judge=_judge(config),
        objective=_plug_in("objective", options["objective"]),
        options=options,
        base=config.base,
        rounds=config.rounds,
        round_reference=config.round_reference,
        seed=config.seed,
        report_to=chosen_trackers(config.report_to),
    )
    _check(settings)
    return settings


def _typed(config: DictConfig, path: str) -> Any:
    """The settings of a group that a run may do without, such as a suite; None where it does.

    A recipe may set keys of a suite that `eval` then leaves out: those have no schema.
    """
    node = OmegaConf.select(config, path)
    if node is None or not is_dataclass(OmegaConf.get_type(node)):
        return None
    return OmegaConf.to_object(node)


def _suites(config: DictConfig) -> dict[str, Suite]:
    """The suites that a class measures, by name.

    A recipe may set keys of a shipped one that `eval` then leaves out: those name no class.
    """
    nodes = {
        str(name): OmegaConf.to_container(node, resolve=True, enum_to_str=True)
        for name, node in config.eval.items()
        if name not in ("quick", "ranked", "verified", "judge") and node is not None
    }
    ours = shipped()
    nodes = {name: node for name, node in nodes.items() if "_target_" in node or name not in ours}
    return {name: _plug_in(f"eval.{name}", node) for name, node in nodes.items()}


def _sampler(sampler: Any) -> Sampler | None:
    """What `sample.sampler` holds where it is a class of the user's own.

    Raises:
        UserError: It is no sampler, or is called as one of the package, whose responses it has not.
    """
    if not isinstance(sampler, dict):
        require_choice("sample.sampler", sampler, NAMES)
        return None
    own = _plug_in("sample.sampler", sampler)
    if own.name in NAMES:
        raise UserError(f"the sampler {type(own).__name__} is called '{own.name}': rename it.")
    return own


def _judge(config: DictConfig) -> Any:
    node = OmegaConf.select(config, "eval.judge")
    if node is None:
        return None
    return _scorer("eval.judge", OmegaConf.to_container(node, resolve=True, enum_to_str=True))


def _scorer(group: str, options: Any) -> Any:
    """A scorer, or several of them."""
    scorer = _plug_in(group, options)
    for member in scorer.members.values() if isinstance(scorer, Ensemble) else [scorer]:
        if not isinstance(member, Scorer):
            raise UserError(
                f"{type(member).__name__}, which '{group}' names, is no scorer: let the class "
                "inherit from rankdistill.score.Scorer."
            )
    return scorer


def _plug_in(group: str, options: Any) -> Any:
    """What `_target_` names, with the other keys as its arguments. UserError: it is no plug-in of
    the group."""
    target = options.get("_target_")
    if not target:
        raise UserError(
            f"the option of '{group}' has no `_target_`: name the class that implements it."
        )
    if not isinstance(target, str):
        raise UserError(
            f"the `_target_` of '{group}' is {target}: name a class that implements it."
        )
    if target in MOVED:
        raise UserError(
            f"'{group}' names `{target}`, which is `{MOVED[target]}` now: write "
            "that, or have `python -m rankdistill.migrate FILE` rewrite the file."
        )
    check_target(group, options)
    try:
        return instantiate(options)
    except InstantiationException as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is not None:
            raise cause from None
        raise UserError(_refused(group, target, options, str(error))) from error


def _refused(group: str, target: str, options: dict[str, Any], text: str) -> str:
    unexpected = re.search(r"unexpected keyword argument '(\w+)'", text)
    if unexpected:
        from hydra.utils import get_class

        valid = list(signature(get_class(target)).parameters)
        return f"'{group}' ({target}) has no key '{unexpected[1]}': {suggest(unexpected[1], valid)}"
    # Hydra's first line says that the call failed, its second one why.
    said = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    why = " ".join(said[:2]) if said[0].endswith(":") else said[0]
    return f"'{group}' could not be built from `_target_: {target}`: {why}"


def _check(settings: Settings) -> None:
    try_objective(settings.objective)
    sample = settings.sample
    at_least("", settings, 0, "seed")
    _check_suites(settings)
    _check_demands(settings)
    _check_majority(settings)
    _check_rounds(settings)
    _check_retrieval(settings)
    _check_augment(settings)
    check_authors(settings)
    if settings.rank.path is None and sum(sample.counts_of_writers.values()) < 2:
        raise UserError(
            f"sample.responses_per_prompt is {sample.responses_per_prompt}; a ranking needs at "
            "least 2 responses of the student to each prompt."
        )
    if sample.temperature <= 0:
        raise UserError(
            f"sample.temperature is {sample.temperature}; it must be above 0, or all responses to "
            "a prompt are the same."
        )


def _check_augment(settings: Settings) -> None:
    augment = settings.prompts.augment
    if augment.requests and settings.rank.path is not None:
        raise UserError(
            "prompts.augment writes prompts that an existing ranked set (rank.path) has no "
            "responses to: set prompts.augment.requests=0, or rank.path=null."
        )


def _check_demands(settings: Settings) -> None:
    """Refuse a verifier of demands where no prompt has any, before anything is sampled."""
    scorers = [*settings.scorer.members.values()]
    scorers += [] if settings.judge is None else [*settings.judge.members.values()]
    if not any(scorer.checks_demands for scorer in scorers):
        return
    ranked_set, keep = settings.rank.path is not None, settings.prompts.keep
    ranked_only = ranked_set and (settings.reward.only or settings.quick is None)
    drawn = settings.prompts.instructions is not None and not ranked_set
    if drawn or ranked_only or "instruction_id_list" in keep:
        return
    where = "the ranked set (rank.path) has" if ranked_set else "the prompts have"
    remedy = "recipe=ranked_set" if ranked_set else "prompts=instructions"
    raise UserError(
        f"score.rule=ifeval checks the demands of prompts, and {where} none that are known: take "
        f"{remedy}, another score, or keep their columns by "
        "'prompts.keep=[instruction_id_list,kwargs]'."
    )


def _check_majority(settings: Settings) -> None:
    """Refuse a vote among answers that end with no number, before anything is sampled."""
    verified = settings.verified
    if verified is None or verified.majority is None:
        return
    judges = (settings.judge or settings.scorer).members.values()
    if not any(scorer.verifies and scorer.rule == "number" for scorer in judges):
        raise UserError(
            "eval.verified.majority counts the numbers that answers end with: set "
            "score=verifier score.rule=number, or eval.verified.majority=null."
        )


def _check_rounds(settings: Settings) -> None:
    within("", settings, f"[0, {MOST_ROUNDS}]", "rounds")
    if settings.rounds == 0 and settings.reward.only:
        raise UserError("rounds is 0, and reward.only leaves nothing to train: set rounds=1.")
    if settings.trains and settings.base is not None:
        raise UserError(
            "base is for recipe=evaluate, which trains nothing: a training run holds its student "
            "against what it was before."
        )
    if settings.rounds <= 1:
        return
    remedy = "set rounds=1"
    if isinstance(settings.train, PPOTrainOptions):
        name = "distillation" if settings.train.distils else "ppo"
        raise UserError(
            f"rounds is {settings.rounds}, but train={name} samples anew in every iteration: "
            f"{remedy}, and train.epochs as you like."
        )
    if settings.rank.path is not None or settings.reward.only:
        key = "reward.only" if settings.reward.only else "rank.path"
        raise UserError(
            f"rounds is {settings.rounds}, but {key} leaves nothing to repeat: {remedy}."
        )


def _check_retrieval(settings: Settings) -> None:
    retrieval = settings.retrieval
    if retrieval is None:
        return
    wrong = {
        "reward.only=true": not settings.reward.only,
        "warmup=none": settings.warmup.lessons is not None,
    }
    if any(wrong.values()):
        listed = ", ".join(remedy for remedy, needed in wrong.items() if needed)
        raise UserError(f"retrieval trains a re-ranker and nothing else: set {listed}.")


def _check_suites(settings: Settings) -> None:
    quick, ranked = settings.quick, settings.ranked
    if settings.verified is not None and quick is None and ranked is None and not settings.suites:
        raise UserError(
            "eval=[verified] reads the answers that quick has the models write: give "
            "eval=[quick,verified]."
        )
    applies = ranked is not None and settings.rank.path is not None and settings.trains
    if quick is None and not applies and not settings.suites:
        if ranked is not None and settings.rank.path is None:
            raise UserError(
                "eval=[ranked] asks for the order of a ranked set: give rank.path=FILE, whose rows "
                "have a prompt and its scored or ranked responses (or eval=[quick])."
            )
        raise UserError(NO_SUITE)
    if quick is not None and not settings.trains and settings.base is None:
        raise UserError(
            "rounds is 0, and warmup=none leaves nothing to train, so eval=[quick] has nothing to "
            "compare: set rounds=1, or with recipe=evaluate give base, the model that the student "
            "is held against."
        )
