"""The run folder: what a person takes away from a run. The store keeps the stages' outputs.

report.html  report.md  metrics.json  config.yaml  answers.jsonl  demands.parquet  ranked/  model/
reward_model/
.written.json: which files of these folders are ours, see `rankdistill.written`.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rankdistill.console import console, is_main_process, say
from rankdistill.evaluate.report import RunReport, print_tables, write_report
from rankdistill.evaluate.stage import Comparison, evaluation_judge, judged_by_own_teacher
from rankdistill.rank.stage import diagnostics
from rankdistill.run import Model, Run
from rankdistill.score.ensemble import members
from rankdistill.settings import Settings
from rankdistill.store import Output
from rankdistill.store.manifest import versions
from rankdistill.train.reward.stage import Rewarding
from rankdistill.train.rounds import method
from rankdistill.written import replace_folder


def write_run_folder(
    run: Run,
    config: DictConfig,
    comparison: Comparison,
    ranked: Output | None,
    trained: Model,
    warmup_history: Sequence[Mapping[str, Any]],
    history: Sequence[Mapping[str, Any]],
    rewarding: Rewarding | None = None,
) -> None:
    """Write the run folder, and print the table and the paths that matter. Rank 0 only."""
    if not is_main_process():
        return
    ranking = diagnostics(ranked) if ranked is not None else None
    report = _report(run, config, comparison, ranking, warmup_history, history, rewarding)
    folders = {"model": Path(trained.path)}
    if ranked is not None:
        folders["ranked"] = ranked.path / "ranked"
    if rewarding is not None:
        folders["reward_model"] = Path(rewarding.model.path)
    _write(run, report, folders)


def write_reward_folder(
    run: Run,
    config: DictConfig,
    ranked: Output,
    rewarding: Rewarding,
    warmup_history: Sequence[Mapping[str, Any]],
    comparison: Comparison | None = None,
) -> None:
    """The same for a run that ends with its reward model."""
    if not is_main_process():
        return
    report = _report(
        run, config, comparison or Comparison([], {}), diagnostics(ranked), warmup_history,
        rewarding.history, rewarding,
    )  # fmt: skip
    folders = {"reward_model": Path(rewarding.model.path), "ranked": ranked.path / "ranked"}
    _write(run, report, folders)


def write_evaluation_folder(run: Run, config: DictConfig, comparison: Comparison) -> None:
    """The same for a run that trains nothing: the report alone."""
    if is_main_process():
        _write(run, _report(run, config, comparison, None, [], [], None), {})


def _write(run: Run, report: RunReport, folders: Mapping[str, Path]) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    for name, source in folders.items():
        _replace(source, run.folder / name)
    metrics = write_report(report, run.folder)
    console.print()
    print_tables(metrics, console)
    shown = _shown(run.folder)
    say(f"\n[bold]report[/]  {shown}/report.html")
    for name in folders:
        say(f"[bold]{name.replace('_', ' '):<7}[/] {shown}/{name}")


def _report(
    run: Run,
    config: DictConfig,
    comparison: Comparison,
    ranking: Mapping[str, Any] | None,
    warmup_history: Sequence[Mapping[str, Any]],
    history: Sequence[Mapping[str, Any]],
    rewarding: Rewarding | None,
) -> RunReport:
    settings = run.settings
    student = settings.student.path or settings.teacher.path
    layers = f", {settings.student.keep_layers} layers" if settings.student.keep_layers else ""
    by = f"ranked by {settings.teacher.path}" if settings.rank.path is None else settings.rank.path
    title = f"{method(settings)}: {student}{layers}, {by}"
    if not settings.trains:
        title = f"{', '.join(settings.suites) or 'quick'}: {student}{layers}"
    return RunReport(
        title=title,
        recipe=HydraConfig.get().runtime.choices.get("recipe") or "none",
        command=shlex.join(["python", "-m", "rankdistill", *sys.argv[1:]]),
        config_yaml=OmegaConf.to_yaml(config, resolve=True),
        models=comparison.models,
        groups=comparison.groups,
        ranked_set=comparison.ranked_set,
        verified=comparison.verified,
        suites=comparison.suites,
        judge=_judge(settings),
        judged_by_training_teacher=judged_by_own_teacher(settings),
        ranking=ranking,
        reward_model=rewarding.figures(settings.reward.min_accuracy) if rewarding else None,
        stages=run.records,
        learning_rates=run.learning_rates,
        training_history=history,
        warmup_history=warmup_history,
        versions=versions(),
        start="start" if "start" in comparison.names else "warmed_up",
        control="sharpened" if settings.quick and settings.quick.sharpening_control else None,
        tie_margin=settings.rank.tie_margin,
        seed=settings.seed,
        date=datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def _judge(settings: Settings) -> str:
    """What the scores of the evaluation are: ``likelihood under <teacher>``."""
    told = []
    for name, scorer in members(evaluation_judge(settings)).items():
        about = scorer.about(settings.teacher.path)
        told.append(name + about.removeprefix(scorer.name))
    return " and ".join(told)


def _replace(source: Path, to: Path) -> None:
    """`to` becomes a copy of `source`; what was there and is not ours stays, or is moved aside."""
    aside = replace_folder(source, to)
    if aside is not None:
        say(f"{_shown(to)} is not as a run wrote it, so it is kept as {_shown(aside)}")


def _shown(folder: Path) -> str:
    """The folder as short as it can be said from the working directory."""
    relative = os.path.relpath(folder)
    return relative if not relative.startswith("..") else str(folder)
