"""`report.md`: the same content without plots, for a terminal, a pull request, a diff."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.report.answers import HOW_CHOSEN
from rankdistill.report.contents import RANKING, figure_tables
from rankdistill.report.headline import findings, headline, judge_warning, next_steps
from rankdistill.report.markdown_parts import (
    coded,
    fenced,
    figures,
    grid_parts,
    inline,
    prompt_part,
    table,
)
from rankdistill.report.ranking import agreement_rows
from rankdistill.report.stages import stage_rows
from rankdistill.report.table import number, signed
from rankdistill.report.verified import verified_grids
from rankdistill.report.verified_sentences import judge_line


def markdown_report(metrics: Mapping[str, Any], config_yaml: str, folder: str = "") -> str:
    """The report as GitHub-flavoured Markdown; what models wrote stands in code blocks only.

    folder: of the run, as a person would type it.
    """
    parts = [
        f"# {inline(metrics['title'])}",
        f"**{inline(headline(metrics))}**",
        *_banner(metrics),
        "\n".join(f"- {inline(finding.text)}" for finding in findings(metrics)),
        *_next(metrics, folder),
        *(part for grid in verified_grids(metrics) for part in grid_parts(grid)),
        *_tables(metrics),
        *_samples(metrics),
        "## Stages",
        _stages(metrics),
        "## Configuration",
        fenced(config_yaml, "yaml"),
        "## Made with",
        fenced(metrics["command"], "sh"),
        _versions(metrics),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _next(metrics: Mapping[str, Any], folder: str) -> list[str]:
    steps = [f"- {coded(step)}" for step in next_steps(metrics, folder)]
    return ["What to do next:", "\n".join(steps)] if steps else []


def _banner(metrics: Mapping[str, Any]) -> list[str]:
    warning = judge_warning(metrics)
    if warning:
        return [f"> **Note.** {inline(warning)}"]
    line = judge_line(metrics)
    return [coded(line)] if line else []


def _tables(metrics: Mapping[str, Any]) -> list[str]:
    parts = []
    for title, heads, rows in figure_tables(metrics):
        parts += figures(title, [heading for _, heading in heads], rows)
        if title == RANKING:
            parts += _agreement(metrics)
    return parts


def _agreement(metrics: Mapping[str, Any]) -> list[str]:
    """How far the raters of the training set's ranking agree, and where they agree least."""
    parts = []
    if pairs := agreement_rows(metrics):
        parts.append(table(["agreement of", "Kendall's tau", "prompts"],
                            [list(map(inline, row)) for row in pairs]))  # fmt: skip
    if disputed := metrics["ranking"]["disputed"]:
        told = [f"- {number(d['disagreement'])}: {inline(d['prompt'])}" for d in disputed]
        parts += ["Most disputed prompts (variance of the raters' ranks):", "\n".join(told)]
    return parts


def _samples(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics["samples"]:
        return []
    return ["## Responses", HOW_CHOSEN, *(_sample(s, metrics) for s in metrics["samples"])]


def _sample(sample: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    labels = {name: model["label"] for name, model in metrics["models"].items()}
    title = f"Prompt {sample['position']}, difference {signed(sample['difference'])}"
    responses = {labels[name]: response for name, response in sample["responses"].items()}
    return prompt_part(title, sample["messages"], responses)


def _stages(metrics: Mapping[str, Any]) -> str:
    rows = [list(map(inline, row)) for row in stage_rows(metrics)]
    return table(["stage", "what", "result", "time", "key"], rows) if rows else ""


def _versions(metrics: Mapping[str, Any]) -> str:
    versions = [f"{name} {version}" for name, version in metrics["versions"].items()]
    return inline(", ".join([*versions, metrics["date"]] if metrics["date"] else versions))
