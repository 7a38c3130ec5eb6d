"""Suites before and after training, paired by item: by hand, in a run's files, in a comparison."""

from __future__ import annotations

import csv
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from compare_rows import write_run
from suite_rows import suite
from test_compare import refusal

from rankdistill.compare import compare
from rankdistill.compare.comparison import compare_runs
from rankdistill.compare.runs import read_runs
from rankdistill.compare.tables import table_rows
from rankdistill.errors import UserError
from rankdistill.evaluate.items import ItemValues, change, interval_of, over_seeds
from rankdistill.report.suite_items import read_suite_items, suite_items_file
from rankdistill.report.suites import suite_changes, suite_columns, suite_rows
from rankdistill.stages.evaluate import by_item, changes
from rankdistill.statistics import mean_interval, paired_difference
from rankdistill.store.written import put_files
from rankdistill.suites.suite import Measured, mean_figure

SCRIPT = Path(__file__).parents[1] / "docs" / "figures" / "suites.py"
BEFORE = {"a": [1.0, 0.0], "b": [0.0], "c": [1.0, 1.0, 0.0]}
AFTER = {"a": [1.0, 1.0], "b": [1.0], "c": [1.0, 0.0, 0.0]}
"""Instructions: 3 of 6, then 4 of 6; prompts: 0 of 3, then 2 of 3."""


def both(verdicts: dict[str, list[float]]) -> ItemValues:
    """IFEval's mean: all instructions of a prompt, and each of them."""
    prompts = ItemValues.of({name: float(all(of)) for name, of in verdicts.items()})
    return ItemValues.mean_of([prompts, ItemValues.of_lists(verdicts)])


def test_a_mean_of_prompts_and_instructions_by_hand():
    assert ItemValues.of_lists(BEFORE).mean == pytest.approx(3 / 6)
    assert both(BEFORE).mean == pytest.approx((0 + 3 / 6) / 2)
    assert both(AFTER).mean == pytest.approx((2 / 3 + 4 / 6) / 2)
    found = change(both(AFTER), both(BEFORE))
    assert found is not None and found.mean == pytest.approx((2 / 3 + 1 / 6) / 2)
    assert found.low is not None and found.low <= found.mean <= found.high


def test_a_change_is_paired_by_the_item_s_id():
    after = ItemValues.of({"x": 1.0, "y": 0.0, "z": 1.0, "new": 1.0})
    before = ItemValues.of({"z": 0.0, "gone": 1.0, "y": 1.0, "x": 1.0})
    found = change(after, before)
    assert found is not None
    assert vars(found) == vars(paired_difference([1.0, 0.0, 1.0], [1.0, 1.0, 0.0], seed=0))
    assert change(after, ItemValues.of({"other": 1.0})) is None


def test_the_paired_interval_is_narrower_than_two_models_apart():
    draw = np.random.default_rng(0)
    hard = draw.random(200)
    before = {str(i): float(chance > 0.5) for i, chance in enumerate(hard)}
    after = {str(i): float(chance > 0.45) for i, chance in enumerate(hard)}
    paired = change(ItemValues.of(after), ItemValues.of(before))
    alone = interval_of(ItemValues.of(after))
    assert paired is not None and paired.low > 0.0
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_instructions_of_one_prompt_are_resampled_together():
    """Where each item has as many, a ratio of sums is the mean of the items' own means; and copies
    of an instruction tell nothing new."""
    draw = np.random.default_rng(1)
    one = {str(i): float(value) for i, value in enumerate(draw.random(60) < 0.4)}
    found = interval_of(ItemValues.of_lists({name: [of] * 3 for name, of in one.items()}))
    alone = mean_interval([*one.values()], seed=0)
    assert found.mean == pytest.approx(alone.mean)
    assert found.low == pytest.approx(alone.low, abs=0.01)
    assert found.high == pytest.approx(alone.high, abs=0.01)


def test_subsets_count_alike():
    values = ItemValues.over_subsets([{"a": 1.0}, {"b": 0.0, "c": 1.0, "d": 0.0}])
    assert values.mean == pytest.approx((1 + 1 / 3) / 2)
    assert interval_of(values).low is not None


