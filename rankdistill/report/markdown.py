"""`report.md`: the same content without plots, for a terminal, a pull request, a diff."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankdistill.report.answers import HOW_CHOSEN
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
from rankdistill.report.ranked import ranked_labels, ranked_rows
from rankdistill.report.ranking import TITLE as WRITERS
from rankdistill.report.ranking import (
    agreement_rows,
    ranking_labels,
    ranking_rows,
    writer_labels,
    writer_rows,
)
from rankdistill.report.reward import GATE_COLUMNS, gate_rows, gate_title, has_reward, reward_rows
from rankdistill.report.stages import rate_labels, rate_rows, rate_title, stage_rows
from rankdistill.report.suites import TITLE as SETS
from rankdistill.report.suites import set_labels, set_rows, suite_heads, suite_rows
from rankdistill.report.table import labels, number, signed, table_rows
from rankdistill.report.verified import verified_grids
from rankdistill.report.verified_guards import guard_heads, guard_rows
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
        *_verified(metrics),
        *figures("Figures", labels(metrics), table_rows(metrics)),
        *figures("Evaluation suites", list(suite_heads(metrics).values()), suite_rows(metrics)),
        *_sets(metrics),
        *_ranked(metrics),
        *_ranking(metrics),
        *_reward(metrics),
        *_rates(metrics),
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


def _verified(metrics: Mapping[str, Any]) -> list[str]:
    heads = [label for _, label in guard_heads(metrics)]
    parts = [part for grid in verified_grids(metrics) for part in grid_parts(grid)]
    return parts + figures("Guards", heads, guard_rows(metrics))


def _sets(metrics: Mapping[str, Any]) -> list[str]:
    names = set_labels(metrics)
    return figures(SETS, names, set_rows(metrics)) if names else []


def _ranked(metrics: Mapping[str, Any]) -> list[str]:
    if metrics.get("ranked_set") is None:
        return []
    return figures("Held-out rankings", ranked_labels(metrics), ranked_rows(metrics))


def _ranking(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics.get("ranking"):
        return []
    title = "The ranking it was trained on"
    parts = figures(title, ranking_labels(metrics), ranking_rows(metrics))
    if names := writer_labels(metrics):
        parts += figures(WRITERS, names, writer_rows(metrics))
    if pairs := agreement_rows(metrics):
        parts.append(table(["agreement of", "Kendall's tau", "prompts"],
                            [list(map(inline, row)) for row in pairs]))  # fmt: skip
    if disputed := metrics["ranking"]["disputed"]:
        told = [f"- {number(d['disagreement'])}: {inline(d['prompt'])}" for d in disputed]
        parts += ["Most disputed prompts (variance of the raters' ranks):", "\n".join(told)]
    return parts


def _reward(metrics: Mapping[str, Any]) -> list[str]:
    if not has_reward(metrics):
        return []
    gate = figures(gate_title(metrics), GATE_COLUMNS, gate_rows(metrics))
    return gate + figures("Reward and teacher", labels(metrics), reward_rows(metrics))


def _rates(metrics: Mapping[str, Any]) -> list[str]:
    if not metrics.get("learning_rates"):
        return []
    return figures(rate_title(metrics), rate_labels(metrics), rate_rows(metrics))


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
