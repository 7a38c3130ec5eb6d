"""The exported folder: what plain transformers makes of it, license, card, hub, mistakes."""

from __future__ import annotations

import json
import os
import py_compile
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from export_runs import finished_run
from huggingface_hub import ModelCard
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from tiny_models import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

from rankdistill.export import ExportOptions, current_export, export, open_source
from rankdistill.export import hub as pushing
from rankdistill.export.__main__ import main
from rankdistill.export.card import model_card
from rankdistill.export.hub import License, hub_name, is_hub_id, license_of
from rankdistill.models import load_tokenizer

IDS = torch.arange(3, 23).view(1, 20)


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return finished_run(tmp_path_factory.mktemp("runs") / "RRHF,seed=1")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    return export(open_source(run), tmp_path_factory.mktemp("to") / "student")


ALONE = """
import sys
sys.modules["rankdistill"] = None  # importing it fails
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer.apply_chat_template(
    [{"role": "user", "content": "hi"}], add_generation_prompt=True, return_tensors="pt",
    return_dict=True,
)
out = model.generate(**ids, max_new_tokens=4, do_sample=False)
g = model.generation_config
print(len(model.model.layers), tokenizer.decode(ids["input_ids"][0]).replace("\\n", "|"),
      g.eos_token_id == tokenizer.eos_token_id == 2, g.pad_token_id == tokenizer.pad_token_id == 0,
      out.shape[1] > ids["input_ids"].shape[1])
"""


def test_plain_transformers_loads_it_without_our_package(exported):
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(exported)], cwd="/", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    prompt = "<|im_start|>user|hi<|im_end|>|<|im_start|>assistant|"
    assert done.stdout.strip() == f"2 {prompt} True True True"


@pytest.mark.parametrize("tied", [True, False])
def test_weights_are_the_students_and_tied_as_the_configuration_says(tmp_path, tied):
    run = finished_run(tmp_path / "run", tied=tied)
    to = export(open_source(run), tmp_path / "to")
    assert torch.equal(logits(to), logits(run / "model"))
    with safe_open(to / "model.safetensors", framework="pt") as file:
        assert ("lm_head.weight" in file.keys()) is not tied  # noqa: SIM118
    assert json.loads((to / "config.json").read_text())["tie_word_embeddings"] is tied


def test_another_precision_is_written_and_the_run_stays_as_it_is(run, tmp_path):
    to = export(open_source(run), tmp_path / "to", ExportOptions(precision="bfloat16"))
    assert AutoModelForCausalLM.from_pretrained(to).dtype == torch.bfloat16
    assert AutoModelForCausalLM.from_pretrained(run / "model").dtype == torch.float32