def test_ends():
    assert interval_of(ItemValues.of({"a": 1.0})).low is None
    assert interval_of(ItemValues.of_lists({"a": [1.0, 0.0]})).low is None
    same = change(both(AFTER), both(AFTER))
    assert same is not None and (same.low, same.mean, same.high) == (0.0, 0.0, 0.0)


def test_seeds_are_averaged_on_the_items_of_all():
    found = over_seeds([both(BEFORE), both({name: AFTER[name] for name in "cba"})])
    assert found.ids == ["a", "b", "c"]
    assert found.mean == pytest.approx((both(BEFORE).mean + both(AFTER).mean) / 2)


def ifeval_rows(verdicts: dict[str, list[float]]) -> list[dict[str, Any]]:
    def values(of: list[float]) -> dict[str, Any]:
        told = {
            "prompt_level_strict_acc": all(of), "inst_level_strict_acc": [*map(bool, of)],
            "prompt_level_loose_acc": True, "inst_level_loose_acc": [True] * len(of),
        }  # fmt: skip
        return {f"{key},none": value for key, value in told.items()}

    return [{"id": name, "values": values(of)} for name, of in verdicts.items()]


def measured(verdicts: dict[str, list[float]]) -> Measured:
    output: Any = SimpleNamespace(rows=lambda _: ifeval_rows(verdicts))
    return suite("ifeval", checker="own")._measured(output)


def test_ifeval_has_the_one_figure_of_model_cards():
    figures = {figure.key: figure for figure in measured(AFTER).figures}
    strict = figures["mean_strict"]
    assert strict.mean == pytest.approx((2 / 3 + 4 / 6) / 2) and strict.items == 3
    assert figures["inst_level_strict_acc,none"].items == 6
    assert figures["inst_level_strict_acc,none"].low is not None
    assert figures["mean_loose"].mean == 1.0 and figures["mean_loose"].low < 1.0
    assert next(iter(figures)) == "mean_strict"


def block(after: dict[str, list[float]] = AFTER) -> tuple[dict[str, Any], dict[str, Any]]:
    """The block of `metrics.json`, and the items, of a run that measured IFEval."""
    of = {"warmed_up": measured(BEFORE), "trained": measured(after)}
    from rankdistill.stages import evaluate

    items = by_item(of)
    told = {
        "version": 1, "about": "0-shot",
        "models": {name: evaluate.block(name, one) for name, one in of.items()},
        "changes": changes(items, "trained", "warmed_up"),
    }  # fmt: skip
    return {"ifeval": told}, {"ifeval": items}


def test_the_table_has_a_column_of_changes():
    suites, _ = block()
    metrics = json.loads(json.dumps({"suites": suites}))
    assert "values" not in metrics["suites"]["ifeval"]["models"]["trained"]["figures"]["mean_loose"]
    assert [*suite_columns(metrics).values()] == ["warmed_up", "trained", "change in points"]
    row = suite_rows(metrics)[0]
    assert [cell.value for cell in row.cells] == ["25.0 %", "66.7 %", "+41.7"]
    assert row.cells[2].low and row.cells[2].beyond_noise == (not row.cells[2].low.startswith("-"))
    # Runs of before have no changes.
    del metrics["suites"]["ifeval"]["changes"]
    assert len(suite_columns(metrics)) == len(suite_rows(metrics)[0].cells) == 2


def test_figures_without_items_have_no_change():
    figures = mean_figure("s", "S", "", [0.0, 1.0]), mean_figure("t", "T", "", {"a": 1.0})
    of = Measured(figures)
    assert [*by_item({"trained": of})] == ["t"]
    assert changes(by_item({"trained": of}), "trained", "warmed_up") == {}
    unscored = replace(of, figures=[mean_figure("t", "T", "", {})])
    assert by_item({"trained": unscored}) == {}


