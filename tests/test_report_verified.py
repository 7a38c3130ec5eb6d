"""The report of a verified run: its tables, its pictures, and that they are on every page."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

import pytest
from report_page import ATTACK, Page
from report_rows import ARMS, KINDS, interval, run_report, verified_metrics, verified_report
from rich.console import Console

from rankdistill.report import metrics_of, print_tables, render, terminal_tables, write_report
from rankdistill.report.__main__ import main
from rankdistill.report.headline import headline
from rankdistill.report.html import html_report
from rankdistill.report.markdown import markdown_report
from rankdistill.report.summary import print_summary
from rankdistill.report.verified import by_kind, demands_followed, more_than, verified_plots
from rankdistill.report.verified import verified_grids as grids_of
from rankdistill.report.verified_guards import guard_heads, guard_rows

TITLES = ("Demands followed", "What the gain is more than", "By kind")


@pytest.fixture
def metrics() -> dict[str, Any]:
    return verified_metrics()


def lines_of(grid) -> dict[str, list[str]]:
    return {line.full_title: [cell.value for cell in line.cells] for line in grid.lines}


# The tables.


def test_a_row_per_arm_in_the_order_of_the_argument(metrics):
    assert [line.full_title for line in demands_followed(metrics).lines] == [
        "before warm-up",
        "warmed up",
        "warmed up, same entropy, T=0.81",
        "warmed up, greedy",
        "warmed up, better prompt: repeated",
        *(f"warmed up, best of {n}" for n in (1, 2, 4, 8, 16)),
        "trained",
        "trained, greedy",
        "trained, better prompt: repeated",
        "teacher",
        "teacher, greedy",
        "teacher, better prompt: repeated",
    ]


def test_the_figures_of_an_arm(metrics):
    """16 of 20 answers follow each kind of mark, 12 of 20 each restriction: 80 and 60 %, together
    70 %; all others follow the opposite, so 70 minus 30 is 40."""
    grid = demands_followed(metrics)
    assert lines_of(grid)["trained"][:5] == ["70.0", "80.0", "60.0", "45.0", "40.0"]
    assert lines_of(grid)["trained"][6:] == ["-", "33"]  # no form is asked for
    trained = next(line for line in grid.lines if line.title == "trained")
    share = metrics["verified"]["arms"]["trained"]["trained"]
    assert trained.cells[0].low == f"{100 * share['low']:.1f}"
    assert trained.cells[0].high == f"{100 * share['high']:.1f}"
    assert trained.marked and trained.model == "trained"
    assert len(grid.columns) == len(trained.cells) == 8


def test_the_best_of_n_says_whose_tokens_they_are(metrics):
    lines = lines_of(demands_followed(metrics))
    assert lines["warmed up, best of 16"][-1] == "608 for 16"  # 16 answers of 38 tokens
    assert lines["warmed up, best of 1"][-1] == "38 for 1"
    assert "the best of n on the first 40 prompts alone" in demands_followed(metrics).about


def test_contrasts_are_in_points_and_bold_beyond_noise(metrics):
    contrasts = metrics["verified"]["contrasts"]
    contrasts["sampled"]["trained"] = interval(25, 12.5, 37.5)
    contrasts["teacher"]["trained"] = interval(5, -4.2, 15)
    grid = more_than(metrics)
    cells = {line.title: line.cells[0] for line in grid.lines}
    gain, teacher = cells["gain, sampled"], cells["over the teacher"]
    assert (gain.value, gain.low, gain.high, gain.beyond_noise) == ("+25.0", "12.5", "37.5", True)
    assert (teacher.value, teacher.low, teacher.beyond_noise) == ("+5.0", "-4.2", False)
    assert [line.title for line in grid.lines if line.marked] == ["gain, greedy (headline)"]
    assert len(grid.lines) == len(metrics["verified"]["contrasts"]) == 8


def test_kinds_stand_below_their_group(metrics):
    """Of 20 answers 8 follow a restriction before and 12 after; 40 - 60 and 60 - 40 is left."""
    grid = by_kind(metrics)
    assert [line.title for line in grid.lines if not line.cells] == [
        "Restrictions", "Marks", "Restrictions, kept out", "Marks, kept out",
    ]  # fmt: skip
    assert {line.title for line in grid.lines if line.cells} == set(KINDS)
    words = lines_of(grid)["words"]
    assert words[:5] == ["40.0", "60.0", "+20.0", "-20.0", "20.0"]
    sides = metrics["verified"]["arms"]["trained"]["kinds"]["words"]["sides"]
    assert words[5].splitlines()[1].startswith("at most words ")
    assert words[5].endswith(f"to {100 * sides['at_most_words']:.1f}")


def test_guards_say_of_how_many_answers(metrics):
    rows = {row.key: [cell.value for cell in row.cells] for row in guard_rows(metrics)}
    assert [label for _, label in guard_heads(metrics)] == ["warmed up", "trained", "teacher"]
    assert rows["right"] == ["25.0 % of 96", "22.0 % of 96", "50.0 % of 96"]
    assert rows["plain_right"] == ["35.0 % of 20", "32.0 % of 20", "60.0 % of 20"]
    assert rows["belongs"][1] == "72.0 % of 24"
    assert rows["teacher_logp"][1] == "-1.510"
    assert rows["plain_unasked"][1] == "bullets 12.5 %\nbold 5.0 %"
    repetition = metrics["models"]["trained"]["repetition"]
    assert rows["repetition"][1] == f"{100 * repetition:.1f} %"


def test_columns_and_rows_without_a_figure_are_left_out(metrics):
    """A rule that is no set of demands: one kind that is no mark, without an opposite."""
    for arm in metrics["verified"]["arms"].values():
        arm |= {"marks": None, "restrictions": None, "kept_out": None}
        arm["own_minus_opposite"] = dict.fromkeys(arm["own_minus_opposite"])
    for guards in metrics["verified"]["guards"].values():
        guards |= {"only_marks": None, "right": None, "plain": {}}
        del guards["belongs"]
    assert [column.title for column in grids_of(metrics)[0].columns] == [
        "trained kinds", "all at once", "tokens per answer",
    ]  # fmt: skip
    keys = [row.key for row in guard_rows(metrics)]
    assert keys == ["teacher_logp", "repetition", "distinct_2"]
    assert "20 held-out prompts" in grids_of(metrics)[0].about
    html_report(metrics, "")


# The pages, the terminal and the files.


def test_the_pages_have_every_table(metrics):
    html, markdown = html_report(metrics, ""), markdown_report(metrics, "")
    assert Page(html).open == []
    for title in (*TITLES, "Guards", "Figures"):
        assert f"<h2>{title}</h2>" in html and f"## {title}\n" in markdown
    assert "| warmed up, best of 16 |" in markdown and ">best of 16</th>" in html
    assert (
        html.index("Demands followed</h2>") < html.index("<h2>Guards") < html.index("<h2>Figures")
    )
    assert "bullets 12.5\u00a0%<br>bold 5.0\u00a0%" in html


@pytest.mark.drawn
def test_the_pictures(metrics):
    first, second = verified_plots(metrics)
    titles = [line.title for line in demands_followed(metrics).lines if "best of" not in line.title]
    shown = re.findall(r"<text[^>]*>([^<]*)</text>", first.svg)
    assert [text for text in shown if text in titles] == titles
    assert "best of" not in first.svg
    assert {"38", "76", "152", "304", "608"} <= set(
        re.findall(r"<text[^>]*>(\d+)</text>", second.svg)
    )
    assert "of the first 40 prompts, the point of all" in second.caption
    ids = re.findall(r'\bid="([^"]*)"', html_report(metrics, ""))
    assert len(ids) == len(set(ids))
    for name in list(metrics["verified"]["arms"]):
        if "best_of" in name:
            del metrics["verified"]["arms"][name]
    assert [plot.title for plot in verified_plots(metrics)] == [first.title]


@pytest.fixture
def long_numbers(metrics) -> dict[str, Any]:
    """As wide as figures get, and no shares that are round."""
    wide = interval(-12.34, -23.45, -10.11)
    for contrast in metrics["verified"]["contrasts"].values():
        contrast |= dict.fromkeys(("trained", "marks", "restrictions", "kept_out"), wide)
        contrast["kinds"] = dict.fromkeys(contrast["kinds"], wide)
    return metrics


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_has_every_number_whole(long_numbers, width):
    wide, narrow = [], []
    for found, columns in ((wide, 100), (narrow, width)):
        console = Console(width=columns, force_terminal=True, no_color=True, highlight=False)
        with console.capture() as captured:
            console.print(*terminal_tables(long_numbers, columns))
        text = re.sub(r"\x1b\[[\d;]*m", "", captured.get())
        assert max(len(line.rstrip()) for line in text.splitlines()) <= columns and "…" not in text
        found += re.findall(r"\[?[+-]?\d+\.\d+", text)
    assert set(wide) == set(narrow)  # a row's title stands beside each part of it


def test_the_terminal_fits_and_breaks_no_number(long_numbers, capsys):
    print_tables(long_numbers, Console())
    text = capsys.readouterr().out
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= 100
    assert "…" not in text
    for title in (*TITLES, "Guards"):
        assert title in lines
    assert sum("[-23.4, -10.1]" in line for line in lines) == 8 + len(KINDS)
    assert next(line for line in lines if "best of 16" in line).endswith(" 608 for 16")
    assert text.index("Demands followed") < text.index("40 held-out prompts, 80 responses")
    figures = text[text.index("40 held-out prompts, 80 responses") :]
    assert "Judge score minus warmed up" in figures and "KL to warmed up" in figures
    assert "Parameters" not in figures and "Wins over" not in figures
    assert " ".join(text.split()).startswith(headline(long_numbers))
    assert " ".join(text.split()).count("Verified by the rule `ifeval`") == 1


def test_every_verdict_is_in_a_file_beside_the_answers(tmp_path):
    from datasets import Dataset

    report = verified_report(bases=4, prompts=4)
    write_report(report, tmp_path)
    table = Dataset.from_parquet(str(tmp_path / "demands.parquet"))
    assert report.verified is not None
    assert table.column_names == list(asdict(report.verified.rows[0]))
    assert table.to_list() == [asdict(row) for row in report.verified.rows]
    assert set(table["arm"]) == set(ARMS)
    (tmp_path / "report.html").unlink()
    (tmp_path / "demands.parquet").unlink()
    assert main([str(tmp_path)]) == 0
    assert "What the gain is more than" in (tmp_path / "report.html").read_text()


def test_reports_from_before_anything_was_verified(tmp_path, capsys):
    metrics = json.loads(json.dumps(metrics_of(run_report(prompts=6))))
    del metrics["verified"]
    metrics["models"]["trained"]["quality"] = 0.84
    render(metrics, "", tmp_path)
    print_tables(metrics, Console())
    pages = (tmp_path / "report.html").read_text() + (tmp_path / "report.md").read_text()
    assert "Demands followed" not in pages + capsys.readouterr().out
    assert "Way to the teacher's score" in pages.replace("&#39;", "'") and "84 %" in pages


def test_a_rule_of_one_s_own_is_no_demand(metrics, capsys):
    block = metrics["verified"]
    block["rule"] = "my_checks:correct"
    for arm in block["arms"].values():
        arm["kept_out"] = None
        arm["kinds"] = {block["rule"]: next(iter(arm["kinds"].values()))}
    for contrast in block["contrasts"].values():
        contrast["kinds"] = {block["rule"]: next(iter(contrast["kinds"].values()))}
    print_summary(metrics, Console(width=80))
    told = capsys.readouterr().out
    assert "rule met, %" in told and "demands" not in told and "kinds" not in told
    titles = [grid.title for grid in grids_of(metrics)]
    assert titles == ["Rule met", "What the gain is more than"]
    assert grids_of(metrics)[0].columns[0].title == "answers"
    page = html_report(metrics, "")
    assert "Rule met, answers" in page and "Demands followed" not in page


def test_what_others_wrote_is_escaped(metrics):
    block = metrics["verified"]
    block["rule"] = block["prompting"]["chosen"] = ATTACK
    for arm in block["arms"].values():
        arm["label"] = ATTACK
        arm["kinds"] = dict.fromkeys((ATTACK, 2 * ATTACK), next(iter(arm["kinds"].values())))
    block["contrasts"]["sampled"]["kinds"] = dict.fromkeys((ATTACK, 2 * ATTACK))
    page = Page(html_report(metrics, ""))
    assert page.open == []
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    markdown_report(metrics, "")


def test_without_a_way_its_row_is_left_out(metrics):
    for model in metrics["models"].values():
        model["quality"] = None
    assert "Way to the teacher" not in html_report(metrics, "") + markdown_report(metrics, "")
