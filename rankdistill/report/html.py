"""`report.html`: one file that needs nothing else, for a screen, a phone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from rankdistill.report.answers import HOW_CHOSEN, links_of, prompt_lists, shown_prompts
from rankdistill.report.contents import FigureTable, figure_tables
from rankdistill.report.headline import findings, headline, judge_warning, next_steps
from rankdistill.report.plots import colour, gain_plot, plots_of
from rankdistill.report.ranked import LONGER
from rankdistill.report.ranking import agreement_rows
from rankdistill.report.rendering import WORDS, environment
from rankdistill.report.stages import stage_rows
from rankdistill.report.suites import suite_heads
from rankdistill.report.svg import MUTED, VARIABLES
from rankdistill.report.table import NOTHING, number, signed
from rankdistill.report.verified import verified_grids, verified_plots
from rankdistill.report.verified_sentences import judge_line

MINUS, EN_DASH, NO_BREAK_SPACE = "\u2212", "\u2013", "\u00a0"


def html_report(
    metrics: Mapping[str, Any],
    config_yaml: str,
    answers: Iterable[Mapping[str, Any]] = (),
    folder: str = "",
) -> str:
    """The page. Everything but our own SVG is escaped: prompts, responses, names, config.

    Args:
        answers: Lines of `answers.jsonl`; without them the page has the chosen samples alone.
        folder: Of the run, as a person would type it.
    """
    tables = list(figure_tables(metrics))
    shown = shown_prompts(metrics, answers)
    lists = prompt_lists(metrics, shown)
    verified = [(plot, Markup(plot.svg)) for plot in verified_plots(metrics)]
    hero = verified[:1] or [(plot, Markup(plot.svg)) for plot in gain_plot(metrics)]
    plots = [(plot, Markup(plot.svg)) for plot in plots_of(metrics)]
    agreement = agreement_rows(metrics) if metrics.get("ranking") else []
    disputed = (metrics.get("ranking") or {"disputed": []})["disputed"]
    parts = [
        ("figures", "Figures", True),
        ("plots", "Plots", plots),
        ("ranking", "The ranking", agreement or disputed),
        ("responses", "Responses", metrics["samples"]),
        ("all", f"All prompts ({shown[-1].number})" if shown else "", shown),
        ("stages", "Stages", metrics["stages"]),
        ("words", "Words", True),
        ("again", "Run it again", True),
    ]
    samples = metrics["samples"]
    filters = {"number": number, "signed": signed, "typeset": typeset, "coded": coded}
    templates = environment("rankdistill.report", escape=True, **filters)
    return templates.get_template("report.html.j2").render(
        metrics=metrics,
        headline=headline(metrics),
        findings=findings(metrics),
        warning=judge_warning(metrics),
        judged=judge_line(metrics),
        colours=_colours(metrics, tables),
        tables=tables,
        grids=verified_grids(metrics),
        hero=hero,
        verified_plots=verified[1:],
        # In the middle between loss and gain: the least that could be picked to please.
        example=samples[len(samples) // 2] if samples else None,
        shown=shown,
        lists=lists,
        links=links_of(lists),
        next_steps=next_steps(metrics, folder),
        contents=[(id, title) for id, title, there in parts if there],
        words=WORDS,
        labels={name: model["label"] for name, model in metrics["models"].items()},
        plots=plots,
        how_chosen=HOW_CHOSEN,
        agreement=agreement,
        disputed=disputed,
        stages=stage_rows(metrics),
        config_yaml=config_yaml,
    )


def _colours(metrics: Mapping[str, Any], tables: Sequence[FigureTable]) -> dict[str, str]:
    """The CSS variable of every column; what is no model has that of muted text."""
    ranked = (metrics.get("ranked_set") or {"models": {}})["models"]
    models = {*metrics["models"], *ranked, *suite_heads(metrics)} - {LONGER, "reward_model"}
    names = [name for table in tables for name, _ in table.heads]
    return {name: VARIABLES[colour(metrics, name) if name in models else MUTED] for name in names}


def coded(text: str) -> Markup:
    """The text, escaped, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def typeset(text: str) -> str:
    """The minus sign that is as wide as the plus, a dash for nothing, no line end before `%` or
    within an interval."""
    if text == NOTHING:
        return EN_DASH
    text = re.sub(r"\[([^\[\]\s]+), ([^\[\]\s]+)\]", rf"[\1,{NO_BREAK_SPACE}\2]", text)
    return re.sub(r"(?<!\w)-(?=\d)", MINUS, text).replace(" %", f"{NO_BREAK_SPACE}%")
