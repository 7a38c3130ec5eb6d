"""A sampler that writes with other weights than the model has is found out when that is loaded."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny_models import build_model
from tiny_run import TINY, refusal, run_here

from rankdistill.forward import bind
from rankdistill.sample.agreement import Gap, gap_between, tolerance_of
from rankdistill.sample.transformers import TransformersSampler
from rankdistill.stages.agreement import FILE
from rankdistill.store import Store


def test_a_sampler_that_keeps_its_first_model_stops_before_training(
    monkeypatch, capsys, tmp_path, teacher
):
    arguments = [
        "recipe=likelihood", *TINY, "warmup.responses_per_step=3", f"teacher.path={teacher}",
        "eval.quick.sharpening_control=false",
    ]  # fmt: skip
    load, kept = TransformersSampler._load, []

    def first(self, model):
        if not kept:
            kept.append(load(self, model))
            kept[0].get_input_embeddings().weight.data.mul_(8)  # far from what comes later
        return kept[0]

    with monkeypatch.context() as patch:
        patch.setattr(TransformersSampler, "_load", first)
        said = refusal(patch, capsys, tmp_path, *arguments)
    assert "The sampler 'transformers' and the model " in said and "differ by" in said
    assert "above 0.01 or 6 times that (computed in float32): it had other weights" in said
    _, _, rest = said.partition("python -m rankdistill.store remove ")
    wrong = Store().find(rest.partition(")")[0])
    assert wrong is not None and wrong.manifest["identity"]["source"] == "student"

    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "anew"))
    folder = run_here(monkeypatch, tmp_path, *arguments)
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    written = [Store().find(stage["key"]) for stage in stages if stage["stage"] == "sample"]
    for output in written:
        assert output is not None
        kept = json.loads((output.path / FILE).read_text())
        assert [len(row) for row in kept["logps"]] == [len(ids) for _, ids in kept["pairs"]]


def test_a_model_that_knows_nothing_is_off_by_what_the_sampler_adds() -> None:
    model = bind(build_model("llama"))
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    nothing = -math.log(model.config.vocab_size)
    pairs = [([5, 6], [7, 8]), ([9], [3] * 9)]
    off = [0.0, 0.25, *[0.0] * 8, -1.25]  # eleven tokens: the last interval of ten has 0.99
    said = [nothing + x for x in off]
    gap = gap_between([said[:2], said[2:]], model, pairs)
    assert gap == pytest.approx(Gap(1.5 / 11, 0.25 + 0.9 * 1.0), abs=1e-6)


def test_rounding_is_told_from_other_weights_by_precision() -> None:
    known = [tolerance_of(name, "float32") for name in ("float32", "float16", "bfloat16", None)]
    assert known == [0.01, 0.02, 0.1, 0.1]
    assert Gap(0.1, 0.6).beyond("bfloat16", "float32") is None
    assert Gap(0.0101, 0.0).beyond("float32", "float32") == (
        "differ by 0.010 nats per token on the same responses, and by 0.000 at the 99th "
        "percentile, above 0.01 or 6 times that (computed in float32)"
    )
    for gap in (Gap(0.0, 0.61), Gap(math.nan, 0.0), Gap(0.0, math.nan)):
        said = gap.beyond(None, "bfloat16")
        assert said and "(computed in an unknown precision and bfloat16)" in said
    assert Gap(0.25, 1.5).beyond("float32", "float32", 0.25) is None
