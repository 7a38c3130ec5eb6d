"""Run folders: the finished ones, the failed ones with their sentence, and what may be compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from omegaconf import OmegaConf

from rankdistill.errors import FAILURE, UserError
from rankdistill.report.answers import DEMANDS
from rankdistill.report.metrics import FILE, read_metrics
from rankdistill.stages.composed import read_config
from rankdistill.stages.moved import MOVED
from rankdistill.store.written import check_run

OVERRIDES = ".hydra/overrides.yaml"
"""In a run folder: what the command overrode."""


@dataclass(frozen=True)
class FinishedRun:
    """A run folder with its figures."""

    folder: Path
    metrics: Mapping[str, Any]
    config: Mapping[str, Any]
    """By dotted key: `train.epochs`."""
    chosen: frozenset[str] = frozenset()
    """The objective that its command named, if it did: `objective=plackett_luce`."""

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", self.metrics["statistics"]["seed"]))

    @property
    def sampled(self) -> bool:
        """Its students answered held-out prompts."""
        return bool(self.metrics["models"])

    @property
    def ranked(self) -> Mapping[str, Any] | None:
        """What its students make of held-out rankings."""
        return self.metrics.get("ranked_set")

    @cached_property
    def prompts(self) -> frozenset[str]:
        """Ids of the held-out prompts that were answered, also of one that no judge could score."""
        models = self.metrics["models"].values()
        return frozenset().union(*(model["prompt_scores"] for model in models))

    @cached_property
    def base_prompts(self) -> Mapping[str, str]:
        """By held-out prompt, the request that its demands were put to; empty where unknown."""
        try:
            table = pq.read_table(self.folder / DEMANDS, columns=["prompt_id", "cluster"])
        except (OSError, pa.ArrowException):
            return {}
        return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))


@dataclass(frozen=True)
class FailedRun:
    """A run folder of a sweep without figures."""

    folder: Path
    sentence: str


@dataclass(frozen=True)
class Runs:
    """What the folders hold."""

    finished: list[FinishedRun]
    failed: list[FailedRun]


def read_runs(folders: Sequence[Path]) -> Runs:
    """The runs in the folders; a folder of a sweep stands for all runs in it.

    Raises:
        UserError: no such folder, a folder without runs, fewer than two finished runs, or runs
            that cannot be compared.
    """
    runs = Runs([], [])
    for folder in dict.fromkeys(path for given in folders for path in _run_folders(given)):
        if (folder / FAILURE).is_file():
            said = (folder / FAILURE).read_text(encoding="utf-8", errors="replace")
            runs.failed.append(FailedRun(folder, " ".join(said.split()) or "it says no reason."))
        elif (folder / FILE).is_file():
            check_run(folder, "model")
            runs.finished.append(_read(folder))
        else:
            runs.failed.append(FailedRun(folder, "It did not finish."))
    shown = ", ".join(map(str, folders))
    if not runs.finished:
        failures = f": {runs.failed[0].sentence}" if runs.failed else ""
        raise UserError(f"no run in {shown} has finished, so nothing can be compared{failures}")
    if len(runs.finished) == 1:
        raise UserError(
            f"only one run in {shown} has finished; a comparison needs at least two, such as those "
            "of `python -m rankdistill -m recipe=rrhf,dpo`."
        )
    _check(runs.finished)
    return runs


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give folders of runs or of a sweep.")
    if _is_run(folder):
        return [folder]
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and _is_run(path))
    if not inner:
        raise UserError(
            f"{folder} holds no run ({FILE} of a finished one is neither in it nor in a folder of "
            "it); give folders of runs or of a sweep."
        )
    return inner


def _is_run(folder: Path) -> bool:
    """Hydra makes the last of them when a run begins."""
    return any((folder / name).exists() for name in (FILE, FAILURE, OVERRIDES))


def _read(folder: Path) -> FinishedRun:
    values = read_config(folder)
    metrics = read_metrics(folder)
    return FinishedRun(folder, metrics, settings_of(values), _chosen(folder, metrics))


def settings_of(config: Any) -> dict[str, Any]:
    """The settings by dotted key of a configuration that was read from its file."""
    return _now(flat(config))


def chosen_objectives(overrides: Iterable[str]) -> frozenset[str]:
    """The options of `objective` that a command names."""
    pairs = (str(override).partition("=") for override in overrides)
    return frozenset(value for key, _, value in pairs if key == "objective")


def _chosen(folder: Path, metrics: Mapping[str, Any]) -> frozenset[str]:
    """Hydra's file is of the last command in the folder, which a kill may have ended before it had
    figures; the runs of earlier versions have nothing else."""
    if "overrides" in metrics:
        return chosen_objectives(metrics["overrides"])
    try:
        return chosen_objectives(OmegaConf.load(folder / OVERRIDES))
    except Exception:  # a name less to call the objective by
        return frozenset()


def _now(values: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The settings with `_target_`s as they are today, so that older runs compare."""
    return {
        key: MOVED.get(value, value) if key.endswith("_target_") else value for key, value in values
    }


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; a list is a leaf."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def own_prompts(runs: Sequence[FinishedRun]) -> bool:
    """Whether every seed puts demands of its own to the same requests."""
    return len({run.prompts for run in runs}) > 1


def _check(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs whose figures are not of the same thing; the first run is the measure."""
    first, measures = runs[0], dict[int, FinishedRun]()
    for run in runs[1:]:
        for reason in _differences(first, run):
            raise UserError(f"{run.folder} cannot be compared with {first.folder}: {reason}.")
    for run in runs if first.sampled else ():
        measure = measures.setdefault(run.seed, run)
        if measure is run and not (_requests(run) and _requests(run) == _requests(first)):
            measure = first
        for reason in _other_prompts(measure.prompts, run.prompts):
            raise UserError(f"{run.folder} cannot be compared with {measure.folder}: {reason}.")
    if not first.sampled and first.ranked is None:
        raise UserError(
            f"{first.folder} has no scores of held-out prompts to compare: run it with eval=[quick]"
            " or, on a ranked set, eval=[ranked]."
        )


def _requests(run: FinishedRun) -> set[str]:
    return set(run.base_prompts.values())


def _differences(a: FinishedRun, b: FinishedRun) -> Iterator[str]:
    if a.sampled != b.sampled or (a.ranked is None) != (b.ranked is None):
        yield "one was evaluated on other things than the other (eval=...)"
        return
    if a.sampled:
        if a.metrics["judge"]["name"] != b.metrics["judge"]["name"]:
            yield (
                f"it was judged by {b.metrics['judge']['name']}, the other by "
                f"{a.metrics['judge']['name']}"
            )
        for key in ("responses_per_prompt", "version"):
            key = f"eval.quick.{key}"
            if a.config.get(key) != b.config.get(key):
                yield f"its {key} is {b.config.get(key)}, the other's {a.config.get(key)}"
    if a.ranked is not None and b.ranked is not None:
        yield from _other_prompts(_rankings(a.ranked), _rankings(b.ranked))


def _other_prompts(a: Set[str], b: Set[str]) -> Iterator[str]:
    if a != b:
        yield (
            f"their held-out prompts differ ({len(a & b)} in common, {len(b - a)} only in the "
            f"first, {len(a - b)} only in the second)"
        )


def _rankings(block: Mapping[str, Any]) -> set[str]:
    return set().union(*(model["prompt_accuracy"] for model in block["models"].values()))
