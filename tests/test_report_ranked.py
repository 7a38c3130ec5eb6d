"""The report on held-out rankings, beside sampled figures and without any."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from report_rows import run_report
from rich.console import Console

from rankdistill.evaluate.ranked import RankedSet, Ranking
from rankdistill.report import (
    metrics_of,
    print_summary,
    print_tables,
    render,
    terminal_tables,
    write_report,
)
from rankdistill.report.headline import findings, headline
from rankdistill.report.ranked import ranked_rows
from rankdistill.statistics import paired_difference


def ranked_set(gain: float, prompts: int = 40) -> RankedSet:
    """Four responses per prompt, longer mostly better; `gain` moves the policy to the ranking."""
    noise = np.random.default_rng(0)
    rankings, before, after = [], [], []
    for index in range(prompts):
        lengths = noise.integers(20, 60, 4)
        quality = noise.normal(size=4) + 0.05 * lengths
        ranks = np.argsort(np.argsort(-quality)).tolist()
        whole = lengths.tolist()
        rankings.append(Ranking(f"p{index}", ranks, [min(n, 40) for n in whole], whole))
        policy = noise.normal(size=4)
        before.append(policy.tolist())
        after.append((policy + gain * quality).tolist())
    return RankedSet(
        name="ranked.jsonl",
        length_match=0.1,
        rankings=rankings,
        labels={"warmed_up": "before training", "trained": "trained"},
        mean_logps={"warmed_up": before, "trained": after},
        cut=37,
    )


def without_sampling(gain: float = 1.0, **changes):
    return run_report(models=[], groups={}, ranked_set=ranked_set(gain), **changes)


def test_every_figure_is_that_of_the_statistics():
    given = ranked_set(1.0)
    metrics = metrics_of(without_sampling())
    block = metrics["ranked_set"]
    assert list(block["models"]) == ["longer", "warmed_up", "trained"]
    assert block["pairs"] == 240 and block["prompts"] == 40 and block["cut_share"] == 37 / 160
    trained, before = block["models"]["trained"], block["models"]["warmed_up"]
    after, start = (list(m["prompt_accuracy"].values()) for m in (trained, before))
    assert trained["pair_accuracy"]["mean"] == pytest.approx(np.mean(after))
    difference = paired_difference(after, start, seed=0)
    assert trained["pair_accuracy_difference"]["mean"] == pytest.approx(difference.mean)
    assert trained["pair_accuracy_difference"]["low"] > 0
    assert before["pair_accuracy_difference"] is None and before["log_ratio_accuracy"] is None
    # What training added is the quality itself: its order by log-ratio is right where the tokens
    # that the policy sees are equally many.
    assert trained["log_ratio_accuracy"]["mean"] > 0.8
    longer = block["models"]["longer"]
    assert longer["pair_accuracy"]["mean"] > 0.6 and longer["sum_accuracy"] is None
    assert len(given.rankings) == 40


def test_the_headline_names_both_students_and_the_longer_first():
    said = headline(metrics_of(without_sampling()))
    block = metrics_of(without_sampling())["ranked_set"]["models"]
    for name in ("trained", "warmed_up", "longer"):
        assert f"{100 * block[name]['pair_accuracy']['mean']:.1f} %" in said
    assert (
        "before training" in said and "95 % interval +" in said and "longer response first" in said
    )


def test_no_change_is_called_noise_and_below_the_longer_first_is_said():
    said = [f.text for f in findings(metrics_of(without_sampling(gain=0.0)))]
    assert any("may be noise" in text for text in said)
    assert any("no better than putting the longer response first" in text for text in said)
    assert any("about the same length" in text for text in said)
    assert any("23 % of the held-out responses were cut" in text for text in said)


@pytest.mark.drawn
def test_a_run_that_samples_nothing_has_all_its_files(tmp_path: Path):
    metrics = write_report(without_sampling(), tmp_path)
    markdown = (tmp_path / "report.md").read_text()
    assert "## Held-out rankings" in markdown and "## Figures" not in markdown
    assert "Responses" not in markdown
    html = (tmp_path / "report.html").read_text()
    assert html.startswith("<!doctype html>")
    assert "Held-out pairs in order" in html and "Training: rank accuracy" in html
    assert "var(--series-" in html and "#0a0b" not in html
    console = Console(width=80, record=True, file=(tmp_path / "out").open("w"))
    console.print(*terminal_tables(metrics))
    table = console.export_text()
    assert "40 held-out rankings, 240 pairs" in table and "longer first" in table
    assert max(map(len, table.splitlines())) <= 80
    for told in (print_summary, print_tables):
        out = io.StringIO()
        told(metrics, Console(file=out, width=80, highlight=False))
        # The verdict and below it the tables, as of any other run.
        assert " ".join(out.getvalue().split()).startswith(headline(metrics))


def test_beside_sampled_figures_it_is_a_table_of_its_own(tmp_path: Path):
    report = run_report(ranked_set=ranked_set(1.0))
    metrics = write_report(report, tmp_path)
    assert headline(metrics) == headline(metrics_of(run_report()))
    assert any("held-out rankings" in finding.text for finding in findings(metrics))
    markdown = (tmp_path / "report.md").read_text()
    assert markdown.index("## Figures") < markdown.index("## Held-out rankings")
    assert len(terminal_tables(metrics)) == 2


def test_a_report_from_before_there_were_rankings_is_made_again(tmp_path: Path):
    metrics = json.loads(json.dumps(metrics_of(run_report())))
    del metrics["ranked_set"]
    render(metrics, "", tmp_path)
    assert "Held-out rankings" not in (tmp_path / "report.md").read_text()
    assert len(terminal_tables(metrics)) == 1


def test_rows_say_nothing_where_nothing_can_change():
    rows = {row.key: row for row in ranked_rows(metrics_of(without_sampling()))}
    assert [cell.value for cell in rows["pair_accuracy_difference"].cells[:2]] == ["-", "-"]
    assert rows["pair_accuracy_difference"].cells[2].beyond_noise
    assert [cell.value for cell in rows["log_ratio_accuracy"].cells[:2]] == ["-", "-"]
    assert rows["against_longer"].cells[0].value == "-"


def test_no_pair_of_equal_length():
    given = ranked_set(1.0, prompts=3)
    spread = [Ranking(r.prompt_id, r.ranks, r.tokens, [1, 10, 100, 1000]) for r in given.rankings]
    report = run_report(models=[], groups={}, ranked_set=RankedSet(
        given.name, 0.1, spread, given.labels, given.mean_logps, 0))  # fmt: skip
    metrics = metrics_of(report)
    assert metrics["ranked_set"]["matched_pairs"] == 0
    assert metrics["ranked_set"]["models"]["trained"]["matched_accuracy"] is None
    assert headline(metrics) and ranked_rows(metrics)[3].cells[2].value == "-"
