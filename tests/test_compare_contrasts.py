"""Contrasts that are named before the run: found by name, corrected for each other, shown apart."""

from __future__ import annotations

import re
import runpy
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from compare_rows import CONFIG, write_run, write_sweep, write_verified_sweep
from test_compare import refusal
from test_compare_verified import SCRIPT, two_by_two

from rankdistill.compare import compare
from rankdistill.compare.__main__ import main
from rankdistill.compare.comparison import compare_runs
from rankdistill.compare.contrasts import (
    Contrast,
    Named,
    contrasts_of,
    least,
    over_own_demands,
    planned_and_rest,
)
from rankdistill.compare.runs import read_runs
from rankdistill.compare.sentences import findings, headline
from rankdistill.compare.statistics import Estimate, pair_differences
from rankdistill.compare.verified import verified_tables
from rankdistill.errors import UserError
from rankdistill.report.html import typeset

OBJECTIVES = [
    Named("DPO", ["dpo"], "DPO"),
    Named("DPO, 2 rounds", ["iterative_dpo"], "DPO, 2 rounds"),
    Named("DPO, placebo"),
    Named("SFT (best_of_n)", ["best_of_n"], "SFT"),
    Named("PlackettLuceDPO", ["plackett_luce"], "PlackettLuceDPO"),
    Named("learning rate 1e-05", ["my-own", "rrhf"], "RRHF"),
    Named("learning rate 3e-05", ["rrhf"], "RRHF"),
]


@pytest.mark.parametrize(
    ("name", "contrast"),
    [
        ("dpo-best_of_n", ("DPO", "SFT (best_of_n)")),
        ("SFT - DPO", ("SFT (best_of_n)", "DPO")),
        ("plackett_luce-iterative_dpo", ("PlackettLuceDPO", "DPO, 2 rounds")),
        ("dpo_placebo-before", ("DPO, placebo", "before")),
        ("dpo-control", ("DPO", "control")),
        # Hyphens of the names' own.
        ("my-own-dpo", ("learning rate 1e-05", "DPO")),
        ("learning rate 1e-05-learning rate 3e-05", ("learning rate 1e-05", "learning rate 3e-05")),
    ],
)
def test_an_objective_is_called_by_label_option_or_method(name, contrast):
    assert contrasts_of([name], OBJECTIVES) == [Contrast(*contrast)]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["dpo"], "'dpo' is no contrast: give two objectives with a hyphen between"),
        (["-dpo"], "is no contrast"),
        (["dpo-prro"], "there is no objective 'prro' for the contrast 'dpo-prro'"),
        (["control-dpo"], "there is no objective 'control'"),
        (["dpo-DPO"], "is of DPO with itself"),
        (["dpo-sft", "best_of_n-dpo"], "'best_of_n-dpo' is named twice"),
        (["dpo-rrhf"], "is several objectives: name one by its label, learning rate 1e-05 or"),
    ],
)
def test_a_wrong_name_is_one_sentence(names, said):
    with pytest.raises(UserError, match=re.escape(said)):
        contrasts_of(names, OBJECTIVES)


def no_own(contrast: Contrast) -> None:
    pytest.fail(f"{contrast} is of two objectives")


def test_what_was_planned_is_corrected_for_itself_alone():
    """Six prompts that all differ one way have p = 2 / 2^6: the signs of none can be flipped."""
    steps = {"A": 3.0, "B": 2.0, "C": 1.0, "D": 0.0}
    tables = {label: {0: np.full(6, value)} for label, value in steps.items()}
    differences = pair_differences(tables, seed=0)
    p = 2 / 2**6
    assert {d.tested.adjusted for d in differences} == {6 * p}
    contrasts = [Contrast("C", "A"), Contrast("A", "B")]
    planned, pairs = planned_and_rest(contrasts, differences, no_own)
    assert [one.title for one in planned] == ["C minus A", "A minus B"]
    assert [one.tested.adjusted for one in planned] == pytest.approx([2 * p] * 2)
    # As named, and not as it turned out.
    first, second = (one.tested.estimate for one in planned)
    assert (first.mean, first.low, first.high) == (-2.0, -2.0, -2.0)
    assert (second.mean, second.p_value) == (1.0, pytest.approx(p))
    # The other four are corrected for each other, and a pair has one p-value everywhere.
    adjusted = {d.better + d.worse: d.tested.adjusted for d in pairs}
    assert adjusted == pytest.approx({
        "AC": 2 * p, "AB": 2 * p, "AD": 4 * p, "BC": 4 * p, "BD": 4 * p, "CD": 4 * p,
    })  # fmt: skip
    assert [d.better + d.worse for d in pairs] == [d.better + d.worse for d in differences]


def test_an_interval_turns_around_with_its_contrast():
    draw = np.random.default_rng(0)
    tables = {"A": {0: draw.normal(1.0, 1.0, 30)}, "B": {0: np.zeros(30)}}
    differences = pair_differences(tables, seed=0)
    ((there,), _), ((back,), _) = (
        planned_and_rest([Contrast(*of)], differences, no_own) for of in ("AB", "BA")
    )
    a, b = there.tested.estimate, back.tested.estimate
    assert a.low < a.mean < a.high and (b.low, b.mean, b.high) == (-a.high, -a.mean, -a.low)


def test_more_than_all_of_several_is_as_sure_as_the_least_sure_of_them():
    found = {
        "one": Estimate(0.3, 0.1, 0.5, 0.04, 2),
        "two": Estimate(0.2, 0.1, 0.3, 0.001, 2),
    }
    over = least(found)
    assert over.which == "two"
    assert over.estimate == Estimate(0.2, 0.1, 0.3, 0.04, 2)


