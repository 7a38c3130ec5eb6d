"""A sampler that writes with other weights than the model has is found out when that is loaded."""

from __future__ import annotations

import json

from tiny_run import TINY, refusal, run_here

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
    assert "above 0.01 or 6 times that: it had other weights" in said
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
