"""`report.md`: the same content without plots, for a terminal, a pull request, a diff."""

from __future__ import annotations

from rankdistill.compare import sentences, tables, verified_table
from rankdistill.compare.answers import Answered, answered
from rankdistill.compare.comparison import Comparison
from rankdistill.compare.figures import points
from rankdistill.compare.rows import table_rows
from rankdistill.compare.tables import VERIFIED_DIFFERENCES, rows_of
from rankdistill.compare.verified import VerifiedTables
from rankdistill.compare.verified_table import SeedsCell
from rankdistill.report.markdown_parts import cell, fenced, figures, inline, table
from rankdistill.report.table import Cell, number

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
        *(verified_parts(comparison.verified) if comparison.verified else []),
        *figures("Objectives", labels, table_rows(comparison)),
        *_differences(comparison),
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


def _differences(comparison: Comparison) -> list[str]:
    """Those of verified demands stand with their table."""
    if comparison.verified:
        return []
    return difference_parts(tables.difference_rows(comparison), tables.DIFFERENCES)


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
    if not shown:
        return []
    parts = ["## Answers that the students disagree on most"]
    for one in shown:
        parts.append(f"### Disagreement {number(one.disagreement)}")
        for message in one.messages:
            parts += [f"*{inline(message['role'])}*", fenced(message["content"])]
        for label, answer in one.responses.items():
            cut = ", cut by length" if answer["cut"] else ""
            score, tokens = number(answer["score"]), answer["tokens"]
            parts.append(f"**{inline(label)}** (score {score}, {tokens} tokens{cut})")
            parts.append(fenced(answer["text"]))
    return parts


def _config(comparison: Comparison, labels: list[str]) -> list[str]:
    rows = [list(map(inline, row)) for row in tables.config_table(comparison)]
    return ["## What differs", table(["setting", *map(inline, labels)], rows)] if rows else []


def _failed(comparison: Comparison) -> list[str]:
    told = [f"- {inline(run.folder.name)}: {inline(run.sentence)}" for run in comparison.failed]
    return ["## Failed", "\n".join(told)] if told else []


def verified_parts(verified: VerifiedTables) -> list[str]:
    """The table of demands followed with what its rows mean, and that of differences."""
    rows = verified_table.verified_rows(verified)
    cells = [[inline(row.title), *map(_cell, row.cells)] for row in rows]
    return [
        f"## {verified_table.TITLE}",
        inline(verified_table.about(verified)),
        table(["", *map(inline, verified.figures)], cells, numbers=True),
        "\n".join(f"- **{inline(row.title)}**: {inline(row.explanation)}" for row in rows),
        *difference_parts(rows_of(verified.differences, points), VERIFIED_DIFFERENCES),
    ]


def difference_parts(rows: list[tuple[str, Cell, str, str]], about: str) -> list[str]:
    """A comparison's table of pairs; nothing without rows."""
    if not rows:
        return []
    told = [[inline(pair), cell(of), inline(p), verdict] for pair, of, p, verdict in rows]
    heads = ["", "difference", "corrected p", ""]
    return ["## Differences", inline(about), table(heads, told, numbers=True)]


def _cell(of: Cell) -> str:
    each = of.per_seed if isinstance(of, SeedsCell) else ()
    return f"{cell(of)}; seeds {', '.join(each)}" if each else cell(of)