def adapters(folder: Path, base: Path) -> Path:
    """What peft saves after a training in a notebook."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2))
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def test_adapters_are_merged(tiny_dir, tmp_path):
    lora = adapters(tmp_path / "lora", tiny_dir)
    to = export(open_source(lora), tmp_path / "to")
    base = AutoModelForCausalLM.from_pretrained(tiny_dir)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, lora).eval()(IDS).logits
    torch.testing.assert_close(logits(to), adapted, rtol=0, atol=1e-5)
    assert (adapted - logits(tiny_dir)).abs().max() > 1e-3
    assert not list(to.glob("adapter*"))
    assert "Nothing is recorded" in (to / "README.md").read_text()
    assert load_tokenizer(str(to)).chat_template


def test_a_lora_run_exports_like_a_full_one(tmp_path):
    run = finished_run(tmp_path / "run", "student.lora.r=4")
    card = (export(open_source(run), tmp_path / "to") / "README.md").read_text()
    assert "Trained with LoRA (rank 4), merged." in card


def test_the_card_is_the_hubs(exported):
    card = ModelCard.load(exported / "README.md")
    assert card.data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "text-generation"
    assert card.data.model_name == "rrhf-seed-1"
    results = {result.metric_type: result for result in card.data.eval_results}
    difference = results["score_difference"]
    assert difference.dataset_split == "heldout" and difference.task_type == "text-generation"
    assert difference.metric_args["low"] < difference.metric_value < difference.metric_args["high"]
    assert {"score", "win_rate", "kl_to_teacher"} <= results.keys()
    assert "kendall_tau" not in results  # of so few pairs


def test_the_cards_figures_are_the_runs(run, exported):
    metrics = json.loads((run / "metrics.json").read_text())
    trained = metrics["models"]["trained"]
    results = {r.metric_type: r for r in ModelCard.load(exported / "README.md").data.eval_results}
    assert results["score"].metric_value == trained["score"]["mean"]
    assert results["win_rate"].metric_args["high"] == trained["win_rate"]["high"]
    text = (exported / "README.md").read_text()
    for told in (
        metrics["command"],
        "transformers 5.17.0",
        "RRHF on 93 ranked groups, learning rate 1e-05",
        "5 min 39 s",  # of the stages that this run computed
        "Judged by its own teacher",
        "merely sampled at a lower temperature",
        "carbon were not measured",
        "| `objective.sft_weight` | 1.0 |",
        "convert_hf_to_gguf.py",
    ):
        assert told in text, told


def test_the_card_says_nothing_of_this_machine_and_runs_nothing(tmp_path):
    evil = tmp_path / "<img src=x onerror=alert(1)>`a`"
    secret = f"prompts.path={evil}/my prompts.jsonl"
    run = finished_run(
        tmp_path / "run", f"prompts.path='{evil}/my prompts.jsonl'", f"teacher.path='{evil}'",
        command=f"python -m rankdistill recipe=rrhf '{secret}' hydra.run.dir={tmp_path}/run",
        judge=f"likelihood under {evil}",
    )  # fmt: skip
    card = str(model_card(open_source(run), License(None), "me/student", "none"))
    assert str(tmp_path) not in card and "my prompts.jsonl" in card
    assert "recipe=rrhf" in card and "hydra.run.dir=run" in card
    outside = re.sub(r"(?ms)^(`{3,})\w*$.*?^\1$", "", card).partition("\n---\n")[2]
    assert not re.search(r"(?<!\\)<img", outside) and "onerror" in outside


def test_the_license_comes_along(exported, tmp_path):
    assert "Apache License" in (exported / "LICENSE").read_text()
    base = tmp_path / "base"
    build_model().save_pretrained(base)
    (base / "LICENSE.txt").write_text("Do as you like.")
    (base / "README.md").write_text("---\nlicense: mit\n---\n# base\n")
    found = license_of(str(base))
    assert found.identifier == "mit" and found.texts == {"LICENSE.txt": "Do as you like."}
    run = finished_run(tmp_path / "run", f"student.path={base}")
    to = export(open_source(run), tmp_path / "to")
    assert (to / "LICENSE.txt").read_text() == "Do as you like."


def test_what_is_unknown_is_not_guessed(run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert license_of("no-such-owner/no-such-model").identifier is None
    assert hub_name("bundled/smollm2-135m-instruct") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert hub_name("Qwen/Qwen2.5-7B-Instruct@main") == "Qwen/Qwen2.5-7B-Instruct"
    assert not any(map(is_hub_id, ("starter", "a/b/c", "data/rows.jsonl", "bundled/x", "./a")))


def test_awq_ready_is_a_script_and_the_best_responses(run, tmp_path):
    to = export(open_source(run), tmp_path / "to", ExportOptions(quantize="awq-ready"))
    rows = [json.loads(line) for line in (to / "calibration.jsonl").read_text().splitlines()]
    assert [row["messages"][-1]["content"] for row in rows] == ["yes 0", "yes 1", "yes 2"]
    py_compile.compile(str(to / "quantize_awq.py"), doraise=True)
    assert torch.equal(logits(to), logits(run / "model"))


def test_int8_is_close_and_smaller(run, tmp_path):
    pytest.importorskip("torchao")
    to = export(open_source(run), tmp_path / "to", ExportOptions(quantize="int8"))
    config = json.loads((to / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "torchao"
    whole, small = logits(run / "model"), logits(to)
    assert 0 < (whole - small).abs().max() < 0.1 * whole.std()
    assert "torchao==" in (to / "inferless-runtime-config.yaml").read_text()
    assert not (to / "plain").exists()


def test_an_export_is_made_again_only_when_the_model_changed(tmp_path):
    run = finished_run(tmp_path / "run")
    first = current_export(open_source(run))
    made = (first / "README.md").stat().st_mtime_ns
    assert (current_export(open_source(run)) / "README.md").stat().st_mtime_ns == made
    for file in (run / "model").iterdir():
        file.unlink()
    build_model("llama", layers=1, seed=9).save_pretrained(run / "model")
    build_tokenizer().save_pretrained(run / "model")
    again = current_export(open_source(run))
    assert torch.equal(logits(again), logits(run / "model"))


class FakeHub:
    """Takes the place of HfApi."""

    calls: list[tuple]

    def __init__(self) -> None:
        FakeHub.calls = []

    def create_repo(self, repository, **options):
        self.calls.append(("create", repository, options))

    def upload_folder(self, **options):
        self.calls.append(
            ("upload", options["repo_id"], sorted(os.listdir(options["folder_path"])))
        )


@pytest.mark.parametrize("public", [False, True])
def test_push(run, tmp_path, monkeypatch, capsys, public):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(pushing, "HfApi", FakeHub)
    flags = ["--public"] if public else []
    assert main([str(run), "--to", str(tmp_path / "to"), "--push", "me/student", *flags]) == 0
    create, upload = FakeHub.calls
    assert create == ("create", "me/student", {"private": not public, "exist_ok": True})
    assert upload[1] == "me/student" and {"README.md", "model.safetensors"} <= set(upload[2])
    written = "".join(
        p.read_text() for p in (tmp_path / "to").iterdir() if p.suffix in (".md", ".py", ".yaml")
    )
    assert "# me/student" in written and 'MODEL = "me/student"' in written
    assert "hf_secret" not in written + capsys.readouterr().out


def test_a_hub_that_refuses_keeps_the_export(run, tmp_path, monkeypatch, capsys):
    class Refusing(FakeHub):
        def create_repo(self, *_, **__):
            raise OSError("403 Forbidden: no write access")

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(pushing, "HfApi", Refusing)
    assert main([str(run), "--to", str(tmp_path / "to"), "--push", "me/student"]) == 2
    told = capsys.readouterr().err
    assert "403 Forbidden" in told and "hf upload me/student" in told and "hf_secret" not in told
    assert (tmp_path / "to" / "model.safetensors").is_file()


def mistakes(run: Path, tmp_path: Path) -> list[tuple[list[str], str]]:
    unfinished = tmp_path / "unfinished"
    (unfinished / ".hydra").mkdir(parents=True)
    reward = finished_run(tmp_path / "reward")
    (reward / "model").rename(reward / "reward_model")
    base = tmp_path / "base"
    build_model().save_pretrained(base)
    lora = adapters(tmp_path / "lora", base)
    base.rename(tmp_path / "moved")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("years of work")
    bare = finished_run(tmp_path / "bare")
    (bare / "ranked" / "train.parquet").unlink()
    (bare / "ranked").rmdir()
    to = ["--to", str(tmp_path / "to")]
    return [
        ([str(run) + "x"], "There is no run folder"),
        ([str(unfinished)], "not finished"),
        ([str(reward)], "ended with its reward model"),
        ([str(lora), *to], "which is gone"),
        ([str(run), "--to", str(full)], "something else than an export"),
        ([str(run), *to, "--quantize", "int4"], "no --quantize 'int4'"),
        ([str(run), *to, "--precision", "float61"], "did you mean 'float16'"),
        ([str(bare), *to, "--quantize", "awq-ready"], "give a run that ranks"),
        ([str(run), *to, "--push", "student"], "user/name"),
        ([str(run), *to, "--push", "me/student"], "HF_TOKEN"),
    ]


def test_every_mistake_is_one_sentence(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pushing, "get_token", lambda: None)
    wrong = mistakes(run, tmp_path)
    capsys.readouterr()  # of making them
    for arguments, told in wrong:
        assert main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
    assert (tmp_path / "full" / "thesis.tex").is_file()
    assert not (tmp_path / "to").exists()


def test_the_app_asks_vllm_for_an_answer(exported, monkeypatch):
    asked = []

    class LLM:
        def __init__(self, model: str) -> None:
            self.model = model

        def chat(self, conversations, sampling, use_tqdm):
            asked.append((conversations, sampling))
            return [SimpleNamespace(outputs=[SimpleNamespace(text="Paris.")])]

    platform = SimpleNamespace(request=lambda model: model, response=lambda model: model)
    monkeypatch.setitem(sys.modules, "inferless", platform)
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM, SamplingParams=dict))
    app = SimpleNamespace(**runpy.run_path(str(exported / "app.py")))
    model = app.InferlessPythonModel()
    model.initialize()
    assert model.llm.model == str(exported.resolve())
    response = model.infer(app.RequestObjects(prompt="Capital?", temperature=0, max_tokens=7))
    assert response == app.ResponseObjects(generated_result="Paris.")
    [(conversations, sampling)] = asked
    assert conversations == [[{"role": "user", "content": "Capital?"}]]
    assert (sampling["temperature"], sampling["max_tokens"]) == (0, 7)
    model.finalize()
    assert model.llm is None


@pytest.mark.parametrize(
    ("command", "file"),
    [(["hadolint"], "Dockerfile"), (["kubernetes-validate", "--strict"], "kubernetes.yaml")],
)
def test_deployment_files_pass_their_linters(exported, command, file):
    linter = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [str(linter), *command[1:], str(exported / file)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_deployment_files(exported):
    py_compile.compile(str(exported / "app.py"), doraise=True)
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "E,F,I,UP,B,SIM"]
    for name in ("app.py",):
        done = subprocess.run(
            [*ruff, "--line-length", "100", str(exported / name)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
    runtime = yaml.safe_load((exported / "inferless-runtime-config.yaml").read_text())["build"]
    assert runtime["cuda_version"] and any("vllm==" in p for p in runtime["python_packages"])
    compose = yaml.safe_load((exported / "docker-compose.yaml").read_text())["services"]
    (service,) = compose.values()
    assert service["ports"] == ["127.0.0.1:8000:8000"] and ":?" in str(service["environment"])
    deployment, network = yaml.safe_load_all((exported / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert network["spec"]["selector"] == pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "rrhf-seed-1"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health"
    names = {m["name"] for m in container["volumeMounts"]}
    assert names == {volume["name"] for volume in pod["spec"]["volumes"]}
    docker = (exported / "Dockerfile").read_text()
    entry = json.loads(docker.partition("ENTRYPOINT ")[2])
    assert "VLLM_API_KEY:?" in entry[2] and "vllm serve /model --host 0.0.0.0" in entry[2]
    assert subprocess.run([*entry, "--x"], env={"PATH": ""}, capture_output=True).returncode != 0