def test_items_survive_their_file(tmp_path):
    _, items = block()
    put_files(tmp_path, suite_items_file(items))
    found = read_suite_items(tmp_path / "suites.parquet")
    for key, models in items["ifeval"].items():
        for name, values in models.items():
            read = found["ifeval"][key][name]
            assert [*read.ids] == [*values.ids]
            assert np.array_equal(read.sums, values.sums)
            assert np.array_equal(read.counts, values.counts)
    assert suite_items_file({}) == {}
    (tmp_path / "suites.parquet").write_text("no table")
    with pytest.raises(UserError, match="not a table of a suite's items"):
        read_suite_items(tmp_path / "suites.parquet")


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two objectives; one learnt, with seeds 0 and 1, and one did not."""
    for name, seed, after in (("RRHF", 0, AFTER), ("RRHF", 1, BEFORE), ("DPO", 0, BEFORE)):
        suites, items = block(after)
        folder = write_run(tmp_path / f"{name}{seed}", name, seed, prompts=8, suites=suites)
        put_files(folder, suite_items_file(items))
    return tmp_path


def test_a_comparison_has_the_changes_over_seeds(runs, tmp_path, capsys):
    comparison = compare_runs(read_runs([runs]))
    found = comparison.suite_changes["ifeval.mean_strict"]
    assert found["RRHF"].mean == pytest.approx((2 / 3 + 1 / 6) / 2 / 2)
    assert (found["DPO"].low, found["DPO"].mean, found["DPO"].high) == (0.0, 0.0, 0.0)
    rows = {row.key: row for row in table_rows(comparison)}
    place = [o.label for o in comparison.ordered].index("RRHF")
    cell = rows["ifeval.mean_strict.change"].cells[place]
    assert cell.value == "+20.8" and cell.low
    page = compare([runs], tmp_path / "to").parent
    table = {row["objective"]: row for row in csv.DictReader((page / "results.csv").open())}
    assert float(table["RRHF"]["ifeval.mean_strict.change"]) == pytest.approx(found["RRHF"].mean)
    assert float(table["DPO"]["ifeval.mean_strict.change_low"]) == 0.0
    # A run without its items leaves the figures, and no changes.
    (runs / "DPO0" / "suites.parquet").unlink()
    rows = {row.key for row in table_rows(compare_runs(read_runs([runs])))}
    assert "ifeval.mean_strict" in rows and "ifeval.mean_strict.change" not in rows
    (runs / "DPO0" / "suites.parquet").write_text("no table")
    assert "not a table of a suite's items" in refusal(capsys, runs)


def test_the_script_computes_changes_of_some_items_again(runs, monkeypatch, capsys):
    def told(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["suites.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        said = capsys.readouterr()
        return said.out if ended.value.code == 0 else said.err

    file = str(runs / "RRHF0" / "suites.parquet")
    assert "| ifeval: mean_strict | 3 | 25.0 % | 66.7 % | +41.7 (" in told(file)
    # Of b and c: 0 of 2 prompts and 2 of 4 instructions, then 1 of 2 and 2 of 4.
    assert "| ifeval: mean_strict | 2 | 25.0 % | 50.0 % | +25.0 (" in told(file, "--from", "1")
    assert "error: there are no items" in told(file, "--from", "3")
    # DPO's trained model has what RRHF's had before.
    other = str(runs / "DPO0" / "suites.parquet")
    said = told(file, "--against", other)
    assert "| the other | after |" in said
    assert "| ifeval: mean_strict | 3 | 25.0 % | 66.7 % | +41.7 (" in said
    assert "| ifeval: mean_strict | 3 | 66.7 % | 25.0 % | -41.7 (" in told(other, "--against", file)
    assert "not a table of a suite's items" in told(str(runs / "RRHF0" / "metrics.json"))


def test_what_became_of_a_suite_is_said():
    suites, _ = block()
    metrics = {"suites": suites, "baseline": "warmed_up", "trained": "trained"}
    ((way, said),) = suite_changes(metrics)
    change_found = suites["ifeval"]["changes"]["mean_strict"]
    assert way == int(change_found["low"] > 0)
    assert said.startswith("ifeval, mean: 25.0 % (warmed_up), 66.7 % (trained): +41.7 points [")
    assert said.endswith(" on the same 3 items.")
    for low, high, expected in ((0.1, 0.5, 1), (-0.5, -0.1, -1), (-0.1, 0.1, 0)):
        change_found |= {"low": low, "high": high}
        assert next(suite_changes(metrics))[0] == expected
    change_found |= {"low": None, "high": None}
    assert "+41.7 points on the same" in next(suite_changes(metrics))[1]
