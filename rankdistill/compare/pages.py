"""`report.html`, one file that needs nothing else, for a screen, a phone, paper; and `report.md`,
the same content without plots, for a terminal, a pull request, a diff."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from rankdistill.compare import sentences, tables
from rankdistill.compare.comparison import Answered, Comparison, answered
from rankdistill.compare.plots import looks, plots_of
from rankdistill.compare.tables import DifferenceRow, table_rows
from rankdistill.compare.verified import (
    VerifiedTables,
    about_verified,
    title_of,
    unit,
    verified_rows,
)
from rankdistill.report.html import coded, typeset
from rankdistill.report.markdown_parts import cell, fenced, figures, inline, prompt_part, table
from rankdistill.report.rendering import WORDS, environment
from rankdistill.report.svg import VARIABLES
from rankdistill.report.table import number

_OF_PROMPTS = ("score", "lead", "over_control", "trained", "strict", "sampled")
"""Rows whose figures are of the responses that the page shows."""


def html_report(comparison: Comparison, title: str, command: str) -> str:
    """The page. Everything but our own SVG is escaped: prompts, answers, names, configurations."""
    colours = {label: VARIABLES[look.colour] for label, look in looks(comparison).items()}
    labels = [objective.label for objective in comparison.ordered]
    shown = answered(comparison)
    page: dict[str, Any] = {
        "title": title,
        "headline": sentences.headline(comparison),
        "findings": sentences.findings(comparison),
        "warning": sentences.banner(comparison),
        "labels": labels,
        "heads": [(label, label) for label in labels],
        "names": {label: label for label in labels},
        "words": WORDS,
        "colours": colours,
        "verified": comparison.verified,
        "verified_rows": [],
        "rows": table_rows(comparison),
        "planned": tables.planned_rows(comparison),
        "planned_title": PLANNED_TITLE,
        "about_planned": tables.PLANNED,
        "differences": tables.difference_rows(comparison),
        "differences_title": tables.differences_title(comparison),
        "about_differences": tables.about_differences(comparison),
        "wins": tables.win_rows(comparison),
        "about_wins": tables.WINS,
        "plots": [(plot, Markup(plot.svg)) for plot in plots_of(comparison)],
        "marks": {label: look.mark for label, look in looks(comparison).items()},
        "answered": shown,
        "links": dict.fromkeys(_OF_PROMPTS, "responses") if shown else {},
        "contents": _contents(comparison, len(shown)),
        "config": tables.config_table(comparison),
        "failed": comparison.failed,
        "objectives": comparison.ordered,
        "judge": comparison.objectives[0].runs[0].metrics["judge"]["name"],
        "prompts": len(comparison.prompts),
        "command": command,
    }
    if comparison.verified:
        page |= {
            "verified_title": title_of(comparison.verified),
            "verified_unit": unit(comparison.verified),
            "about_verified": about_verified(comparison.verified),
            "verified_rows": verified_rows(comparison.verified),
        }
    packages = ("rankdistill.compare", "rankdistill.report")
    filters = {"number": number, "typeset": typeset, "coded": coded}
    templates = environment(*packages, escape=True, **filters)
    return templates.get_template("compare.html.j2").render(page)


PLANNED_TITLE = "Planned contrasts"


def _contents(comparison: Comparison, prompts: int) -> list[tuple[str, str]]:
    """Id and title of the page's parts that there are."""
    parts = [
        ("planned", PLANNED_TITLE, comparison.planned),
        ("figures", "Figures", True),
        ("differences", tables.differences_title(comparison), comparison.exploratory),
        ("plots", "Plots", True),
        ("settings", "What differs", tables.config_table(comparison)),
        ("responses", f"Responses ({prompts})", prompts),
        ("words", "Words", True),
        ("again", "How it was made", True),
    ]
    return [(id, title) for id, title, there in parts if there]


SHOWN = 6
"""Prompts with their answers, those that the students disagree on most; the page has all."""


def markdown_report(comparison: Comparison, title: str, command: str) -> str:
    """The report as GitHub-flavoured Markdown; what models wrote stands in code blocks only."""
    labels = [objective.label for objective in comparison.ordered]
    warning = sentences.banner(comparison)
    parts = [
        f"# {inline(title)}",
        f"**{inline(sentences.headline(comparison))}**",
        f"> **Note.** {inline(warning)}" if warning else "",
        "\n".join(f"- {inline(finding.text)}" for finding in sentences.findings(comparison)),
        *planned_parts(tables.planned_rows(comparison)),
        *_figures(comparison, labels),
        *_wins(comparison, labels),
        *_answers(answered(comparison)[:SHOWN]),
        *_config(comparison, labels),
        *_failed(comparison),
        "## How it was made",
        fenced(command, "sh"),
        "\n".join(
            f"- {inline(objective.label)}, seed {run.seed}: {inline(str(run.folder))}"
            for objective in comparison.ordered
            for run in objective.runs
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _figures(comparison: Comparison, labels: list[str]) -> list[str]:
    """The tables of objectives, and the differences behind the one that they are of."""
    objectives = figures("Objectives", labels, table_rows(comparison))
    pairs = difference_parts(
        tables.difference_rows(comparison),
        tables.about_differences(comparison),
        tables.differences_title(comparison),
    )
    if comparison.verified is None:
        return [*objectives, *pairs]
    return [*verified_parts(comparison.verified), *pairs, *objectives]


def _wins(comparison: Comparison, labels: list[str]) -> list[str]:
    rows = [
        [inline(row.title), *(cell(one) for one in row.cells)]
        for row in tables.win_rows(comparison)
    ]
    if not rows:
        return []
    heads = ["wins over", *map(inline, labels)]
    title = "## Who wins against whom"
    return [title, inline(tables.WINS), table(heads, rows, numbers=True)]


def _answers(shown: list[Answered]) -> list[str]:
    parts = [
        prompt_part(f"Disagreement {number(one.disagreement)}", one.messages, one.responses)
        for one in shown
    ]
    return ["## Answers that the students disagree on most", *parts] if shown else []


def _config(comparison: Comparison, labels: list[str]) -> list[str]:
    rows = [list(map(inline, row)) for row in tables.config_table(comparison)]
    return ["## What differs", table(["setting", *map(inline, labels)], rows)] if rows else []


def _failed(comparison: Comparison) -> list[str]:
    told = [f"- {inline(run.folder.name)}: {inline(run.sentence)}" for run in comparison.failed]
    return ["## Failed", "\n".join(told)] if told else []


def verified_parts(verified: VerifiedTables) -> list[str]:
    """The table of what is verified with what its rows mean."""
    heading, *shown = figures(title_of(verified), list(verified.figures), verified_rows(verified))
    return [heading, inline(about_verified(verified)), *shown]


def planned_parts(rows: list[DifferenceRow]) -> list[str]:
    """The table of the contrasts that were named before the run."""
    return difference_parts(rows, tables.PLANNED, PLANNED_TITLE)


def difference_parts(rows: list[DifferenceRow], about: str, title: str) -> list[str]:
    """A comparison's table of pairs; nothing without rows."""
    if not rows:
        return []
    told = [[inline(pair), cell(of), inline(p), verdict] for pair, of, p, verdict in rows]
    heads = ["", "difference", "corrected p", ""]
    return [f"## {title}", inline(about), table(heads, told, numbers=True)]
