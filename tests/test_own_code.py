"""A model with code of its own: it runs where a person says so, and is refused by the key."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from own_code import own_model
from tiny_run import TINY, run_here

from rankdistill import sample
from rankdistill.errors import UserError
from rankdistill.export import ExportOptions, export, open_source
from rankdistill.models import Loading, Model
from rankdistill.sample import model_folder

TRUSTED = ["teacher.trust_remote_code=true", "student.trust_remote_code=true"]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return own_model(tmp_path_factory.mktemp("own") / "model")


def trusting(folder: Path) -> Model:
    return Model(str(folder), {}, Loading(trust_remote_code=True))


def test_a_whole_run_and_its_export(own, monkeypatch, tmp_path):
    folder = run_here(
        monkeypatch, tmp_path, "recipe=dpo", *TINY, f"teacher.path={own}", *TRUSTED,
        "eval.quick.sharpening_control=false",
    )  # fmt: skip
    losses = json.loads((folder / "metrics.json").read_text())["training_history"]
    assert any("loss" in row for row in losses)
    for precision in ("auto", "bfloat16"):
        to = export(open_source(folder), tmp_path / precision, ExportOptions(precision=precision))
        student = trusting(to)
        assert type(student.load()).__name__ == "OwnForCausalLM"
        assert type(student.tokenizer()).__name__.startswith("OwnTokenizer")
    with pytest.raises(UserError, match=r"code of its own: .* --trust-remote-code"):
        export(open_source(tmp_path / "auto"), tmp_path / "again", ExportOptions("bfloat16"))
    again = open_source(tmp_path / "auto", trust_remote_code=True)
    assert trusting(export(again, tmp_path / "again", ExportOptions("bfloat16"))).load() is not None


@pytest.mark.parametrize("method", ["load", "trainable", "tokenizer", "config"])
def test_without_the_key_it_is_refused_by_its_name(method, own):
    model = Model(str(own), {}, Loading(trust_key="student.trust_remote_code=true"))
    with pytest.raises(UserError, match=r"code of its own: .*student\.trust_remote_code=true"):
        getattr(model, method)()


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_a_run_says_which_key(role, precision, own, tiny_dir, monkeypatch, tmp_path, capsys):
    models = {"student": tiny_dir, "teacher": tiny_dir, role: own}
    with pytest.raises(SystemExit):
        run_here(
            monkeypatch, tmp_path, "recipe=dpo", *TINY, "student.keep_layers=null",
            *(f"{name}.path={path}" for name, path in models.items()),
            f"{role}.precision={precision}",
        )  # fmt: skip
    assert f"{role}.trust_remote_code=true" in " ".join(capsys.readouterr().err.split())


def test_vllm_without_a_back_end_gives_way_or_is_refused(own, tiny_dir, monkeypatch, capsys):
    models = [Model(str(tiny_dir), {}), trusting(own)]
    monkeypatch.setattr(model_folder, "_registry", lambda: '"LlamaForCausalLM": ("llama",')
    assert sample.served_sampler("auto", "vllm", models) == "transformers"
    told = " ".join(capsys.readouterr().out.split())
    assert "sampling with transformers, since vLLM has no back end for OwnForCausalLM" in told
    with pytest.raises(UserError, match=r"no back end for OwnForCausalLM.*=transformers"):
        sample.served_sampler("vllm", "vllm", models)
    assert sample.served_sampler("auto", "vllm", models[:1]) == "vllm"
    monkeypatch.setattr(model_folder, "_registry", lambda: '"OwnForCausalLM": ("own",')
    assert sample.served_sampler("vllm", "vllm", models) == "vllm"


def test_an_engine_is_told_that_code_may_run(own, monkeypatch, tmp_path):
    from rankdistill.sample.vllm import VLLMSampler

    asked = []
    monkeypatch.setattr(VLLMSampler, "_ask_all", lambda self, request: asked.append(request))
    monkeypatch.setattr("rankdistill.sample.vllm.VLLMProcess", lambda *_: SimpleNamespace())
    monkeypatch.setattr("rankdistill.sample.vllm.export_untied", lambda *_, **__: None)
    for model in (trusting(own), Model(str(own), {})):
        sampler = VLLMSampler()
        sampler._serve(model, 8, 1)
        assert asked[-1]["engine"]["trust_remote_code"] is model.loading.trust_remote_code
        sampler._processes.clear()
        sampler.close()
