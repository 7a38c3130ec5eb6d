"""What cannot be loaded or trained on this machine is said at start-up, in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import build_model, build_tokenizer, model_in
from tiny_run import TINY, composed

from rankdistill.app import cli
from rankdistill.errors import UserError
from rankdistill.models import LoRA, Model, load_model, place
from rankdistill.models.check import check_loading, check_trainable
from rankdistill.schema import Precision, Quantization
from rankdistill.stages import settings as built
from rankdistill.stages.run import Run
from rankdistill.store import Store


def settings(**changes):
    """The keys of a model's group."""
    defaults = {"precision": Precision["float32"], "quantization": None,
                "attn_implementation": "sdpa", "trust_remote_code": False,
                "use_liger_kernel": False}  # fmt: skip
    return SimpleNamespace(**{**defaults, **changes})


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As if there were one."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def gptq(tmp_path) -> str:
    """A folder as GPTQ leaves one."""
    build_model().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 128}
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "quantization_config": quantization})
    )
    return str(tmp_path)


def test_what_can_be_done_is_let_through(tiny_dir, teacher):
    check_loading("teacher", model_in(teacher), settings())
    check_loading("teacher", model_in(teacher), settings(precision=Precision["bfloat16"]))
    check_trainable(model_in(tiny_dir), settings(), None)
    check_trainable(model_in(tiny_dir), settings(), LoRA(4))
    check_trainable(model_in(tiny_dir), settings(), LoRA(4, target_modules=["q_proj"]))
    check_trainable(model_in(tiny_dir), settings(), LoRA(4, target_modules=r".*mlp\.\w+_proj"))


@pytest.mark.parametrize("quantization", list(Quantization))
def test_quantising_needs_a_gpu_and_bitsandbytes(quantization, tiny_dir, request, monkeypatch):
    asked = settings(quantization=quantization)
    with pytest.raises(UserError, match=f"teacher.quantization={quantization.name} needs .* GPU"):
        check_loading("teacher", model_in(tiny_dir), asked)
    request.getfixturevalue("on_a_gpu")
    monkeypatch.setattr("rankdistill.models.check.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`pip install 'rankdistill\[bitsandbytes\]'`"):
        check_loading("teacher", model_in(tiny_dir), asked)
    monkeypatch.setattr("rankdistill.models.check.find_spec", lambda name: name)
    check_loading("teacher", model_in(tiny_dir), asked)


def test_a_model_saved_quantised_is_named_where_it_cannot_run(gptq):
    message = r"The teacher was saved quantised \(gptq\), .*no GPU.*: .*(optimum|gptqmodel|GPU)"
    with pytest.raises(UserError, match=message):
        check_loading("teacher", model_in(gptq), settings())
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(gptq)


def test_a_model_saved_quantised_is_no_start_of_a_student(gptq):
    for lora in (None, LoRA(4)):
        with pytest.raises(UserError, match=r"cannot be trained: set student.path to the model"):
            check_trainable(model_in(gptq), settings(), lora)


def test_quantised_weights_are_trained_by_adapters_only(tiny_dir):
    with pytest.raises(UserError, match=r"nothing to train: give student.lora.r as well"):
        check_trainable(model_in(tiny_dir), settings(quantization=Quantization["nf4"]), None)


def test_flash_attention_needs_a_gpu_and_16_bits(tiny_dir, request):
    flash = settings(attn_implementation="flash_attention_2")
    with pytest.raises(UserError, match=r"student.attn_implementation=flash_attention_2 runs on a"):
        check_loading("student", model_in(tiny_dir), flash)
    request.getfixturevalue("on_a_gpu")
    with pytest.raises(UserError, match=r"set student.precision to one of them"):
        check_loading("student", model_in(tiny_dir), flash)
    flash.precision = Precision["bfloat16"]
    check_loading("student", model_in(tiny_dir), flash)


