"""The model card, in the hub's format: what the model is, how it came about, what it is worth."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from omegaconf import OmegaConf

from rankdistill.export.hub import License, hub_name
from rankdistill.export.source import Source
from rankdistill.fields import amounts, texts_in
from rankdistill.report.headline import findings, headline, judge_warning
from rankdistill.report.markdown_parts import fenced, inline
from rankdistill.report.ranked import ranked_labels, ranked_rows
from rankdistill.report.rendering import environment
from rankdistill.report.stages import duration, stage_rows
from rankdistill.report.table import Row, labels, table_rows

TASK = "text-generation"
HYPERPARAMETERS = ("student", "warmup", "sample", "rank", "objective", "train")
"""Groups of the configuration that the card lists; all of it is folded below them."""

METRICS = {
    "score": "Judge score, mean over prompts",
    "score_difference": "Judge score minus {baseline}",
    "win_rate": "Wins over {baseline}",
    "kendall_tau": "Rank agreement with the judge, Kendall's tau",
}
"""Figures with an interval that go into the model-index."""
PLAIN_METRICS = {
    "kl_to_teacher": "KL(teacher || model), nats per token",
    "entropy": "Entropy, nats per token",
    "repetition": "Share of repeated trigrams",
}
RANKED_METRICS = {
    "pair_accuracy": "Held-out pairs in their order",
    "pair_accuracy_difference": "Held-out pairs in their order, minus {baseline}",
}


def model_card(source: Source, license: License, name: str, quantize: str) -> ModelCard:
    """The card of a source.

    Args:
        name: What the model is called: a hub repository, or the export's own name.
        quantize: As the export's.
    """
    config = source.config or {}
    data = ModelCardData(
        base_model=_hub_base(config),
        datasets=_datasets(config),
        license=license.identifier,
        library_name="transformers",
        pipeline_tag=TASK,
        tags=_tags(config, quantize),
        model_name=name.rpartition("/")[2],
        eval_results=list(eval_results(replace(source, metrics=published(source).metrics))) or None,
    )
    templates = environment(
        "rankdistill.export", escape=False, last_newline=True, md=lambda text: inline(str(text))
    )
    text = templates.get_template("README.md.j2").render(
        card_data=data.to_yaml(), name=name, quantize=quantize, license=license,
        **_story(published(source)),
    )  # fmt: skip
    return ModelCard(text)


def eval_results(source: Source) -> Iterator[EvalResult]:
    """The trained model's figures on held-out data, with their intervals as `args`."""
    metrics = source.metrics
    if metrics is None:
        return
    models, ranked = metrics["models"], metrics.get("ranked_set")
    if models:
        data = _dataset("prompts", source.config or {})
        figures = {**METRICS, **PLAIN_METRICS}
        yield from _results(metrics, models, figures, data)
    if ranked is not None:
        data = _dataset("rank", source.config or {})
        yield from _results(metrics, ranked["models"], RANKED_METRICS, data)


def _results(
    metrics: Mapping[str, Any],
    models: Mapping[str, Any],
    titles: Mapping[str, str],
    data: Mapping[str, Any],
) -> Iterator[EvalResult]:
    trained = models[metrics["trained"]]
    baseline = models[metrics["baseline"]]["label"]
    for key, title in titles.items():
        value = trained.get(key)
        if value is None:
            continue
        about: dict[str, Any] = {"seed": metrics["statistics"]["seed"]}
        if isinstance(value, Mapping):
            level = metrics["statistics"]["interval_level"]
            about |= {"low": value["low"], "high": value["high"], "level": level}
            value = value["mean"]
        if value is None:
            continue
        yield EvalResult(
            task_type=TASK,
            task_name="Text generation",
            metric_type=key,
            metric_name=title.format(baseline=baseline),
            metric_value=value,
            metric_args={name: number for name, number in about.items() if number is not None},
            **data,
        )


def _dataset(group: str, config: Mapping[str, Any]) -> dict[str, Any]:
    paths = _paths(config, group) or ["prompts"]
    named = " and ".join(hub_name(p) or p.rstrip("/").rpartition("/")[2] for p in paths)
    return {
        "dataset_type": named,
        "dataset_name": f"held-out split of {named}",
        "dataset_split": "heldout",
    }