def test_verified_contrasts_by_hand():
    """Of `two_by_two`: RRHF gains 5/12 and 4/12 sampled, 2/12 and 2/12 greedily, and over the same
    entropy 3/12 and 2/12."""
    verified = verified_tables(two_by_two())
    before = over_own_demands(verified, Contrast("RRHF", "before"))
    assert before.which == "greedy" and before.estimate.mean == pytest.approx(2 / 12)
    control = over_own_demands(verified, Contrast("RRHF", "control"))
    assert control.which == "same entropy" and control.estimate.mean == pytest.approx(2.5 / 12)
    assert control.estimate.seeds == 2
    for name, tables in verified.minus.items():
        for label, table in tables.items():
            figure = verified.figures[label][name].interval.mean
            assert table.mean() == pytest.approx(figure), (name, label)
    with pytest.raises(UserError, match="DPO was not measured against the strongest control"):
        over_own_demands(verified, Contrast("DPO", "control"))
    pair = Contrast("DPO", "RRHF")
    own = partial(over_own_demands, verified)
    planned, _ = planned_and_rest([pair, Contrast("RRHF", "before")], verified.differences, own)
    assert planned[0].tested.estimate.mean == pytest.approx(-(5 / 12 + 2 / 12) / 2)
    assert planned[1].title == "RRHF minus the student before training (greedy)"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("contrasts") / "sweep")


@pytest.fixture(scope="module")
def verified(tmp_path_factory) -> Path:
    return write_verified_sweep(tmp_path_factory.mktemp("contrasts") / "verified")


def test_the_planned_stand_first_and_all_else_is_exploratory(sweep, tmp_path, capsys):
    named = ["--contrast", "simpo-rrhf", "--contrast", "rrhf-control", "--contrast", "pro-before"]
    assert main([str(sweep), "--to", str(tmp_path), *named]) == 0
    said, *lines = capsys.readouterr().out.splitlines()
    assert said.startswith("Of 3 contrasts named before the run ") and "SimPO minus RRHF -" in said
    assert re.match(r"SimPO minus RRHF: -0\.\d+ \(95 % interval .*, p .*\), beyond noise", lines[0])
    assert lines[1].startswith("RRHF minus the strongest control (same entropy): ")
    assert lines[2].startswith("PRO minus the student before training: +")
    comparison = compare_runs(read_runs([sweep]), ["simpo-rrhf", "rrhf-control", "pro-before"])
    assert len(comparison.exploratory) == 5
    first = findings(comparison)[0].text
    assert "exploratory" in first and "RRHF is ahead of DPO and SimPO beyond noise" in first
    for page in ("report.html", "report.md"):
        text = (tmp_path / page).read_text()
        places = [text.index(part) for part in (">Planned contrasts</h2>", ">Objectives</h2>",
                  ">Differences, exploratory</h2>")] if page.endswith("html") else [
                  text.index(f"## {part}") for part in ("Planned contrasts", "Objectives",
                  "Differences, exploratory")]  # fmt: skip
        assert places == sorted(places)
        told = typeset("SimPO minus RRHF") if page.endswith("html") else "SimPO minus RRHF"
        assert told in text[places[0] : places[1]]
        assert "RRHF minus SimPO" not in text
    command = (tmp_path / "report.md").read_text().rpartition("```sh")[2]
    assert "--contrast rrhf-control" in command


def test_without_any_a_comparison_is_as_before(sweep, tmp_path):
    page = compare([sweep], tmp_path)
    for text in (page.read_text(), page.with_name("report.md").read_text()):
        assert "Planned" not in text and "exploratory" not in text
    assert compare_runs(read_runs([sweep]), []).planned == []


def test_the_script_computes_planned_contrasts_again(verified, tmp_path, monkeypatch, capsys):
    named = ["rrhf-dpo", "rrhf-control", "dpo-before", "rrhf-teacher", "dpo_placebo-before"]
    page = compare([verified], tmp_path, named).with_name("report.md").read_text()
    part = page[page.index("## Planned contrasts") : page.index("## Demands followed")]
    assert part.count("| RRHF minus") == 3 and "DPO, placebo minus the student before" in part
    given = [word for name in named for word in ("--contrast", name)]
    monkeypatch.setattr(sys, "argv", ["demands.py", str(tmp_path / "demands.parquet"), *given])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(part.rstrip())


def test_mistakes_end_the_command(sweep, capsys):
    assert "there is no objective 'ppo' for the contrast 'dpo-ppo'" in refusal(
        capsys, sweep, "--contrast", "dpo-ppo"
    )
    said = refusal(capsys, sweep, "--contrast", "dpo-teacher")
    assert "DPO was not measured against the teacher" in said


def test_what_the_runs_name_is_taken_and_makes_them_no_other_objective(tmp_path):
    named = CONFIG + "contrasts: [dpo-rrhf, dpo-pro]\n"
    for seed, config in enumerate((CONFIG, named)):
        for name in ("DPO", "RRHF"):
            write_run(tmp_path / f"{name}{seed}", name, seed, prompts=12, config=config)
    comparison = compare_runs(read_runs([tmp_path]))
    assert [len(o.runs) for o in comparison.objectives] == [2, 2]
    assert headline(comparison).startswith("The contrast named before the run is")
    (planned,) = comparison.planned
    assert planned.contrast == Contrast("DPO", "RRHF")
    # Holm over one is none.
    assert planned.tested.adjusted == planned.tested.estimate.p_value
    told = [finding.text for finding in findings(comparison)]
    assert "Contrasts that the runs name, and that are not here: dpo-pro." in told
    assert compare_runs(read_runs([tmp_path]), ["rrhf-before"]).not_here == []
