"""`report.html`: one file that needs nothing else, for a screen, a phone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup, escape

from rankdistill.report.answers import HOW_CHOSEN, links_of, prompt_lists, shown_prompts
from rankdistill.report.headline import findings, headline, judge_warning, next_steps
from rankdistill.report.plots import colour, gain_plot, plots_of
from rankdistill.report.ranked import LONGER, ranked_labels, ranked_rows
from rankdistill.report.ranking import TITLE as WRITERS
from rankdistill.report.ranking import (
    agreement_rows,
    ranking_labels,
    ranking_rows,
    writer_labels,
    writer_rows,
)
from rankdistill.report.rendering import WORDS, environment
from rankdistill.report.reward import GATE_COLUMNS, gate_rows, gate_title, has_reward, reward_rows
from rankdistill.report.stages import rate_labels, rate_rows, rate_title, stage_rows
from rankdistill.report.suites import TITLE as SETS
from rankdistill.report.suites import set_labels, set_rows, suite_heads, suite_rows
from rankdistill.report.svg import MUTED, VARIABLES
from rankdistill.report.table import NOTHING, Row, labels, number, signed, table_rows
from rankdistill.report.verified import verified_grids, verified_plots
from rankdistill.report.verified_guards import guard_heads, guard_rows
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
        colours=_colours(metrics),
        tables=_tables(metrics),
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


def _tables(metrics: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]], list[Row]]]:
    """Title, (name, heading) of the columns, rows of every table there are figures for."""
    tables = []
    if rows := guard_rows(metrics):
        tables.append(("Guards", guard_heads(metrics), rows))
    if metrics["models"]:
        heads = list(zip(metrics["models"], labels(metrics), strict=True))
        tables.append(("Figures", heads, table_rows(metrics)))
    if names := set_labels(metrics):
        tables.append((SETS, [(name, name) for name in names], set_rows(metrics)))
    if rows := suite_rows(metrics):
        tables.append(("Evaluation suites", list(suite_heads(metrics).items()), rows))
    if metrics.get("ranked_set") is not None:
        heads = list(zip(metrics["ranked_set"]["models"], ranked_labels(metrics), strict=True))
        tables.append(("Held-out rankings", heads, ranked_rows(metrics)))
    if metrics.get("ranking"):
        heads = [(name, name) for name in ranking_labels(metrics)]
        tables.append(("The ranking it was trained on", heads, ranking_rows(metrics)))
    if names := writer_labels(metrics):
        tables.append((WRITERS, [(name, name) for name in names], writer_rows(metrics)))
    if has_reward(metrics):
        heads = [(name, name) for name in GATE_COLUMNS]
        tables.append((gate_title(metrics), heads, gate_rows(metrics)))
        heads = list(zip(metrics["models"], labels(metrics), strict=True))
        if rows := reward_rows(metrics):
            tables.append(("Reward and teacher", heads, rows))
    if rates := rate_labels(metrics):
        heads = [(rate, rate) for rate in rates]
        tables.append((rate_title(metrics), heads, rate_rows(metrics)))
    return tables


def _colours(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The CSS variable of every column; what is no model has that of muted text."""
    names = [name for _, heads, _ in _tables(metrics) for name, _ in heads]
    scorers = (metrics.get("ranking") or {"scorers": {}})["scorers"]
    plain = {LONGER, "reward_model", *GATE_COLUMNS, *rate_labels(metrics), *scorers}
    plain |= {*writer_labels(metrics), *set_labels(metrics)}
    plain -= set(metrics["models"])
    return {name: VARIABLES[MUTED if name in plain else colour(metrics, name)] for name in names}


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