def _story(source: Source) -> dict[str, Any]:
    """What the template tells of a run; nothing but the model where there was none."""
    metrics, config = source.metrics, source.config or {}
    if metrics is None:
        return {"run": None}
    made = [stage for stage in metrics["stages"] if not stage["reused"]]
    started = config["student"].get("path") or config["teacher"]["path"]
    teacher = hub_name(config["teacher"]["path"]) or config["teacher"]["path"]
    return {
        "run": metrics,
        "start": started,
        "start_name": hub_name(started) or started,
        "layers": config["student"].get("keep_layers"),
        "lora": (config["student"].get("lora") or {}).get("r"),
        "teacher": teacher,
        # Runs of before say the teacher alone.
        "ranked_by": metrics.get("ranked_by") or teacher,
        "ranked_set": " and ".join(_paths(config, "rank")) or None,
        "prompts": " and ".join(_paths(config, "rank") or _paths(config, "prompts")),
        "method": metrics["title"].partition(": ")[0],
        "ranked": any(stage["stage"] == "rank" for stage in metrics["stages"]),
        "headline": headline(metrics),
        "warning": judge_warning(metrics),
        "findings": findings(metrics),
        "tables": list(_tables(metrics)),
        "hyperparameters": [leaf for g in HYPERPARAMETERS for leaf in _leaves(g, config.get(g))],
        "stages": stage_rows(metrics),
        "took": duration(sum(stage["seconds"] for stage in made)),
        "reused": len(metrics["stages"]) - len(made),
        "config_yaml": fenced(OmegaConf.to_yaml(OmegaConf.create(dict(config))), "yaml"),
        "command": fenced(metrics["command"], "bash"),
    }


def _tables(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str], Sequence[Row]]]:
    if metrics["models"]:
        yield f"Judge: {metrics['judge']['name']}", labels(metrics), table_rows(metrics)
    if metrics.get("ranked_set") is not None:
        yield "Held-out rankings", ranked_labels(metrics), ranked_rows(metrics)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Dotted names and values of a group that decides what is learned."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}", inner)
    elif value is not None and not name.startswith(LEFT_OUT):
        yield name, str(value)


def _hub_base(config: Mapping[str, Any]) -> str | None:
    if not config:
        return None
    return hub_name(config["student"].get("path") or config["teacher"]["path"])


def _datasets(config: Mapping[str, Any]) -> list[str] | None:
    paths = _paths(config, "rank") or _paths(config, "prompts")
    return [name for path in paths if (name := hub_name(path))] or None


def _paths(config: Mapping[str, Any], group: str) -> list[str]:
    """The sets of `prompts` or `rank`; an existing ranked set takes the prompts' place."""
    path = (config.get(group) or {}).get("path")
    return list(amounts(f"{group}.path", path)) if path else []


def _tags(config: Mapping[str, Any], quantize: str) -> list[str]:
    tags = ["rankdistill", "distillation"]
    if config:
        tags.append(str(config["objective"]["_target_"]).rpartition(".")[2].lower())
    return [*tags, "8-bit", "torchao"] if quantize == "int8" else tags


LEFT_OUT = ("sample.vllm", "sample.transformers", "sample.endpoint")
"""Keys that change nothing of what is learned, or say where somebody's server is."""


_DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".gguf", ".md", ".yaml")
_PATH = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/[^\s,'\"\[\]{}]*[^\s,'\"\[\]{}/]/?")


def published(source: Source) -> Source:
    """What may be passed on: the same with the last part of every local path in its place.

    A hub's name stays. The command keeps its keys.
    """
    config, metrics = source.config or {}, source.metrics
    names = {path: _last(path) for path in texts_in(config) if _is_local(path)}
    names[str(source.folder.absolute())] = source.folder.absolute().name
    shared_metrics = _mapped(metrics, names)
    if shared_metrics and shared_metrics.get("command"):
        shared_metrics["command"] = _command(shared_metrics["command"])
    return replace(source, config=_mapped(source.config, names), metrics=shared_metrics)


def _mapped(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _mapped(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(inner, names) for inner in value]
    if isinstance(value, str):
        for path in sorted(names, key=len, reverse=True):
            value = value.replace(path, names[path])
    return value


def _is_local(text: str) -> bool:
    if text.startswith(("/", "~", "./", "../", "file:")):
        return bool(_last(text))
    if "/" not in text or "://" in text or "\n" in text:
        return False
    return text.lower().endswith(_DATA) or Path(text).exists()


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _command(line: str) -> str:
    try:
        words = shlex.split(line)
    except ValueError:
        return _PATH.sub(lambda found: _last(found[0]), line)
    shown = []
    for word in words:
        key, equals, value = word.rpartition("=")
        bare = value.strip("'\"")
        value = _last(bare) if _is_local(bare) else _PATH.sub(lambda f: _last(f[0]), value)
        shown.append(f"{key}{equals}{value}")
    return shlex.join(shown)
