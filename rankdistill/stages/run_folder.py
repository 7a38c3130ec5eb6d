"""The run folder: what a person takes away from a run. The store keeps the stages' outputs.

report.html  report.md  metrics.json  config.yaml  answers.jsonl  demands.parquet  ranked/  model/
reward_model/
.written.json: which of these are ours, see `rankdistill.store.written`. .run.lock: held by a run.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from rankdistill import __version__
from rankdistill.console import console, finish, is_main_process, log, say
from rankdistill.report import RunReport, print_summary, shown, write_report
from rankdistill.score.ensemble import Ensemble
from rankdistill.score.scorer import Scorer
from rankdistill.stages.comparison import evaluation_judge, judged_by_own_teacher
from rankdistill.stages.rounds import distils, learns_unranked, method
from rankdistill.stages.run import Run
from rankdistill.store.manifest import versions


def begin_report(run: Run, config: DictConfig) -> RunReport:
    """The report before anything is measured: what the settings and the command line say."""
    settings = run.settings
    student = settings.student.path or settings.teacher.path
    layers = f", {settings.student.keep_layers} layers" if settings.student.keep_layers else ""
    existing = settings.rank.named
    scored_by = _about(settings.scorer, settings.teacher.path)
    ranked_by = None if existing or learns_unranked(settings) else scored_by
    by = existing or f"ranked by {scored_by}"
    if learns_unranked(settings):
        by = f"rewarded by {scored_by}"
    if distils(settings):
        by = f"taught by {settings.teacher.path}"
    title = f"{method(settings)}: {student}{layers}, {by}"
    if not settings.trains:
        title = f"{', '.join(settings.suites) or 'quick'}: {student}{layers}"
    return RunReport(
        title=title,
        recipe=HydraConfig.get().runtime.choices.get("recipe") or "none",
        command=shlex.join(["python", "-m", "rankdistill", *sys.argv[1:]]),
        overrides=list(HydraConfig.get().overrides.task),
        config_yaml=OmegaConf.to_yaml(config, resolve=True),
        judge=_about(evaluation_judge(settings), settings.teacher.path),
        ranked_by=ranked_by,
        judged_by_training_teacher=judged_by_own_teacher(settings),
        versions=versions(),
        control="sharpened" if settings.quick and settings.quick.sharpening_control else None,
        tie_margin=settings.rank.tie_margin,
        seed=settings.seed,
    )


def begin_run(run: Run, report: RunReport, planned: str) -> None:
    """The first lines: what runs, where its report will be, and how long that may take.

    Args:
        planned: The last of these; empty where it is not known.
    """
    folder = shown(run.folder)
    file = f"log {folder}/{HydraConfig.get().job.name}.log"
    say(f"[bold]rankdistill {__version__}[/]  recipe={report.recipe}  into {escape(folder)}")
    for line in filter(None, (planned, file)):
        say(f"[dim]{escape(line)}[/]")


def write_run_folder(run: Run, report: RunReport, folders: Mapping[str, Path]) -> None:
    """Write the run folder, and print the tables and the paths that matter. Rank 0 only.

    Args:
        report: Filled by the run; only its stages, its date and its first student are set here.
        folders: What is copied beside the report, by its name there: `model`, `ranked`.
    """
    if not is_main_process():
        return
    report.stages = run.records
    report.start = "start" if "start" in report.measured else "warmed_up"
    report.date = datetime.now().astimezone().isoformat(timespec="seconds")
    metrics = write_report(report, run.folder, folders)
    finish()
    console.print()
    for line in print_summary(metrics, console).splitlines():
        log(line)
    console.print()
    for what, where in _ending(run, report, folders).items():
        say(f"[bold]{what:<8}[/]{escape(where)}")


def _ending(run: Run, report: RunReport, folders: Mapping[str, Path]) -> dict[str, str]:
    """Where to read, and what to type next."""
    folder = shown(run.folder)
    lines = {"read": f"{folder}/report.html", "figures": f"{folder}/metrics.json"}
    lines |= {name.replace("_", " "): f"{folder}/{name}" for name in folders}
    if "model" in folders:
        lines["talk"] = f"python -m rankdistill.chat {shlex.quote(folder)}"
        lines["export"] = f"python -m rankdistill.export {shlex.quote(folder)}"
    if run.settings.retrieval is not None:
        lines["search"] = f'python -m rankdistill.search {shlex.quote(folder)} "what you look for"'
    if "ranked" in folders and "model" in folders and "objective=" not in report.command:
        other = "rrhf" if method(run.settings) == "DPO" else "dpo"
        named = ("name=", "hydra.run.dir=")  # this run's folder is not another's
        command = [word for word in shlex.split(report.command) if not word.startswith(named)]
        lines["next"] = f"{shlex.join(command)} objective={other}   # on the same ranking"
    return lines


def _about(scorer: Scorer | Ensemble, teacher: str) -> str:
    """What the values are: ``likelihood under <teacher>``."""
    return " and ".join(
        name + member.about(teacher).removeprefix(member.name)
        for name, member in scorer.members.items()
    )
