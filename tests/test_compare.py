"""Comparing run folders: what is written, what is said, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from compare_rows import CONFIG, OBJECTIVES, write_run, write_sweep
from omegaconf import OmegaConf

from rankdistill.compare import compare
from rankdistill.compare.__main__ import main
from rankdistill.compare.callback import CompareRuns
from rankdistill.compare.comparison import answered, compare_runs
from rankdistill.compare.contrasts import contrasts_of, names_of
from rankdistill.compare.groups import objectives_of
from rankdistill.compare.runs import read_runs
from rankdistill.compare.sentences import findings, headline
from rankdistill.compare.tables import COLUMNS, config_table, difference_rows, table_rows, win_rows


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("compare") / "sweep")


@pytest.fixture(scope="module")
def comparison(sweep):
    return compare_runs(read_runs([sweep]))


@pytest.fixture(scope="module")
def written(sweep, tmp_path_factory) -> Path:
    return compare([sweep], tmp_path_factory.mktemp("written") / "deep" / "to").parent


def refusal(capsys, *arguments: object) -> str:
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


def edited(run: Path, to: Path, change: Any) -> Path:
    """A copy of a run folder with other metrics."""
    shutil.copytree(run, to)
    metrics = json.loads((to / "metrics.json").read_text())
    change(metrics)
    (to / "metrics.json").write_text(json.dumps(metrics))
    return to


def test_runs_that_differ_in_the_seed_alone_are_one_objective(comparison):
    assert [o.label for o in comparison.objectives] == ["DPO", "PRO", "RRHF", "SimPO"]
    assert [[run.seed for run in o.runs] for o in comparison.objectives] == [[0, 1]] * 4
    assert {d.paired_seeds for d in comparison.differences} == {2}


def test_which_objective_has_one_seed_is_said(sweep):
    def cautions(*names: str) -> list[str]:
        runs = read_runs([sweep / f"objective={name}" for name in names])
        told = [finding.text for finding in findings(compare_runs(runs))]
        return [text.partition(":")[0] for text in told if text.startswith("One seed")]

    both = ("rrhf,seed=0", "rrhf,seed=1", "dpo,seed=0", "dpo,seed=1")
    assert cautions(*both) == []
    assert cautions(*both[:3]) == ["One seed of DPO"]
    assert cautions("rrhf,seed=0", "dpo,seed=0") == ["One seed"]


def test_what_differs_beyond_noise_is_said_and_what_does_not_is_called_equal(comparison):
    said = headline(comparison)
    assert re.match(r"RRHF is ahead of DPO and SimPO beyond noise on 40 held-out prompts", said)
    assert "against PRO it is not" in said
    told = " ".join(finding.text for finding in findings(comparison))
    assert "to be called equal here: RRHF and PRO" in told
    assert "worse than before training beyond noise: SimPO" in told
    verdicts = {pair: verdict for pair, _, _, verdict in difference_rows(comparison)}
    assert verdicts["RRHF minus PRO"] == "not beyond noise"
    assert verdicts["RRHF minus SimPO"] == "beyond noise"


def test_the_lead_is_the_mean_difference_to_the_student_before(comparison):
    objective = next(o for o in comparison.objectives if o.label == "RRHF")
    leads = []
    for run in objective.runs:
        trained, before = (run.metrics["models"][m] for m in ("trained", "warmed_up"))
        leads += [
            trained["prompt_scores"][p] - before["prompt_scores"][p] for p in comparison.prompts
        ]
    estimate = comparison.leads["RRHF"].estimate
    assert estimate.mean == pytest.approx(sum(leads) / len(leads))
    assert estimate.low < estimate.mean < estimate.high


def test_wins_against_each_other_add_up_to_all(comparison):
    rows = win_rows(comparison)
    assert [row.title for row in rows] == [o.label for o in comparison.ordered]
    for i, row in enumerate(rows):
        assert row.cells[i].value == "-"
        for j, cell in enumerate(row.cells):
            if i != j:
                other = rows[j].cells[i]
                both = float(cell.value[:-2]) + float(other.value[:-2])
                assert both == pytest.approx(100, abs=1.1)


def test_a_recipe_is_named_where_it_is_not_called_like_its_method(tmp_path):
    for name, recipe in (("RRHF", "zephyr_rrhf"), ("DPO", "dpo"), ("PRO", "none")):
        write_run(tmp_path / name, name, prompts=8, recipe=recipe)
    labels = [o.label for o in objectives_of(read_runs([tmp_path]).finished)]
    assert labels == ["DPO", "PRO", "RRHF (zephyr_rrhf)"]


def test_a_command_that_was_killed_in_a_finished_run_s_folder_names_no_objective(sweep, tmp_path):
    """Hydra had written its own overrides over those of the figures."""
    run, other = sweep / "objective=dpo,seed=0", sweep / "objective=rrhf,seed=0"

    def chosen(folder: Path) -> frozenset[str]:
        (folder / ".hydra").mkdir()
        (folder / ".hydra" / "overrides.yaml").write_text("[recipe=rrhf, objective=pro]")
        return read_runs([folder, other]).finished[0].chosen

    command = ["recipe=rrhf", "objective=dpo"]
    assert chosen(edited(run, tmp_path / "a", lambda m: m.update(overrides=command))) == {"dpo"}
    assert chosen(edited(run, tmp_path / "b", lambda m: m.update(overrides=[]))) == frozenset()
    earlier = edited(run, tmp_path / "c", lambda m: m.pop("overrides"))
    assert chosen(earlier) == {"pro"}


def test_two_shipped_objectives_of_one_class_are_called_by_their_options(tmp_path):
    shipped = Path(__file__).parents[1] / "conf" / "objective"
    for name in ("dpo", "rpo"):
        text = (shipped / f"{name}.yaml").read_text()
        config = "objective:\n" + "".join(f"  {line}\n" for line in text.splitlines())
        write_run(tmp_path / name, "DPO", 0, config=config)
    write_run(tmp_path / "other", "RRHF", 0, config="objective:\n  _target_: mine.RRHF\n")
    objectives = objectives_of(read_runs([tmp_path]).finished)
    assert [objective.label for objective in objectives] == ["DPO", "RRHF", "DPO (rpo)"]
    [contrast] = contrasts_of(["rpo-dpo"], names_of(objectives))
    assert contrast == ("DPO (rpo)", "DPO")


def test_a_reused_training_took_what_it_took_when_it_was_made(sweep, tmp_path):
    def reuse(metrics):
        for stage in metrics["stages"]:
            stage |= {"reused": True, "seconds": 0.01}

    again = edited(sweep / "objective=dpo,seed=0", tmp_path / "dpo", reuse)
    runs = read_runs([again, sweep / "objective=rrhf,seed=0"])
    cells = {row.key: [c.value for c in row.cells] for row in table_rows(compare_runs(runs))}
    assert cells["training_seconds"] == ["2 min 24 s", "2 min 23 s"]
    assert cells["computed_seconds"][1] == "0.0 s"
    assert cells["reused_stages"] == ["0 of 4", "4 of 4"]
    assert cells["peak_bytes"] == ["5.56 GB", "5.24 GB"]


def test_settings_that_differ_are_listed_and_name_what_has_no_other_name(tmp_path):
    for rate in ("1e-4", "1e-5"):
        # No run has a reward model, whose rates say nothing then.
        config = f"{CONFIG.replace('{rate}', rate)}\nreward:\n  learning_rate: {rate}\n"
        write_run(tmp_path / rate, "RRHF", prompts=8, config=config)
    comparison = compare_runs(read_runs([tmp_path]))
    labels = [o.label for o in objectives_of(read_runs([tmp_path]).finished)]
    assert labels[0].startswith("learning rate 0.0001")
    assert [row[0] for row in config_table(comparison)] == ["train.learning_rate"]


def test_a_failed_point_is_shown_with_its_sentence(comparison, written):
    assert [run.folder.name for run in comparison.failed] == ["objective=ppo,seed=0"]
    for name in ("report.html", "report.md"):
        assert "The loss is not a number at step 12" in (written / name).read_text()


def test_a_point_that_failed_after_it_had_finished_counts_as_failed(sweep, tmp_path):
    shutil.copytree(sweep, tmp_path / "sweep")
    (tmp_path / "sweep" / "objective=dpo,seed=1" / "failure.txt").write_text("No space.\n")
    runs = read_runs([tmp_path / "sweep"])
    assert next(run.sentence for run in runs.failed) == "No space."
    assert len(runs.finished) == 7


def test_the_table_for_a_spreadsheet_has_every_figure(written):
    rows = list(csv.DictReader((written / "results.csv").read_text().splitlines()))
    assert list(rows[0]) == COLUMNS
    assert [row["objective"] for row in rows] == ["RRHF", "PRO", "DPO", "SimPO", ""]
    best = rows[0]
    assert best["seeds"] == "0;1" and best["beyond_noise_over"] == "DPO;SimPO"
    assert float(best["lead_low"]) < float(best["lead"]) < float(best["lead_high"])
    assert float(best["lead_p"]) < 0.05 and best["measure"] == "judge score"
    assert "step 12" in rows[-1]["failure"]


def test_the_page_needs_nothing_else_and_works_without_its_script(written):
    page = (written / "report.html").read_text()
    without_names = re.sub(r"https?://www\.w3\.org/\S+", "", page)
    assert not re.search(r"(src|href)=\"(?!#)|https?://|@import|url\((?!#)", without_names)
    spread = [float(x) for x in re.findall(r'data-disagreement="([\d.e-]+)"', page)]
    assert len(spread) == 40 and spread == sorted(spread, reverse=True)
    assert '<p class="sort" hidden>' in page
    for title in ("Score against KL: the frontier", "Score against length", "Rank accuracy"):
        assert title in page


@pytest.mark.drawn
def test_what_models_wrote_is_escaped(sweep, tmp_path):
    run = tmp_path / "dpo"
    shutil.copytree(sweep / "objective=dpo,seed=0", run)
    rows = (run / "answers.jsonl").read_text().splitlines()
    row = json.loads(rows[0])
    row["responses"]["trained"][0]["text"] = "<script>alert(1)</script>"
    (run / "answers.jsonl").write_text("\n".join([json.dumps(row), *rows[1:]]) + "\n")
    page = compare([run, sweep / "objective=rrhf,seed=0"], tmp_path / "to").read_text()
    assert "alert(1)" in page and "<script>alert" not in page
    assert "<h1>2 objectives, 2 runs</h1>" in page


def test_answers_stand_side_by_side_by_disagreement(comparison):
    shown = answered(comparison)
    assert len(shown) == 40 and set(shown[0].responses) == set(OBJECTIVES)
    assert [one.disagreement for one in shown] == sorted(
        (one.disagreement for one in shown), reverse=True
    )
    metrics = comparison.objectives[0].runs[0].metrics
    one = shown[0]
    first = metrics["models"]["trained"]["response_scores"][one.prompt_id][0]
    assert one.responses[comparison.objectives[0].label]["score"] == first


def test_runs_that_only_order_held_out_rankings_are_compared_by_pairs(sweep, tmp_path):
    from test_report_ranked import ranked_set

    folders = [
        write_run(
            tmp_path / name, name, prompts=4, models=[], groups={}, ranked_set=ranked_set(1.0),
            start=None, teacher=None, control=None,
        )
        for name in ("RRHF", "DPO")
    ]  # fmt: skip
    comparison = compare_runs(read_runs(folders))
    assert comparison.measure == "share of pairs in order"
    assert headline(comparison).startswith("No difference between the 2 objectives is beyond noise")
    keys = {row.key for row in table_rows(comparison)}
    assert {"pairs_before", "pairs_after", "pairs_longer"} <= keys and not win_rows(comparison)
    compare(folders, tmp_path / "to")


def test_other_held_out_prompts_are_refused_with_the_reason(sweep, tmp_path, capsys):
    other = write_run(tmp_path / "other", "DPO", prompts=30)
    said = refusal(capsys, sweep / "objective=rrhf,seed=0", other)
    assert "their held-out prompts differ (30 in common, 0 only in the first, 10 only" in said


def test_another_judge_and_other_numbers_of_answers_are_refused(sweep, tmp_path, capsys):
    first = sweep / "objective=rrhf,seed=0"
    other = edited(
        sweep / "objective=dpo,seed=0", tmp_path / "judge",
        lambda m: m["judge"].update(name="score of a judge"),
    )  # fmt: skip
    assert "it was judged by score of a judge, the other by likelihood" in refusal(
        capsys, first, other
    )
    config = CONFIG.replace("responses_per_prompt: 2", "responses_per_prompt: 4")
    other = write_run(tmp_path / "more", "DPO", config=config)
    assert "its eval.quick.responses_per_prompt is 4, the other's 2" in refusal(
        capsys, first, other
    )


def test_mistakes_are_one_sentence(sweep, tmp_path, capsys):
    assert "There is no run folder" in refusal(capsys, tmp_path / "nothing")
    assert "holds no run" in refusal(capsys, tmp_path)
    assert "only one run" in refusal(capsys, sweep / "objective=rrhf,seed=0")
    failed = sweep / "objective=ppo,seed=0"
    assert "has finished, so nothing can be compared: The loss" in refusal(capsys, failed)
    (tmp_path / "file").touch()
    two = [sweep / f"objective=rrhf,seed={seed}" for seed in (0, 1)]
    assert "cannot be written" in refusal(capsys, *two, "--to", tmp_path / "file")


def test_files_of_a_person_are_kept_and_earlier_comparisons_replaced(sweep, tmp_path, capsys):
    (tmp_path / "report.md").write_text("mine")
    two = [str(sweep / f"objective=rrhf,seed={seed}") for seed in (0, 1)]
    assert main([*two, "--to", str(tmp_path)]) == 0
    assert "report.md.1" in capsys.readouterr().out
    assert (tmp_path / "report.md.1").read_text() == "mine"
    (tmp_path / "demands.parquet").write_text("not a table of ours")
    assert main([*two, "--to", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {
        "report.html", "report.md", "report.md.1", "results.csv", "demands.parquet",
    }  # fmt: skip
    another = sweep / "objective=dpo,seed=0"
    before = (another / "metrics.json").read_bytes(), sorted(another.iterdir())
    assert "is the folder of a run" in refusal(capsys, *two, "--to", another)
    assert before == ((another / "metrics.json").read_bytes(), sorted(another.iterdir()))


def test_the_end_of_a_sweep_compares_its_points_and_prints_where(sweep, tmp_path, capsys):
    shutil.copytree(sweep, tmp_path / "sweep")
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "sweep")}}})
    CompareRuns().on_multirun_end(config)
    page = tmp_path / "sweep" / "comparison" / "report.html"
    told = capsys.readouterr().out
    assert page.is_file() and str(page) in told
    assert "RRHF is ahead of DPO and SimPO beyond noise on 40 held-out prompts" in told
    CompareRuns().on_multirun_end(config)  # the comparison itself is no run
    assert page.is_file()


def test_a_sweep_that_cannot_be_compared_says_why(tmp_path, capsys):
    write_run(tmp_path / "sweep" / "a", "RRHF", prompts=4)
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path / "sweep")}}})
    CompareRuns().on_multirun_end(config)
    assert "No comparison: only one run" in capsys.readouterr().out


def suites(accuracy: float, about: str = "5-shot") -> dict[str, Any]:
    def figure(mean: float, **changes: Any) -> dict[str, Any]:
        return {
            "title": "GSM8K", "meaning": "Share of right answers.", "mean": mean, "low": 0.0,
            "high": 1.0, "items": 50, "share": True, "detail": False,
        } | changes  # fmt: skip

    trained = {"label": "trained", "counts": {}, "figures": {
        "exact_match": figure(accuracy), "part": figure(0.5, detail=True),
    }}  # fmt: skip
    return {"gsm8k": {"version": 1, "about": about, "models": {"trained": trained}}}


def test_suites_are_rows_where_all_runs_measured_them_alike(tmp_path):
    for name, seed, accuracy in (("RRHF", 0, 0.25), ("RRHF", 1, 0.5), ("DPO", 0, 0.75)):
        write_run(tmp_path / f"{name}{seed}", name, seed, prompts=8, suites=suites(accuracy))
    comparison = compare_runs(read_runs([tmp_path]))
    row = next(row for row in table_rows(comparison) if row.key == "gsm8k.exact_match")
    by_label = dict(zip([o.label for o in comparison.ordered], row.cells, strict=True))
    assert {label: cell.value for label, cell in by_label.items()} == {
        "RRHF": "37.5 %",
        "DPO": "75.0 %",
    }
    assert not [row for row in table_rows(comparison) if row.key == "gsm8k.part"]
    rows = list(
        csv.DictReader((compare([tmp_path], tmp_path / "to").parent / "results.csv").open())
    )
    assert {r["objective"]: r["gsm8k.exact_match"] for r in rows} == {
        "RRHF": "0.375",
        "DPO": "0.75",
    }

    write_run(tmp_path / "DPO0", "DPO", 0, prompts=8, suites=suites(0.75, "0-shot"))
    comparison = compare_runs(read_runs([tmp_path]))
    assert not [row for row in table_rows(comparison) if row.key.startswith("gsm8k")]


def test_stages_of_different_versions_are_told(sweep, tmp_path):
    text = (compare([sweep], tmp_path / "same").with_name("report.md")).read_text()
    assert "different versions" not in text
    shutil.copytree(sweep, tmp_path / "sweep")
    run = sorted(path.parent for path in (tmp_path / "sweep").glob("*/metrics.json"))[0]
    metrics = json.loads((run / "metrics.json").read_text())
    stage = next(stage for stage in metrics["stages"] if stage["stage"] == "train")
    stage |= {"reused": True, "versions": {"transformers": "4.0.0"}}
    (run / "metrics.json").write_text(json.dumps(metrics))
    page = compare([tmp_path / "sweep"], tmp_path / "c")
    told = "Stages were made with different versions of transformers (4.0.0: train; 5.17.0: "
    assert told in page.with_name("report.md").read_text().replace("\\", "")
    assert "different versions of transformers" in page.read_text()
