"""Reward models, PPO and rounds as whole runs on a tiny model: stages, reuse, refusals, report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from safetensors.torch import load_file
from tiny_run import TINY, refusal, run_here
from transformers import AutoModelForSequenceClassification

from rankdistill.train.reward.model import SHIFT

PPO = [
    "recipe=ppo", *TINY, "reward.min_accuracy=0", "train.rollout.prompts=3", "train.epochs=1",
    "eval.quick.sharpening_control=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


def metrics_in(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


def stages(folder: Path, name: str) -> list[dict]:
    return [stage for stage in metrics_in(folder)["stages"] if stage["stage"] == name]


def test_ppo_from_prompts_to_report(monkeypatch, tmp_path, teacher, shared_home):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    arguments = [*PPO, f"teacher.path={teacher}"]
    folder = run_here(monkeypatch, tmp_path, *arguments)
    metrics = metrics_in(folder)
    assert metrics["title"].startswith("PPO: ")
    history = metrics["training_history"]
    assert [row["iteration"] for row in history] == [1.0, 2.0] and history[-1]["step"] == 4.0
    assert all(row["sampler_gap"] < 1e-4 for row in history)
    reward = metrics["reward_model"]
    assert set(reward["models"]) == set(metrics["models"])
    assert reward["models"]["warmed_up"]["difference"] is None
    assert reward["models"]["trained"]["difference"]["mean"] is not None
    assert reward["gate"]["pairs"] > 0 and len(reward["gate"]["calibration"]) >= 1
    for page in ("report.md", "report.html"):
        text = (folder / page).read_text()
        for words in ("held-out pairs", "Reward minus warmed up", "Judge score minus warmed up"):
            assert words in text, (page, words)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "reward_model")
    assert model.num_labels == 1 and isinstance(getattr(model.config, SHIFT), float)
    assert (folder / "model" / "model.safetensors").exists()

    again = run_here(monkeypatch, tmp_path, *arguments)
    assert all(stage["reused"] for stage in metrics_in(again)["stages"])
    group = run_here(
        monkeypatch, tmp_path, *arguments, "train.advantage=group", "reward.min_accuracy=0.01",
        "reward.max_batch_tokens=64", "train.max_batch_tokens=64",
    )  # fmt: skip
    assert stages(group, "reward")[0]["reused"]
    assert [s["reused"] for s in stages(group, "train")] == [False]
    assert metrics_in(group)["title"].startswith("PPO, group advantages: ")


def test_adapters_are_merged_when_ppo_ends(monkeypatch, tmp_path, teacher, shared_home):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    arguments = [*PPO, f"teacher.path={teacher}", "student.lora.r=2"]
    folder = run_here(monkeypatch, tmp_path, *arguments)
    (training,) = stages(folder, "train")
    assert training["counts"]["models"] == 3  # the reference is the policy without its adapters
    assert not list((folder / "model").glob("adapter*"))
    assert metrics_in(folder)["training_history"][0]["kl"] == pytest.approx(0.0, abs=1e-6)


def test_a_gate_that_is_not_passed_stops_the_run(
    monkeypatch, capsys, tmp_path, teacher, shared_home
):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    said = refusal(
        monkeypatch, capsys, tmp_path, *PPO, f"teacher.path={teacher}", "reward.min_accuracy=0.99"
    )
    assert "held-out pairs as the ranking does ('longer wins' orders" in said
    assert "below reward.min_accuracy=0.99" in said


def test_a_reward_model_of_a_ranked_file_alone(monkeypatch, tmp_path, teacher):
    rows = [
        {"prompt": f"Question {i}?", "responses": [
            {"text": text, "rank": rank} for rank, text in enumerate(["aaaa", "abab", "zz", "z"])]}
        for i in range(40)
    ]  # fmt: skip
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = run_here(
        monkeypatch, tmp_path, "recipe=reward_model", f"teacher.path={teacher}",
        f"rank.path={path}", "warmup=none", "student.keep_layers=2", "reward.epochs=8",
        "reward.learning_rate=1e-2", "reward.min_accuracy=0.9", "prompts.limit.train=32",
        "prompts.limit.validation=4", "prompts.limit.heldout=4",
    )  # fmt: skip
    metrics = metrics_in(folder)
    assert "orders 100 %" in (folder / "report.md").read_text()
    assert "Calibration error" in (folder / "report.html").read_text()
    gate = metrics["reward_model"]["gate"]
    assert gate["accuracy"]["mean"] == 1.0 and gate["prompts"] == 8
    assert metrics["training_history"][0]["pair_accuracy"] is not None
    assert not (folder / "model").exists() and not stages(folder, "train")
    assert (folder / "reward_model" / "model.safetensors").exists()


def test_a_gate_does_not_see_the_held_out_prompts(monkeypatch, capsys, tmp_path, teacher):
    splits = ("train", "validation", "heldout")
    rows = [
        {"prompt": f"Question {i}?", "split": splits[i % 3], "responses": [
            {"text": "aaaa", "rank": i // 3 % 2}, {"text": "zzzz", "rank": 1 - i // 3 % 2}]}
        for i in range(18)
    ]  # fmt: skip
    path = tmp_path / "ranked.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = refusal(
        monkeypatch, capsys, tmp_path, *set(PPO) - {"warmup.epochs=1"}, f"teacher.path={teacher}",
        f"rank.path={path}", "warmup=none", "prompts.limit.validation=6", "reward.min_accuracy=1",
    )  # fmt: skip
    assert re.search(r"orders .* of 6 held-out pairs", said)


def test_rounds_sample_anew_with_the_newest_student(monkeypatch, tmp_path, teacher, shared_home):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    arguments = [
        "recipe=iterative_dpo", *TINY, f"teacher.path={teacher}", "rounds=2",
        "eval.quick.sharpening_control=false", "train.learning_rate=1e-2",
    ]  # fmt: skip
    moved = run_here(monkeypatch, tmp_path, *arguments)
    metrics = metrics_in(moved)
    assert metrics["title"].startswith("DPO, 2 rounds: ")
    assert metrics["title"].endswith(f", ranked by likelihood under {teacher}")
    rounds = [s for s in stages(moved, "sample") if "train and validation" in s["what"]]
    assert len(rounds) == 2 and rounds[0]["key"] != rounds[1]["key"]
    assert len(stages(moved, "train")) == len(stages(moved, "reference")) == 2
    losses = [row for row in metrics["training_history"] if "loss" in row]
    assert [row["step"] for row in losses] == [1, 2, 3, 4]
    assert [row.get("round", 1) for row in losses] == [1, 1, 2, 2]
    # At its first step a policy is its own moved reference: DPO's loss is log 2.
    assert losses[2]["rank_loss"] == pytest.approx(0.6931, abs=1e-3)
    one = run_here(monkeypatch, tmp_path, *arguments, "rounds=1")
    assert stages(one, "train")[0]["key"] == stages(moved, "train")[0]["key"]
    assert stages(one, "train")[0]["reused"]
    fixed = run_here(monkeypatch, tmp_path, *arguments, "round_reference=fixed")
    assert stages(fixed, "train")[0]["reused"] and not stages(fixed, "train")[1]["reused"]
    losses = [row for row in metrics_in(fixed)["training_history"] if "loss" in row]
    assert losses[2]["rank_loss"] != pytest.approx(0.6931, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["rounds=2"], "rounds is 2, but train=ppo samples anew"),
        (["train.rollout.top_p=0.9"], "top_p=1"),
        (["train.rollout.temperature=-1"], "train.rollout.temperature is -1"),
        (["train.rollout.top_k=7"], "top_k=0"),
        (["train.rollout.responses_per_prompt=1", "train.advantage=group"], "at least 2"),
        (["train.clip=0"], "train.clip is 0"),
        (["reward.margin=1", "reward.loss=plackett_luce"], "no margin"),
        (["reward.min_accuracy=2"], "reward.min_accuracy is 2"),
        (["train.rollout.promts=3"], "did you mean 'prompts'?"),
    ],
)
def test_refused_before_anything_runs(monkeypatch, capsys, tmp_path, teacher, arguments, sentence):
    said = refusal(monkeypatch, capsys, tmp_path, *PPO, f"teacher.path={teacher}", *arguments)
    assert sentence in said and not list((tmp_path / "home").rglob("manifest.json"))


@pytest.mark.parametrize("method", [[], ["train=distillation"]])
def test_a_launch_that_shards_models_is_refused_before_anything_runs(
    method, monkeypatch, capsys, tmp_path, teacher
):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    said = refusal(monkeypatch, capsys, tmp_path, *PPO, f"teacher.path={teacher}", *method)
    assert "needs the whole model in every process, and this launch shards it (DeepSpeed)" in said
    assert not list((tmp_path / "home").rglob("manifest.json"))


def test_the_reward_model_of_another_tokenizer_reads_the_text(monkeypatch, tmp_path, teacher):
    """A backbone with a token more in front: its ids differ, so it reads the text."""
    from tiny_models import SPECIAL, build_model, build_tokenizer
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    other = tmp_path / "backbone"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<|first|>", *SPECIAL, *alphabet]
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>",
        chat_template=build_tokenizer().chat_template,
    )  # fmt: skip
    model = build_model("llama", layers=2)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(other)
    tokenizer.save_pretrained(other)
    folder = run_here(
        monkeypatch, tmp_path, *PPO, f"teacher.path={teacher}", f"reward.backbone={other}",
        "eval=[quick]",
    )  # fmt: skip
    assert len(metrics_in(folder)["training_history"]) == 2
    weights = load_file(folder / "reward_model" / "model.safetensors")
    assert weights["model.embed_tokens.weight"].shape[0] == len(tokens)
    assert all(torch.isfinite(weight).all() for weight in weights.values())
    ranked = load_dataset(str(folder / "ranked"), cache_dir=str(tmp_path / "hf"))
    assert len(ranked["train"]) > 0
