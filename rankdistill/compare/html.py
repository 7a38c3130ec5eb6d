"""`report.html`: one file that needs nothing else, for a screen, a phone and paper."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from rankdistill.compare import sentences, tables, verified_table
from rankdistill.compare.answers import answered
from rankdistill.compare.comparison import Comparison
from rankdistill.compare.plots import looks, plots_of
from rankdistill.compare.rows import table_rows
from rankdistill.report.glossary import WORDS
from rankdistill.report.html import coded, typeset
from rankdistill.report.rendering import environment
from rankdistill.report.svg import VARIABLES
from rankdistill.report.table import number


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
        "differences": tables.difference_rows(comparison),
        "about_differences": tables.about_differences(comparison),
        "wins": tables.win_rows(comparison),
        "about_wins": tables.WINS,
        "plots": [(plot, Markup(plot.svg)) for plot in plots_of(comparison)],
        "marks": {label: look.mark for label, look in looks(comparison).items()},
        "answered": shown,
        "links": dict.fromkeys(("score", "lead", "over_control"), "responses") if shown else {},
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
            "verified_title": verified_table.TITLE,
            "about_verified": verified_table.about(comparison.verified),
            "verified_rows": verified_table.verified_rows(comparison.verified),
        }
    return _environment().get_template("compare.html.j2").render(page)


def _contents(comparison: Comparison, prompts: int) -> list[tuple[str, str]]:
    """Id and title of the page's parts that there are."""
    parts = [
        ("figures", "Figures", True),
        ("differences", "Differences", comparison.told_differences),
        ("plots", "Plots", True),
        ("settings", "What differs", tables.config_table(comparison)),
        ("responses", f"Responses ({prompts})", prompts),
        ("words", "Words", True),
        ("again", "How it was made", True),
    ]
    return [(id, title) for id, title, there in parts if there]


@cache
def _environment() -> Environment:
    packages = ("rankdistill.compare", "rankdistill.report")
    return environment(*packages, escape=True, number=number, typeset=typeset, coded=coded)
