"""The public benchmark's recipe: its protocol, and two rounds of it on a tiny model."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from suite_rows import HELLASWAG, IFEVAL, write
from test_recipes import unchanged
from tiny_run import VERIFIED, composed, run_here

from rankdistill.app import catalogue
from rankdistill.prompts.demands import kinds
from rankdistill.report.suite_items import read_suite_items
from rankdistill.stages import settings
from rankdistill.store import Store

RECIPE = "ifeval_dpo"


def test_the_protocol_is_what_its_header_says():
    config = composed(f"recipe={RECIPE}")
    built = settings.build(config)
    assert built.rounds == 3 and built.student.keep_layers is None and not built.warmup.lessons
    ifeval, hellaswag = built.suites["ifeval"], built.suites["hellaswag"]
    asked = (ifeval.limit, ifeval.chat_template, ifeval.max_response_tokens, ifeval.checker)
    assert asked == (None, True, None, "own") and ifeval.backend == "vllm"
    assert hellaswag.limit == 2000 and not hellaswag.chat_template
    header = catalogue.recipe_files()[RECIPE].read_text()
    assert 'only with the words "trained on IFEval\'s kinds"' in " ".join(header.split()).replace(
        " # ", " "
    )


def test_what_is_kept_out_is_no_kind_of_ifeval():
    """Every other kind has a side that IFEval asks for, by its own rule or by ours for it."""
    own = composed(f"recipe={RECIPE}").prompts.instructions
    assert {*own.kinds, *own.kept_out} == {*kinds()}
    for name in own.kept_out:
        assert all(side.rule.startswith("form:") for side in kinds()[name].sides)


@pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
def test_it_trains_for_rounds_and_measures_before_and_after(
    monkeypatch, tmp_path, teacher, shared_home
):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    rows = write(tmp_path / "ifeval.jsonl", IFEVAL)
    (tmp_path / "hellaswag.txt").write_text(HELLASWAG)
    small = [key for key in VERIFIED if not key.startswith(("warmup.", "student.keep"))]
    folder = run_here(
        monkeypatch, tmp_path, f"recipe={RECIPE}", *small, f"teacher.path={teacher}", "rounds=2",
        "eval.quick.sharpening_control=false", "eval.verified.prompted=false",
        f"eval.ifeval.path={rows}", "eval.ifeval.backend=hf", "eval.ifeval.max_response_tokens=8",
        f"eval.hellaswag.path={tmp_path / 'hellaswag.txt'}", "eval.hellaswag.limit=3",
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    rounds = [stage["key"] for stage in metrics["stages"] if stage["stage"] == "train"]
    first, second = (Store(shared_home).find(key).path / "model" for key in rounds)
    assert unchanged(first, Path(teacher)) == unchanged(second, first) == []
    changes = {name: suite["changes"] for name, suite in metrics["suites"].items()}
    assert [*changes] == ["ifeval", "hellaswag"]
    assert {"mean_strict", "mean_loose", "prompt_level_strict_acc,none"} <= changes["ifeval"].keys()
    assert changes["hellaswag"]["acc_norm,none"]["items"] == 3
    for suite, figures in read_suite_items(folder / "suites.parquet").items():
        for key, models in figures.items():
            told = metrics["suites"][suite]["models"]
            assert models.keys() == {"warmed_up", "trained", "teacher"}
            for name, values in models.items():
                assert told[name]["figures"][key]["mean"] == pytest.approx(values.mean)
            difference = models["trained"].mean - models["warmed_up"].mean
            assert changes[suite][key]["mean"] == pytest.approx(difference)
    assert pq.read_metadata(folder / "suites.parquet").num_rows > 0
    assert "change in points" in (folder / "report.md").read_text()
    assert "change in points" in (folder / "report.html").read_text()
