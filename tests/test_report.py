"""The report says what the figures allow, escapes what models wrote, and needs nothing else."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from folders import content
from markdown_it import MarkdownIt
from report_rows import MODELS, STAGES, held_out_groups, model_figures, run_report
from rich.console import Console

from rankdistill.report import metrics_of, read_metrics, terminal_tables, write_report
from rankdistill.report.__main__ import main
from rankdistill.report.answers import plain
from rankdistill.report.headline import findings, headline, judge_warning
from rankdistill.report.html import html_report
from rankdistill.report.markdown import markdown_report
from rankdistill.report.table import number, percent, signed, table_rows
from rankdistill.statistics import paired_difference
from rankdistill.store.written import RECORD


def scores_of(metrics: dict[str, Any], name: str) -> dict[str, float]:
    return metrics["models"][name]["prompt_scores"]


def with_trained_scores(change, **more: Any) -> dict[str, Any]:
    """Metrics of a run whose trained student scores `change(baseline's score, prompt number)`."""
    groups = {name: held_out_groups(name, 40) for name in MODELS}
    models = []
    for name, rows in groups.items():
        figures = model_figures(name, rows)
        if name == "trained":
            base = model_figures("warmed_up", groups["warmed_up"]).per_prompt
            changed = {
                key: replace(base[key], scores=[change(s, i) for s in base[key].scores])
                for i, key in enumerate(base)
            }
            figures = replace(figures, per_prompt=changed)
        models.append(replace(figures, **more.get(name, {})))
    return metrics_of(run_report(models=models, groups=groups))


def text_of(found) -> str:
    return " ".join(f"[{finding.kind}] {finding.text}" for finding in found)


# metrics.json


def test_metrics_hold_every_figure_under_its_key(metrics):
    trained = metrics["models"]["trained"]
    for row in table_rows(metrics):
        assert row.key in trained
    assert trained["prompts"] == 40
    assert trained["responses"] == 80
    assert trained["kendall_tau"]["groups"] == 39
    assert trained["kendall_tau"]["skipped"] == 1
    assert metrics["models"]["warmed_up"]["score_difference"] is None
    assert list(metrics["models"]) == list(MODELS)


@pytest.mark.parametrize(("pairs", "told"), [(99, False), (100, True)])
def test_an_agreement_over_few_pairs_is_not_told(pairs, told):
    models = [replace(model, ordered_pairs=pairs) for model in run_report().models]
    found = metrics_of(run_report(models=models))
    assert (found["models"]["trained"]["kendall_tau"]["mean"] is not None) is told
    assert ("kendall_tau" in [row.key for row in table_rows(found)]) is told


def test_differences_are_paired_by_prompt_id(metrics):
    trained, base = scores_of(metrics, "trained"), scores_of(metrics, "warmed_up")
    prompts = sorted(trained)
    expected = paired_difference([trained[p] for p in prompts], [base[p] for p in prompts], seed=0)
    assert metrics["models"]["trained"]["score_difference"] == vars(expected)


def test_models_are_compared_on_the_prompts_they_share():
    groups = {name: held_out_groups(name, 40) for name in ("warmed_up", "trained")}
    groups["trained"] = groups["trained"][10:]
    models = [model_figures(name, rows) for name, rows in groups.items()]
    found = metrics_of(run_report(models=models, groups=groups))
    assert found["models"]["trained"]["compared_prompts"] == 30
    assert found["control"] is None
    assert found["trained_against_control"] is None


def test_a_score_is_a_share_of_the_way_to_the_teachers():
    """The student before any training is 0, the teacher 1, and one half way is one half."""
    groups = {
        name: held_out_groups(name, 12) for name in ("start", "warmed_up", "trained", "teacher")
    }
    values = {"start": -3.0, "warmed_up": -2.0, "trained": -1.5, "teacher": -1.0}
    models = []
    for name, rows in groups.items():
        figures = replace(model_figures(name, rows), disk_bytes=269_000_000)
        scored = {
            key: replace(s, scores=[values[name]] * len(s.scores))
            for key, s in figures.per_prompt.items()
        }
        models.append(replace(figures, per_prompt=scored))
    report = run_report(models=models, groups=groups)
    found = {name: m["quality"]["mean"] for name, m in metrics_of(report)["models"].items()}
    assert found == {"start": 0.0, "warmed_up": 0.5, "trained": 0.75, "teacher": 1.0}
    cells = {row.key: [cell.value for cell in row.cells] for row in table_rows(metrics_of(report))}
    assert cells["quality"] == ["0 %", "50 %", "75 %", "100 %"]
    assert cells["disk_bytes"] == ["269 MB"] * 4
    without = metrics_of(run_report(models=models[1:], groups=groups))
    assert without["models"]["trained"]["quality"] is None


def test_metrics_survive_the_file(tmp_path, metrics):
    written = write_report(run_report(), tmp_path)
    assert written == metrics
    assert read_metrics(tmp_path) == metrics
    assert {p.name for p in tmp_path.iterdir()} == {
        "metrics.json", "config.yaml", "answers.jsonl", "report.md", "report.html", ".written.json",
    }  # fmt: skip


def test_the_run_folder_keeps_every_answer_with_its_score(tmp_path):
    report = run_report(prompts=5)
    write_report(report, tmp_path)
    lines = (tmp_path / "answers.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["prompt_id"] for row in rows] == [f"p{i:03d}" for i in range(5)]
    for name, groups in report.groups.items():
        for row, group in zip(rows, groups, strict=True):
            assert row["messages"] == group["messages"]
            assert [a["score"] for a in row["responses"][name]] == [
                r["score"] for r in group["responses"]
            ]
            assert row["responses"][name][1]["text"] == group["responses"][1]["text"]


def test_what_is_not_finite_is_null():
    groups = {name: held_out_groups(name, 3) for name in ("warmed_up", "trained")}
    models = [replace(model_figures(n, rows), entropy=math.nan) for n, rows in groups.items()]
    history = [{"step": 1, "loss": math.inf}, {"step": 2, "loss": math.nan}]
    found = metrics_of(run_report(models=models, groups=groups, training_history=history))
    text = json.dumps(found, allow_nan=False)
    assert found["models"]["trained"]["entropy"] is None
    assert [row["loss"] for row in found["training_history"]] == [None, None]
    assert "NaN" not in text and "Infinity" not in text
    html_report(found, "")


def test_plain_values():
    import numpy as np

    values = {"a": (1, np.float32(0.5)), "b": np.int64(3), 4: True, "c": -math.inf}
    assert plain(values) == {"a": [1, 0.5], "b": 3, "4": True, "c": None}


def test_a_run_without_the_compared_models_is_refused():
    with pytest.raises(ValueError, match="'warmed_up' is not among"):
        metrics_of(run_report(names=("trained",)))


# what the sentences claim


def test_a_clear_gain_is_claimed(metrics):
    text = headline(metrics)
    assert text.startswith("The trained student scores above the warmed up student on 40 held-out")
    difference = metrics["models"]["trained"]["score_difference"]
    assert signed(difference["mean"]) in text and signed(difference["low"]) in text


def test_noise_is_called_noise():
    found = with_trained_scores(lambda score, i: score + (0.5 if i % 2 else -0.5))
    assert "no difference between the trained student and the warmed up student can be told" in (
        headline(found)
    )
    assert "[warning] The 95 % interval of the difference includes 0" in text_of(findings(found))


def test_a_loss_is_called_a_loss():
    found = with_trained_scores(lambda score, i: score - 1.0 - 0.01 * i)
    assert "scores below the warmed up student" in headline(found)


def test_a_gain_over_the_control_is_more_than_sharpening(metrics):
    assert "[good] More than sharpening" in text_of(findings(metrics))


def test_a_control_that_is_not_beaten_is_said():
    found = with_trained_scores(lambda score, i: score + 0.2 + 0.01 * (i % 3))
    assert "Not shown to be more than sharpening" in text_of(findings(found))
    assert "[good]" not in text_of(findings(found))


def test_a_control_that_wins_is_said():
    found = with_trained_scores(lambda score, i: score - 1.0 - 0.01 * i)
    assert "Not more than sharpening: it scores below" in text_of(findings(found))


def test_a_control_that_is_less_sharp_rules_nothing_out():
    found = with_trained_scores(lambda score, i: score + 2.0 + 0.01 * i, sharpened={"entropy": 1.7})
    assert "sharpening is not ruled out" in text_of(findings(found))
    assert "[good]" not in text_of(findings(found))


def test_one_prompt_proves_nothing():
    found = metrics_of(run_report(prompts=1))
    assert "no difference" in headline(found)
    assert "A single prompt has no interval" in text_of(findings(found))


def test_few_prompts_and_unscored_responses_are_said():
    rows = {name: held_out_groups(name, 8) for name in ("warmed_up", "trained")}
    models = [replace(model_figures(n, groups), unscored=3) for n, groups in rows.items()]
    found = metrics_of(run_report(models=models, groups=rows))
    text = text_of(findings(found))
    assert "Only 8 prompts" in text
    assert "3 responses of trained got no score" in text


def test_the_banner_is_there_only_where_the_judge_was_the_teacher(metrics, page_text):
    assert "Judged by its own teacher" in page_text
    assert "Judged by its own teacher" in markdown_report(metrics, "")
    other = {**metrics, "judge": {"name": "another", "is_training_teacher": False}}
    assert judge_warning(other) is None
    assert "Judged by its own teacher" not in html_report(other, "") + markdown_report(other, "")


def test_samples_are_spread_from_the_largest_loss_to_the_largest_gain(metrics):
    trained, base = scores_of(metrics, "trained"), scores_of(metrics, "warmed_up")
    differences = sorted(trained[p] - base[p] for p in trained)
    shown = [sample["difference"] for sample in metrics["samples"]]
    assert shown == [differences[i] for i in (0, 8, 16, 23, 31, 39)]
    first = held_out_groups("teacher", 40)
    texts = {g["prompt_id"]: g["responses"][0]["text"] for g in first}
    for sample in metrics["samples"]:
        assert list(sample["responses"]) == list(MODELS)
        assert sample["responses"]["teacher"]["text"] == texts[sample["prompt_id"]]


# tables and the command


def test_the_markdown_table_has_every_figure(metrics):
    tokens = MarkdownIt("commonmark").enable("table").parse(markdown_report(metrics, "a: 1\n"))
    tables: list[list[list[str]]] = []
    for position, token in enumerate(tokens):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tokens[position - 1].type in ("th_open", "td_open"):
            tables[-1][-1].append(token.content)
    figures, stages = tables
    assert figures[0] == ["", *(label for label, *_ in MODELS.values())]
    assert [row[0] for row in figures[1:]] == [row.title for row in table_rows(metrics)]
    assert all(len(row) == 6 for row in figures)
    assert len(stages) == 1 + len(metrics["stages"])


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_terminal_table_fits_and_is_plain_in_a_pipe(metrics, width):
    console = Console(width=width, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(*terminal_tables(metrics, width))
    text = capture.get()
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= width
    score = metrics["models"]["trained"]["score"]["mean"]
    assert re.search(rf"Judge score .*{re.escape(number(score))}", text)
    assert "…" not in text
    told = {cell.value for row in table_rows(metrics) for cell in row.cells}
    assert all(value in text for value in told)


def test_labels_are_no_markup(metrics):
    models = {**metrics["models"]}
    models["trained"] = {**models["trained"], "label": "[bold]x[/bold]"}
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(*terminal_tables({**metrics, "models": models}))
    assert "[bold]x[/bold]" in capture.get()


# making it again


def test_the_report_is_made_again_from_its_folder(tmp_path, capsys):
    write_report(run_report(), tmp_path)
    before = content(tmp_path)
    (tmp_path / "report.html").unlink()
    (tmp_path / "report.md").unlink()
    assert main([str(tmp_path)]) == 0
    assert content(tmp_path).keys() == before.keys()
    assert all(content(tmp_path)[name] == before[name] for name in before.keys() - {RECORD})
    assert "Judge score" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no metrics.json"), ("{", "is not JSON"), ('{"format": 0}', "of format 2")],
)
def test_a_folder_without_usable_metrics_is_one_sentence(tmp_path, capsys, content, message):
    if content is not None:
        (tmp_path / "metrics.json").write_text(content)
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# figures as text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.12345, "0.123"), (-1.5, "-1.500"), (12.345, "12.35"), (123.45, "123.5"), (12345.6, "12346"),
     (-0.0001, "0.000"), (None, "-")],
)  # fmt: skip
def test_numbers(value, text):
    assert number(value) == text


def test_differences_and_shares():
    assert [signed(x) for x in (0.5, -0.5, 0.0, None)] == ["+0.500", "-0.500", "0.000", "-"]
    assert [percent(x) for x in (0.0, 0.034, 0.5, 1.0, None)] == [
        "0 %",
        "3.4 %",
        "50 %",
        "100 %",
        "-",
    ]


def test_a_stage_of_other_versions_says_which(tmp_path):
    done = {"torch": "2.13.0", "transformers": "4.0.0"}
    old = [replace(stage, versions=done) for stage in STAGES if stage.reused]
    new = [replace(stage, versions={"torch": "2.13.0"}) for stage in STAGES if not stage.reused]
    metrics = write_report(run_report(4, stages=[*old, *new]), tmp_path)
    assert [stage["versions"] for stage in metrics["stages"][:2]] == [{"transformers": "4.0.0"}, {}]
    for name in ("report.md", "report.html"):
        text = (tmp_path / name).read_text()
        assert text.count("made in 9.1 s with transformers 4.0.0") == 1
        assert text.count(" with transformers") == 1
        said = text.replace("\\", "").partition("Stages were made with different versions of ")[2]
        assert said.startswith("transformers (4.0.0: ")
    both = replace(new[0], versions={"torch": "2.12.0 and 2.13.0"})
    write_report(run_report(4, stages=[both]), tmp_path / "both")
    text = (tmp_path / "both" / "report.md").read_text().replace("\\", "")
    stage = both.stage
    assert f"different versions of torch (2.12.0: {stage}; 2.13.0: {stage})" in text
    assert text.count(" with torch 2.12.0 and 2.13.0") == 1
    same = write_report(run_report(4, stages=new), tmp_path / "same")
    assert all(stage["versions"] == {} for stage in same["stages"])
    assert "different versions" not in (tmp_path / "same" / "report.md").read_text()
