"""Verified runs compared: figures from hand-made rows, what is said of them, what is kept."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pyarrow.parquet as pq
import pytest
from compare_rows import (
    CONFIG,
    demand,
    made_up_demands,
    write_run,
    write_verified_sweep,
)

from rankdistill.compare import compare
from rankdistill.compare.__main__ import main
from rankdistill.compare.comparison import answered, compare_runs
from rankdistill.compare.demands import SCHEMA, RunDemands, by_run, read
from rankdistill.compare.groups import objectives_of
from rankdistill.compare.runs import read_runs
from rankdistill.compare.sentences import findings, headline
from rankdistill.compare.tables import COLUMNS, table_rows
from rankdistill.compare.verified import contributions, over_seeds, verified_rows, verified_tables
from rankdistill.evaluate.verified import FORM, DemandRow, difference, share, tally
from rankdistill.report.answers import demands_file
from rankdistill.report.html import typeset
from rankdistill.store.written import put_files

SCRIPT = Path(__file__).parents[1] / "docs" / "figures" / "demands.py"
BEFORE = {"words": "100", "title": "01."}
"""Followed on the base prompts a, b and c: (1/3 + 1/2) / 2 = 5/12 over both kinds."""
GREEDY = {"words": "110", "title": "01."}
"""(2/3 + 1/2) / 2 = 7/12."""


def followed(arm: str, kinds: dict[str, str], tokens: int = 10) -> list[DemandRow]:
    """Rows of the base prompts a, b, c: `1` followed, `0` not, `.` not asked for."""
    return [
        demand(arm, cluster, kind, float(mark), tokens=tokens, opposite=1.0 - float(mark))
        for kind, marks in kinds.items()
        for cluster, mark in zip("abc", marks, strict=True)
        if mark != "."
    ]


def run(objective: str, seed: int, trained: dict[str, str], **arms: dict[str, str]) -> RunDemands:
    rows = followed("trained", trained, tokens=20 + 10 * seed) + followed("warmed_up", BEFORE)
    for arm, kinds in arms.items():
        rows += followed(arm, kinds)
    return RunDemands(f"{objective},seed={seed}", objective, seed, rows)


def two_by_two() -> list[RunDemands]:
    """RRHF follows (2/3 + 1) / 2 = 10/12 and (1 + 1/2) / 2 = 9/12, DPO 5/12 and 7/12."""
    greedy = {"trained_greedy": {"words": "111", "title": "01."}, "warmed_up_greedy": GREEDY}
    return [
        run("DPO", 0, BEFORE),
        run("DPO", 1, GREEDY),
        run("RRHF", 0, {"words": "110", "title": "11."}, sharpened=GREEDY, **greedy),
        run("RRHF", 1, {"words": "111", "title": "10."}, sharpened=GREEDY, **greedy),
    ]


def test_figures_are_means_over_kinds_then_over_seeds():
    tables = verified_tables(two_by_two())
    assert list(tables.figures) == ["RRHF", "DPO"] and tables.base_prompts == 3
    own = tables.figures["RRHF"]
    assert own["trained"].per_seed == pytest.approx({0: 10 / 12, 1: 9 / 12})
    assert own["trained"].interval.mean == pytest.approx(19 / 24)
    assert own["restrictions"].interval.mean == pytest.approx((2 / 3 + 1) / 2)
    assert own["marks"].interval.mean == pytest.approx((1 + 1 / 2) / 2)
    # Of a, b, c all demands are followed by a and b with seed 0, and by a and c with seed 1.
    assert own["strict"].per_seed == pytest.approx({0: 2 / 3, 1: 2 / 3})
    # An opposite is met where the demand is not: 2 x 10/12 - 1, and 2 x 9/12 - 1.
    assert own["own_minus_opposite"].interval.mean == pytest.approx((8 / 12 + 6 / 12) / 2)
    assert own["tokens"].per_seed == {0: 20.0, 1: 30.0}
    assert "kept_out" not in own and "teacher" not in own


def test_gains_are_paired_by_seed_and_the_smaller_one_counts():
    tables = verified_tables(two_by_two())
    own = tables.figures["RRHF"]
    assert own["sampled"].per_seed == pytest.approx({0: 5 / 12, 1: 4 / 12})
    assert own["sampled"].interval.mean == pytest.approx(4.5 / 12)
    assert own["greedy"].per_seed == pytest.approx({0: 2 / 12, 1: 2 / 12})  # 9/12 over 7/12
    assert tables.gain("RRHF") == ("greedy", own["greedy"])
    assert tables.over_control("RRHF") == ("same_entropy", own["same_entropy"])
    assert own["same_entropy"].per_seed == pytest.approx({0: 3 / 12, 1: 2 / 12})
    assert tables.gain("DPO")[0] == "sampled"
    assert tables.gain("DPO")[1].per_seed == pytest.approx({0: 0.0, 1: 2 / 12})
    assert tables.over_control("DPO") is None
    assert tables.arms["DPO"]["warmed_up"] == pytest.approx({0: 5 / 12, 1: 5 / 12})


def test_objectives_are_compared_on_the_same_base_prompts_and_seeds():
    (pair,) = verified_tables(two_by_two()).differences
    assert (pair.better, pair.worse, pair.paired_seeds) == ("RRHF", "DPO", 2)
    assert pair.tested.estimate.mean == pytest.approx((5 / 12 + 2 / 12) / 2)


def test_base_prompts_are_resampled_together_over_seeds():
    """A second seed that is just like the first one brings no base prompt: the same interval."""
    first, second = made_up_demands(0.2, 0), made_up_demands(0.2, 1)
    once, twice, other = (
        verified_tables([RunDemands("r", "RRHF", s, rows) for s, rows in enumerate(of)])
        for of in ([first], [first, first], [first, second])
    )
    trained, before = (
        tally([row for row in first if row.arm == arm and row.trained])
        for arm in ("trained", "warmed_up")
    )
    for name, alone in (
        ("trained", share(trained, 0)),
        ("sampled", difference(trained, before, 0)),
    ):
        figures = [of.figures["RRHF"][name].interval for of in (once, twice, other)]
        assert [vars(figure) for figure in figures[:2]] == [pytest.approx(vars(alone))] * 2
        assert figures[2].low < figures[2].mean < figures[2].high


def test_the_mean_of_contributions_is_the_macro_average():
    for of in two_by_two():
        one = tally([row for row in of.rows if row.arm == "trained"])
        whole = float(over_seeds([one, one]).mean(np.ones(3)))
        assert contributions(one, "abcd").mean() == pytest.approx(whole)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return write_verified_sweep(tmp_path_factory.mktemp("verified") / "sweep")


@pytest.fixture(scope="module")
def comparison(sweep):
    return compare_runs(read_runs([sweep]))


@pytest.fixture(scope="module")
def written(sweep, tmp_path_factory) -> Path:
    return compare([sweep], tmp_path_factory.mktemp("written") / "to").parent


def test_the_table_has_all_rows_of_all_runs(sweep, written, comparison):
    table = pq.read_table(written / "demands.parquet")
    assert table.schema.names == SCHEMA.names
    assert table.schema.names[:4] == ["run", "objective", "seed", "arm"]
    files = sorted(sweep.glob("*/demands.parquet"))
    assert len(files) == 9
    assert table.num_rows == sum(pq.read_metadata(file).num_rows for file in files)
    assert set(table["run"].to_pylist()) == {file.parent.name for file in files}
    assert set(table["objective"].to_pylist()) == {o.label for o in comparison.objectives}
    first = by_run(table)[0]
    assert first.rows == made_up_demands(0.1, 0) and (first.objective, first.seed) == ("DPO", 0)


def test_the_script_computes_the_tables_of_the_page_again(written, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demands.py", str(written / "demands.parquet")])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    told = capsys.readouterr().out
    assert done.value.code == 0
    assert "| Trained kinds |" in told and "RRHF minus DPO" in told
    assert told.strip() in (written / "report.md").read_text()
    page = (written / "report.html").read_text()
    for row in verified_rows(verified_tables(by_run(read(written / "demands.parquet")))):
        linked = rf'<th scope="row">(<a href="#responses">)?{re.escape(row.title)}(</a>)?<small>'
        assert re.search(linked, page)
        for cell in row.cells:
            ends = f"<small><span>{typeset(cell.low)} to</span> <span>{typeset(cell.high)}</span>"
            value = f"<b>{typeset(cell.value)}</b>" if cell.beyond_noise else typeset(cell.value)
            each = "</span> <span>".join(f"{typeset(seed)}," for seed in cell.per_seed)
            assert f"<td>{value}{ends}</small>" in page
            assert f'<small class="seeds"><span>{each.removesuffix(",")}</span>' in page


def test_another_file_is_refused_by_the_script(sweep, monkeypatch, capsys):
    file = next(sweep.glob("*/demands.parquet"))
    monkeypatch.setattr(sys, "argv", ["demands.py", str(file)])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert done.value.code == 2 and "is not a table of verified demands" in capsys.readouterr().err


def test_what_is_said_is_said_of_demands(comparison):
    labels = [objective.label for objective in comparison.ordered]
    assert labels == ["RRHF", "DPO", "DPO, placebo"]
    share_followed = comparison.verified.figures["RRHF"]["trained"].interval.mean
    said = headline(comparison)
    assert said.startswith(f"RRHF follows {100 * share_followed:.1f} % of the demands on 60 base")
    told = [finding.text for finding in findings(comparison)]
    by = "by the smaller of the sampled and the greedy gain"
    assert any(text.startswith(f"More than before training, {by}: RRHF +") for text in told)
    control = "More than the strongest control, which trains nothing: RRHF +"
    assert any(text.startswith(control) for text in told)
    assert not any("intervals are below" in text for text in told)
    assert comparison.measure == "share of demands followed"
    assert [row.key for row in table_rows(comparison)][:2] == ["seeds", "win_rate"]


def test_answers_that_owe_one_rule_are_not_called_demands(tmp_path):
    for name, gain in (("RRHF", 0.3), ("DPO", 0.1)):
        run = write_run(tmp_path / name, name, 0)
        rows = [row for row in made_up_demands(gain, 0) if row.kind == "words"]
        own = {"kind": "number", "side": "number", "group": "other", "opposite": None}
        ruled = [replace(row, **own) for row in rows]
        form = [replace(row, kind=FORM, side=FORM, group=FORM, opposite=None) for row in rows]
        put_files(run, demands_file(ruled + form))
    compared = compare_runs(read_runs([tmp_path]))
    met = 100 * compared.verified.figures["RRHF"]["trained"].interval.mean
    assert headline(compared).startswith(
        f"RRHF meets the rule number in {met:.1f} % of its answers on 60 held-out prompts, "
    )
    assert [row.key for row in verified_rows(compared.verified)][:2] == ["trained", "form"]
    page = (compare([tmp_path], tmp_path / "out").parent / "report.html").read_text()
    assert "Rule met" in page and "That meet the rule" in page
    assert "Demands followed" not in page and "base prompts" not in page


def test_of_many_objectives_the_sentences_leave_intervals_to_the_table(tmp_path):
    gains = {"RRHF": 0.3, "PRO": 0.2, "DPO": 0.06}
    for name, gain in gains.items():
        for rate in ("1.0e-4", "3.0e-4"):  # six objectives by their rates
            run = write_run(tmp_path / f"{name},{rate}", name, 0)
            more = gain + (0.03 if rate == "3.0e-4" else 0.0)
            put_files(run, demands_file(made_up_demands(more, 0)))
            config = run / "config.yaml"
            config.write_text(
                re.sub(r"learning_rate: .*", f"learning_rate: {rate}", config.read_text())
            )
    compared = compare_runs(read_runs([tmp_path]))
    assert len(compared.objectives) == 6
    gained, controlled = (
        next(f.text for f in findings(compared) if f.text.startswith(f"More than {what}"))
        for what in ("before training", "the strongest control")
    )
    for text in (gained, controlled):
        assert "in points (intervals are below): RRHF" in text and "95 %" not in text
        more, unclear = text.split(" Not shown to be more: ")
        told = [float(number) for number in re.findall(r"\) ([+-]\d+\.\d)", more)]
        assert told == sorted(told, reverse=True) and len(told) == 4
        assert "DPO" in unclear and "than" not in unclear


def test_a_placebo_is_called_so_and_its_gain_is_told(comparison, sweep, tmp_path):
    (told,) = [f for f in findings(comparison) if f.text.startswith("The placebo")]
    assert re.match(
        r"The placebo, trained on permuted ranks, gains \S+ points \(95 % interval .*\): noise\.",
        told.text,
    )
    shutil.copytree(sweep, tmp_path / "sweep")
    for seed in range(3):
        run = tmp_path / "sweep" / f"objective=dpo_placebo,seed={seed}"
        put_files(run, demands_file(made_up_demands(0.4, seed)))
    other = compare_runs(read_runs([tmp_path / "sweep"]))
    (told,) = [f for f in findings(other) if f.text.startswith("The placebo")]
    assert told.kind == "warning" and "warning: so much of a gain is not the ranking's" in told.text


def test_a_placebo_has_the_name_of_what_it_is_the_placebo_of(tmp_path):
    for name, text in (("real", ""), ("off", "placebo: false"), ("on", "placebo: true")):
        for rate in ("1e-4", "1e-5"):
            config = CONFIG.replace("{rate}", rate) + (f"rank:\n  {text}\n" if text else "")
            seed = 1 if name == "off" else 0
            write_run(tmp_path / f"{name}{rate}", "RRHF", seed, prompts=4, config=config)
    labels = {o.label: len(o.runs) for o in objectives_of(read_runs([tmp_path]).finished)}
    assert labels == {
        "learning rate 0.0001": 2, "learning rate 1e-05": 2,
        "learning rate 0.0001, placebo": 1, "learning rate 1e-05, placebo": 1,
    }  # fmt: skip


def test_the_spreadsheet_has_verified_figures_with_each_seed(written, comparison):
    rows = list(csv.DictReader((written / "results.csv").read_text().splitlines()))
    assert list(rows[0])[: len(COLUMNS)] == COLUMNS
    own = comparison.verified.figures["RRHF"]
    assert [row["objective"] for row in rows] == ["RRHF", "DPO", "DPO, placebo"]
    assert float(rows[0]["verified.trained"]) == own["trained"].interval.mean
    low, high = (float(rows[0][f"verified.greedy_{end}"]) for end in ("low", "high"))
    assert (low, high) == (own["greedy"].interval.low, own["greedy"].interval.high)
    each = [float(value) for value in rows[0]["verified.sampled_per_seed"].split(";")]
    assert each == list(own["sampled"].per_seed.values())
    assert "DPO, placebo" in rows[0]["verified.beyond_noise_over"].split(";")
    assert float(rows[0]["verified.smaller_gain"]) == min(
        own[name].interval.mean for name in ("sampled", "greedy")
    )


def test_a_run_without_its_rows_leaves_the_old_tables_and_says_why(sweep, tmp_path):
    shutil.copytree(sweep, tmp_path / "sweep")
    to = compare([tmp_path / "sweep"], tmp_path / "to").parent
    (tmp_path / "sweep" / "objective=dpo,seed=1" / "demands.parquet").unlink()
    comparison = compare_runs(read_runs([tmp_path / "sweep"]))
    why = "1 of 9 runs have no demands.parquet (objective=dpo,seed=1)"
    assert [why in finding.text for finding in findings(comparison)].count(True) == 1
    assert comparison.verified is None and comparison.measure == "judge score"
    assert (to / "demands.parquet").is_file()
    compare([tmp_path / "sweep"], to)
    assert not (to / "demands.parquet").exists()
    for name in ("report.html", "report.md"):
        text = (to / name).read_text()
        assert "Demands followed" not in text and "have no demands" in text


def test_runs_that_were_never_verified_are_told_nothing_of_it(tmp_path):
    runs = [write_run(tmp_path / name, name, prompts=8) for name in ("RRHF", "DPO")]
    comparison = compare_runs(read_runs(runs))
    assert comparison.not_verified is None and comparison.verified is None
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "demands.parquet").write_bytes(b"something of one's own")
    compare(runs, tmp_path / "to")
    assert (tmp_path / "to" / "demands.parquet").read_bytes() == b"something of one's own"


def test_rows_that_hold_no_gain_are_no_comparison_of_demands(tmp_path):
    for name in ("RRHF", "DPO"):
        run = write_run(tmp_path / name, name, prompts=8)
        put_files(run, demands_file(followed("trained", BEFORE)))
    comparison = compare_runs(read_runs([tmp_path]))
    assert "no answers before and after training" in (comparison.not_verified or "")


def of_own_prompts(folder: Path, name: str, seed: int, gain: float, *, clusters: int = 39) -> Path:
    """A run whose seed put demands of its own to the same requests; of one nothing was checked."""
    run = write_run(folder, name, seed, judge="share of verified demands")
    metrics = json.loads((run / "metrics.json").read_text())
    ids = sorted(metrics["models"]["trained"]["prompt_scores"])
    for model in metrics["models"].values():
        for key in ("prompt_scores", "response_scores"):
            model[key] = {f"{seed}-{prompt}": value for prompt, value in model[key].items()}
    (run / "metrics.json").write_text(json.dumps(metrics))
    answers = (run / "answers.jsonl").read_text()
    for prompt in ids:
        answers = answers.replace(f'"{prompt}"', f'"{seed}-{prompt}"')
    (run / "answers.jsonl").write_text(answers)
    asked = {f"base {n}": f"{seed}-{prompt}" for n, prompt in enumerate(ids)}
    rows = made_up_demands(gain, seed, clusters)
    put_files(run, demands_file([replace(r, prompt_id=asked[r.cluster]) for r in rows]))
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text() + f"prompts: {{instructions: {{seed: {seed}}}}}\n"
    )
    return run


def test_seeds_with_demands_of_their_own_are_compared_on_the_requests(tmp_path, capsys):
    folders = [
        of_own_prompts(tmp_path / f"{name},{seed}", name, seed, gain)
        for name, gain in (("RRHF", 0.3), ("DPO", 0.1))
        for seed in (0, 1)
    ]
    compared = compare_runs(read_runs(folders))
    assert [o.label for o in compared.objectives] == ["RRHF", "DPO"]
    assert {d.paired_seeds for d in compared.differences} == {2}
    assert len(compared.prompts) == 39 and compared.left_out == 0
    runs = {o.label: o.runs for o in compared.objectives}
    scores = [(r, r.metrics["models"]["trained"]["prompt_scores"]) for r in runs["RRHF"]]
    own = [fmean(of[prompt] for prompt in r.base_prompts) for r, of in scores]
    assert compared.scores["RRHF"].mean == pytest.approx(fmean(own))
    assert main([str(folder) for folder in folders] + ["--to", str(tmp_path / "to")]) == 0
    shown = answered(compared)  # the first seed's prompts, with both answers
    assert len(shown) == 40 and all(one.prompt_id.startswith("0-") for one in shown)
    # Without a request in common, or with other prompts at the same seed, they are other things.
    fewer = of_own_prompts(tmp_path / "fewer", "DPO", 2, 0.1, clusters=30)
    again = of_own_prompts(tmp_path / "again", "PRO", 5, 0.1)
    (again / "config.yaml").write_text((again / "config.yaml").read_text().replace("5", "0", 1))
    capsys.readouterr()
    for other in (fewer, again):
        assert main([str(folders[0]), str(other), "--to", str(tmp_path / "no")]) == 2
        assert "their held-out prompts differ" in capsys.readouterr().err


def test_mistakes_are_one_sentence(sweep, tmp_path, capsys):
    run = sweep / "objective=dpo,seed=0"
    assert main([str(sweep), "--to", str(run)]) == 2
    assert "is the folder of a run; give another folder with --to" in capsys.readouterr().err
    assert pq.read_schema(run / "demands.parquet").names[0] == "arm"
    shutil.copytree(sweep, tmp_path / "sweep")
    (tmp_path / "sweep" / "objective=dpo,seed=0" / "demands.parquet").write_bytes(b"PAR1")
    assert main([str(tmp_path / "sweep"), "--to", str(tmp_path / "to")]) == 2
    said = capsys.readouterr().err
    assert "is not a table of verified demands" in said and said.count("\n") == 1