def test_liger_needs_a_gpu_and_its_package(tiny_dir, request, monkeypatch):
    with pytest.raises(UserError, match="use_liger_kernel needs Triton on a GPU"):
        check_trainable(model_in(tiny_dir), settings(use_liger_kernel=True), None)
    request.getfixturevalue("on_a_gpu")
    monkeypatch.setattr("rankdistill.models.check.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"`pip install 'rankdistill\[liger\]'`"):
        check_trainable(model_in(tiny_dir), settings(use_liger_kernel=True), None)


def test_precisions_that_do_not_go_together(tiny_dir, monkeypatch):
    with pytest.raises(UserError, match="float16 trains on a GPU only"):
        check_trainable(model_in(tiny_dir), settings(precision=Precision["float16"]), None)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    check_trainable(model_in(tiny_dir), settings(precision=Precision["bfloat16"]), None)
    with pytest.raises(UserError, match=r"launched with mixed_precision=bf16, .* is float32"):
        check_trainable(model_in(tiny_dir), settings(), None)


def test_adapters_on_layers_that_are_not_there(tiny_dir):
    with pytest.raises(UserError, match="target_modules does not fit LlamaForCausalLM"):
        check_trainable(model_in(tiny_dir), settings(), LoRA(4, target_modules=["query"]))


def test_the_stored_precision(tmp_path, tiny_dir):
    build_model().bfloat16().save_pretrained(tmp_path)
    assert Model(str(tmp_path), {}).stored_precision() == "bfloat16"
    assert Model(str(tiny_dir), {}).stored_precision() == "float32"


def test_a_quantised_model_stays_where_it_was_loaded():
    model = build_model()
    assert place(model, "meta") is model and model.device.type == "meta"
    quantised = SimpleNamespace(is_quantized=True)
    assert place(quantised, "meta") is quantised


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["student.lora.r=0"], "student.lora.r is 0; it must be in [1, 16384]"),
        (["student.lora.r=2", "student.lora.target_modules=[nope]"], "does not fit Llama"),
        (["student.quantization=nf4"], "give student.lora.r as well"),
        (["student.lora.r=4", "student.quantization=nf4"], "student.quantization=nf4 needs"),
        (["teacher.quantization=int8"], "teacher.quantization=int8 needs bitsandbytes on a GPU"),
        (["teacher.attn_implementation=flash_attention_2"], "teacher.attn_implementation="),
        (["student.use_liger_kernel=true"], "needs Triton"),
    ],
)
def test_the_command_says_it_before_anything_runs(
    overrides, message, monkeypatch, capsys, tmp_path: Path, teacher
):
    monkeypatch.chdir(tmp_path)
    arguments = ["recipe=none", f"teacher.path={teacher}", *TINY, *overrides, "hydra.run.dir=run"]
    monkeypatch.setattr("sys.argv", ["rankdistill", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list((tmp_path / "home").rglob("manifest.json"))


def run_of(tmp_path: Path, *overrides: str) -> Run:
    """A run on a teacher that was saved in bfloat16."""
    build_model().bfloat16().save_pretrained(tmp_path / "teacher")
    build_tokenizer().save_pretrained(tmp_path / "teacher")
    config = composed(f"teacher.path={tmp_path / 'teacher'}", "sample=transformers", *overrides)
    return Run(built.build(config), Store(tmp_path / "store"), tmp_path / "run")


def test_auto_is_what_suits_the_machine(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    assert run.start.identity["precision"] == run.teacher.identity["precision"] == "float32"
    assert run.settings.sample.vllm.dtype == "float32"
    monkeypatch.setattr("rankdistill.stages.run.own_precision", lambda: "bfloat16")
    run = run_of(tmp_path, "sample.vllm.dtype=stored", "teacher.precision=float16")
    assert run.trained_in == {"precision": "bfloat16", "weights": "float32"}
    assert run.teacher.identity["precision"] == "float16"
    assert run.settings.sample.vllm.dtype == "auto"  # as vLLM calls it


def test_the_precision_that_the_model_was_saved_in(tmp_path):
    """One precision for all that is made of the model, whatever the stages save theirs in."""
    run = run_of(tmp_path, "student.precision=stored")
    assert run.settings.student.precision.name == "bfloat16"
    assert run.start.identity["precision"] == "bfloat16"
    assert run.settings.teacher.precision.name == "float32"
    assert run.trained_in == {"precision": "bfloat16", "weights": "float32"}


def test_adapters_and_quantisation_are_part_of_what_a_stage_is_known_by(tmp_path):
    plain, lora = run_of(tmp_path), run_of(tmp_path, "student.lora.r=4")
    assert plain.trained_in == {"precision": "float32"}
    assert plain.start.identity == lora.start.identity
    keys = {"r": 4, "alpha": 32, "dropout": 0.0, "target_modules": "all-linear",
            "quantization": None}  # fmt: skip
    assert lora.trained_in == {"precision": "float32", "lora": keys}
    listed = [
        run_of(tmp_path, "student.lora.r=4", f"student.lora.target_modules=[{names}]").trained_in
        for names in ("q_proj,v_proj", "v_proj,q_proj", "q_proj")
    ]
    assert listed[0] == listed[1] != listed[2]
    quantised = run_of(tmp_path, "teacher.quantization=nf4")
    assert quantised.teacher.identity == {**plain.teacher.identity, "quantization": "nf4"}
