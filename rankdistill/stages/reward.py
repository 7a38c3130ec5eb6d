"""The reward stage: a model learns the ranking as one number per response, and passes its gate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from rankdistill.console import result
from rankdistill.errors import UserError
from rankdistill.fields import identity_of
from rankdistill.forward import bind
from rankdistill.models import Rows, device, recoded, recoding, token_group, token_groups
from rankdistill.models.load import PRECISIONS
from rankdistill.models.model import model_of
from rankdistill.rows import Group
from rankdistill.stages.agreement import check_sampler
from rankdistill.stages.run import Model, Run
from rankdistill.statistics import mean_interval, paired_difference
from rankdistill.store import Output, Partial
from rankdistill.train.groups import load_groups, own_groups
from rankdistill.train.reward.gate import check_gate, gate_figures
from rankdistill.train.reward.model import Scale, load_reward_model, rewards, save_reward_model
from rankdistill.train.reward.trainer import RewardTrainer
from rankdistill.trainer.arguments import RankingConfig, optimised
from rankdistill.trainer.modes import enable_gradient_checkpointing
from rankdistill.trainer.progress import peak_memory
from rankdistill.trainer.shares import by_shares
from rankdistill.trainer.stopping import attended


@dataclass(frozen=True)
class Rewarding:
    """A reward model that has passed its gate."""

    model: Model
    gate: Mapping[str, Any]
    """`GateFigures.row()`."""
    history: list[dict[str, Any]]
    """The Trainer's log history."""

    def figures(
        self, min_accuracy: float, answers: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The block `reward_model` of `metrics.json`; `answers` are those of `reward_answers`."""
        return {"gate": self.gate, "min_accuracy": min_accuracy, "models": answers or {}}


def reward_model(run: Run, warm: Model, ranked: Output) -> Rewarding:
    """The reward model of a ranking.

    Raises:
        UserError: its held-out accuracy is below `reward.min_accuracy`.
    """
    run.close_sampler()
    settings = run.settings.reward
    backbone = backbone_of(run, warm)
    rows = Rows.of(ranked, warm).held().recoded(backbone)
    training = rows.of_splits("train").rows
    # A gate is a choice, and choices are made on validation; one that is only reported may use all.
    judging = ("validation", "heldout") if settings.only else ("validation",)
    held_out = rows.of_splits(*judging).rows
    if not training or not held_out:
        raise UserError(
            f"The ranking has {len(training)} groups to train a reward model on and "
            f"{len(held_out)} to judge it by: both need some (prompts.splits, prompts.limit)."
        )
    identity = {
        "code": 2,
        "backbone": backbone.identity,
        "judged_on": sorted({row["split"] for row in held_out}),
        "ranked": ranked.key,
        "reward": identity_of(settings, instead=("backbone",)),
        "layout": run.settings.train.layout.name,
        "precision": run.settings.student.precision.name,
        "seed": run.settings.seed,
        **recoding(warm, backbone),
    }

    def make(partial: Partial) -> Mapping[str, Any]:
        check_sampler(run, backbone)
        with peak_memory() as memory:
            figures = _train(run, backbone, training, held_out, partial)
        return {**figures, "models": 1, **memory}

    what = f"{settings.backbone.replace('_', '-')} learns {len(training)} ranked groups"
    output = run.stage("reward", what, identity, make, every_rank=True)
    gate = json.loads((output.path / "gate.json").read_text())
    accuracy, longer = gate["accuracy"], gate["longer_wins"]["mean"]
    between = (
        "" if accuracy["low"] is None else f" ({accuracy['low']:.1%} to {accuracy['high']:.1%})"
    )
    result(
        f"orders {accuracy['mean']:.1%}{between} of {gate['pairs']} held-out pairs; "
        f"'longer wins' {longer:.1%}"
    )
    check_gate(gate, settings.min_accuracy)
    history = json.loads((output.path / "history.json").read_text())
    return Rewarding(model_of(output, backbone.loading), gate, history)


class ModelReward:
    """The rewards of responses that a model's tokenizer wrote.

    Its backbone is frozen and in its precision; the head, a row of numbers, stays in float32.

    Args:
        model: The reward model.
        writer: The model whose tokenizer the token ids belong to.
        new_head: `model` is a backbone, which gets the head that its training begins with.
    """

    def __init__(self, run: Run, model: Model, writer: Model, *, new_head: bool = False) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.settings.seed)  # of a new head, as `_train` draws it
            loaded: Any = load_reward_model(model.path, **model.loading.options, new_head=new_head)
        for weight in loaded.base_model.parameters():  # and no rotation, which is exact in float32
            weight.data = weight.data.to(PRECISIONS[model.loading.precision])
        self._loaded = bind(loaded.to(device()), run.settings.train.layout.name)
        self._tokenizer = model.tokenizer()
        self._model, self._writer = model, writer
        self._same = reads(self._tokenizer, writer.tokenizer())
        self._max_batch_tokens = run.settings.reward.max_batch_tokens

    def __call__(self, groups: Sequence[Group]) -> list[list[float]]:
        """`[group][response]`: mean 0 and standard deviation 1 on the model's own scale."""
        rows = groups if self._same else recoded(groups, self._writer, self._model)
        tokens = [token_group(row, self._tokenizer) for row in rows]
        return rewards(self._loaded, tokens, self._max_batch_tokens)


def read_in(model: Model) -> dict[str, Any]:
    """What the identity of an output of `ModelReward` says of its precision."""
    precision = model.loading.precision
    return {} if precision == "float32" else {"rewards_in": precision}


def reads(reader: Any, writer: Any) -> bool:
    """Whether every token of one tokenizer has the same id in the other, which may have more."""
    known = reader.get_vocab()
    return all(known.get(token) == i for token, i in writer.get_vocab().items())


def reward_answers(
    run: Run,
    rewarding: Rewarding,
    groups: Mapping[str, Sequence[Group]],
    writers: Mapping[str, Model],
    baseline: str,
) -> dict[str, Any]:
    """What the reward model says of every model's answers to the held-out prompts.

    Args:
        groups: By the name of the model.
        writers: By the name of the model, the one whose tokenizer its token ids belong to.
        baseline: Name of the model that differences are taken to.

    Returns:
        By the name of the model: `reward` and `difference` (None for the baseline), intervals over
        prompts.
    """
    texts = {
        name: [[g["prompt_id"], [r["token_ids"] for r in g["responses"]]] for g in rows]
        for name, rows in groups.items()
    }
    content = hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()
    identity = {"code": 1, "reward_model": rewarding.model.identity, "answers": content}
    identity |= read_in(rewarding.model)
    for writer in writers.values():
        identity |= recoding(writer, rewarding.model)

    def make(partial: Partial) -> Mapping[str, Any]:
        rows = []
        for name, answers in groups.items():
            values = ModelReward(run, rewarding.model, writers[name])(answers)
            for group, of_group in zip(answers, values, strict=True):
                mean = sum(of_group) / len(of_group)
                rows.append({"model": name, "prompt_id": group["prompt_id"], "reward": mean})
        partial.shards().put(rows)
        return {"prompts": len(next(iter(groups.values())))}

    output = run.stage("reward", f"held-out answers of {len(groups)} models", identity, make)
    by_model: dict[str, dict[str, float]] = {name: {} for name in groups}
    for row in output.rows():
        by_model[row["model"]][row["prompt_id"]] = row["reward"]
    return {
        name: {
            "reward": asdict(mean_interval(list(values.values()), seed=run.settings.seed)),
            "difference": _difference(values, by_model[baseline], run.settings.seed)
            if name != baseline
            else None,
        }
        for name, values in by_model.items()
    }


def _difference(values: Mapping[str, float], base: Mapping[str, float], seed: int) -> Any:
    shared = sorted(values.keys() & base.keys())
    ours, theirs = [values[key] for key in shared], [base[key] for key in shared]
    return asdict(paired_difference(ours, theirs, seed=seed)) if shared else None


def backbone_of(run: Run, warm: Model) -> Model:
    """What `reward.backbone` names."""
    name = run.settings.reward.backbone
    if name == "warmed_up":
        return warm
    if name == "teacher":
        return run.teacher
    return Model.named(name, warm.loading)


def _train(
    run: Run,
    backbone: Model,
    training: Sequence[Any],
    held_out: Sequence[Any],
    partial: Partial,
) -> Mapping[str, Any]:
    settings = run.settings.reward
    tokenizer = backbone.tokenizer()
    torch.manual_seed(run.settings.seed)
    model = load_reward_model(backbone.path, **backbone.loading.options, new_head=True)
    enable_gradient_checkpointing(model, settings.gradient_checkpointing)
    trainer = RewardTrainer(
        model,
        _arguments(run, str(partial.scratch / "checkpoints")),
        own_groups(training, tokenizer),
        tokenizer,
        settings,
    )
    with attended(trainer):
        trainer.train(resume_from_checkpoint=True)
    figures: dict[str, Any] = {"groups": len(training), "steps": trainer.state.global_step}
    model = trainer.accelerator.unwrap_model(trainer.model)
    scale = Scale.of(_logits(model, _of_the_student(training), tokenizer, settings))
    gate = _gate(run, model, held_out, tokenizer)
    if trainer.is_world_process_zero():
        save_reward_model(model, tokenizer, scale, partial.path / "model")
        (partial.path / "gate.json").write_text(json.dumps(gate))
        (partial.path / "history.json").write_text(json.dumps(trainer.state.log_history))
        figures |= {"held_out_pairs": gate["pairs"], "accuracy": gate["accuracy"]["mean"]}
    trainer.accelerator.wait_for_everyone()
    return {**figures, **trainer.memory_figures}


def _of_the_student(rows: Sequence[Any]) -> list[Any]:
    """The groups with the student's responses only; all of them where a set has none."""
    own = [
        {**row, "responses": [r for r in row["responses"] if r["source"] == "student"]}
        for row in rows
    ]
    return [row for row in own if row["responses"]] or list(rows)


def _logits(model: Any, rows: Sequence[Any], tokenizer: Any, settings: Any) -> list[float]:
    tokens = token_groups(rows, tokenizer)
    values = by_shares(tokens, lambda mine: rewards(model, mine, settings.max_batch_tokens))
    return [x for row in values for x in row]


def _gate(run: Run, model: Any, rows: Sequence[Any], tokenizer: Any) -> dict[str, Any]:
    # As in training; the token after a response takes a position, see `with_next_token`.
    limit = getattr(model.config, "max_position_embeddings", None)
    groups = load_groups(own_groups(rows, tokenizer), tokenizer, limit and limit - 1)
    most = run.settings.reward.max_batch_tokens
    values = by_shares([g.tokens for g in groups], lambda mine: rewards(model, mine, most))
    lengths = [[len(response) for response in g.tokens.responses] for g in groups]
    return gate_figures(values, [g.ranks for g in groups], lengths, seed=run.settings.seed).row()


def _arguments(run: Run, checkpoints: str) -> RankingConfig:
    settings = run.settings.reward
    return RankingConfig(
        checkpoints,
        layout=run.settings.train.layout.name,
        max_batch_tokens=settings.max_batch_tokens,
        prompts_per_step=settings.prompts_per_step,
        learning_rate=settings.learning_rate,
        seed=run.settings.seed,
        report_to=run.settings.report_to,
        **optimised(settings, run.settings.student.precision.name),
    )
