"""Zephyr: the published values key by key, and every step of the ablation on a tiny model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from recipe_files import conversations, ranked_set
from tiny_models import build_model, build_tokenizer
from tiny_run import SMALL, TINY, composed, refusal, run_here, shrunk

from rankdistill.accelerate import path_of
from rankdistill.app import catalogue
from rankdistill.models import chat_template, identity, load_tokenizer, with_chat_template

# Tunstall et al. 2023 (arXiv:2310.16944), sections 4.1 to 4.3 and appendix.
PAPER = {
    "student.path": "mistralai/Mistral-7B-v0.1",
    "student.precision": "bfloat16",
    "student.lora.r": None,
    "student.quantization": None,
    # dSFT: "UltraChat, cosine, 2e-5, 10 % warm-up, batch 512, sequences of 2048, one epoch"
    "warmup.conversations": "HuggingFaceH4/ultrachat_200k:train_sft",
    "warmup.learning_rate": 2e-5,
    "warmup.lr_scheduler_type": "cosine",
    "warmup.warmup_ratio": 0.1,
    "warmup.responses_per_step": 512,
    "warmup.max_conversation_tokens": 2048,
    "warmup.epochs": 1.0,
    "warmup.weight_decay": 0.0,
    # dDPO: "UltraFeedback, best against a random other, linear, 5e-7, 10 %, batch 32, beta 0.1",
    # and three epochs for the final model
    "rank.path": "openbmb/UltraFeedback",
    "rank.select": "best_random",
    "objective._target_": "rankdistill.objectives.DPO",
    "objective.beta": 0.1,
    "train.learning_rate": 5e-7,
    "train.lr_scheduler_type": "linear",
    "train.warmup_ratio": 0.1,
    "train.prompts_per_step": 32,
    "train.epochs": 3.0,
    "train.weight_decay": 0.0,
}
# alignment-handbook, recipes/zephyr-7b-beta: config_full.yaml of SFT and DPO.
HANDBOOK = {
    "warmup.learning_rate": 2e-5,
    "warmup.lr_scheduler_type": "cosine",
    "warmup.epochs": 1.0,
    "warmup.responses_per_step": 128,
    "objective.beta": 0.01,
    "train.learning_rate": 5e-7,
    "train.lr_scheduler_type": "cosine",
    "train.warmup_ratio": 0.1,
    "train.epochs": 1.0,
    "train.prompts_per_step": 128,
    # max_length 1024, max_prompt_length 512
    "prompts.max_prompt_tokens": 512,
    "rank.max_response_tokens": 512,
}
# config_qlora.yaml of both; its README runs them on one GPU: batches of 4 x 2 and 4 x 4.
QLORA = {
    "student.quantization": "nf4",
    "student.lora.r": 128,
    "student.lora.alpha": 128,
    "student.lora.dropout": 0.05,
    "student.lora.target_modules": "all-linear",
    "warmup.learning_rate": 2e-4,
    "warmup.lr_scheduler_type": "cosine",
    "warmup.epochs": 1.0,
    "warmup.responses_per_step": 8,
    "objective.beta": 0.01,
    "train.learning_rate": 5e-6,
    "train.lr_scheduler_type": "cosine",
    "train.epochs": 1.0,
    "train.prompts_per_step": 16,
}
# Its config_lora.yaml of DPO before pull request 88: a step of 2 x 32 pairs.
LORA = {
    "student.quantization": None,
    "student.lora.r": 64,
    "student.lora.alpha": 16,
    "objective.beta": 0.1,
    "train.learning_rate": 5e-7,
    "train.lr_scheduler_type": "linear",
    "train.epochs": 3.0,
    "train.prompts_per_step": 64,
}


def header(recipe: str) -> str:
    lines = catalogue.recipe_files()[recipe].read_text().splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def overrides_after(recipe: str, phrase: str) -> list[str]:
    """The overrides of the header's line that follows `phrase`, as a person would append them."""
    line = re.split(re.escape(phrase), header(recipe))[1].strip().splitlines()[0]
    return [word for word in shlex.split(line.split("recipe=")[-1]) if "=" in word]


@pytest.mark.parametrize(
    ("recipe", "phrase", "published"),
    [
        ("zephyr_7b", None, PAPER),
        ("zephyr_7b", "appended to the command:", HANDBOOK),
        ("zephyr_7b_qlora", "Command:", QLORA),
        ("zephyr_7b_qlora", "in place of objective.beta=0.01:", LORA),
    ],
)
def test_the_published_values(recipe, phrase, published):
    overrides = overrides_after(recipe, phrase) if phrase else []
    assert bool(overrides) == bool(phrase)
    config = composed(f"recipe={recipe}", *overrides)
    plain = OmegaConf.create(OmegaConf.to_container(config, enum_to_str=True))
    assert {key: OmegaConf.select(plain, key) for key in published} == published


def test_the_suggested_launchers_are_there_and_the_expected_figures_named():
    for recipe in ("zephyr_7b", "zephyr_7b_qlora"):
        [launcher] = re.findall(r"rankdistill\.accelerate (\w+)", header(recipe))
        assert Path(path_of(launcher)).is_file()
        assert "Status: unverified on GPU" in header(recipe)
    assert "MT-Bench 7.34, AlpacaEval 90.60" in header("zephyr_7b")


# What a point of the ablation changes in recipe=zephyr, and nothing else.
ABLATION = {
    "zephyr": set(),
    "zephyr_no_sft": {"warmup.train_conversations"},
    "zephyr_sft": {"rounds"},
    "zephyr_sft_on_chosen": {"objective"},
    "zephyr_rrhf": {"objective", "rank.select"},
    "zephyr_pro": {"objective", "rank.select"},
    "zephyr_ppo": {"train", "reward", "rank.select"},
}


def changes(before, after, path=""):
    """The keys whose values differ; of an objective and the like the group alone."""
    if path in ("objective", "train", "reward") or not isinstance(before, dict):
        return {path} if before != after else set()
    keys = before.keys() | after.keys()
    inner = [changes(before.get(k), after.get(k), f"{path}.{k}".lstrip(".")) for k in keys]
    return set().union(*inner)


@pytest.mark.parametrize("recipe", ABLATION)
def test_a_point_of_the_ablation_changes_one_thing(recipe):
    read = [OmegaConf.to_container(composed(f"recipe={name}")) for name in ("zephyr", recipe)]
    assert changes(*read) == ABLATION[recipe]
    [sweep] = re.findall(r"-m recipe=(\S+) seed=", header("zephyr"))
    assert sweep.split(",") == list(ABLATION)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    """Graded lists, and conversations that answer some of their prompts too."""
    folder = tmp_path_factory.mktemp("data")
    return [*ranked_set(folder), *conversations(folder)]


@pytest.fixture
def point(monkeypatch, tmp_path, teacher, shared_home, files):
    """Runs one point over the shared store; returns its metrics.json."""
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))

    def run(recipe: str, *more: str):
        given = [w for w in files if recipe != "zephyr_no_sft" or "train_conv" not in w]
        folder = run_here(
            monkeypatch, tmp_path, f"recipe={recipe}", *shrunk(recipe), *given,
            f"teacher.path={teacher}", "reward.epochs=1", "reward.prompts_per_step=3", *more,
        )  # fmt: skip
        return json.loads((folder / "metrics.json").read_text())

    return run


def stages(metrics, name):
    return [stage for stage in metrics["stages"] if stage["stage"] == name]


def test_two_steps_of_every_point_on_the_same_held_out_prompts(point):
    found = {
        recipe: point(recipe, *(["train.rollout.prompts=3"] if recipe == "zephyr_ppo" else []))
        for recipe in ABLATION
    }
    whole = found["zephyr"]
    [learned], [dsft] = stages(whole, "lessons"), stages(whole, "warmup")
    # 7 of the 60 conversations answer a validation or held-out prompt.
    assert learned["counts"]["read"] == 60 and learned["counts"]["held_out"] == 7
    assert learned["counts"]["conversations"] == 8
    for recipe, metrics in found.items():
        expected = 0 if recipe == "zephyr_sft" else 2
        losses = [row for row in metrics["training_history"] if "loss" in row]
        assert len(losses) == expected, recipe
        assert [s["key"] for s in stages(metrics, "warmup")] == (
            [] if recipe == "zephyr_no_sft" else [dsft["key"]]
        )
        # The same lists, and the same held-out prompts to answer and to order.
        assert stages(metrics, "rank")[0]["key"] == stages(whole, "rank")[0]["key"]
        assert metrics["ranked_set"]["prompts"] == 4
        assert metrics["models"]["teacher"]["score"] == whole["models"]["teacher"]["score"]
    assert stages(found["zephyr_pro"], "warmup")[0]["reused"]
    start = found["zephyr"]["models"]["start"]["score"]
    assert found["zephyr_no_sft"]["models"]["warmed_up"]["score"] == start
    assert (
        found["zephyr_sft"]["models"]["trained"]["score"]
        == (found["zephyr"]["models"]["warmed_up"]["score"])
    )
    trained = {m: stages(found[m], "train")[0]["counts"] for m in ("zephyr_rrhf", "zephyr_ppo")}
    assert trained["zephyr_rrhf"]["models"] == 1 and trained["zephyr_ppo"]["models"] == 4
    assert all(counts["peak_mib"] > 0 for counts in trained.values())


def test_the_recipe_of_the_paper_on_a_tiny_base_model(monkeypatch, tmp_path, files):
    """Three steps from a model without a chat template."""
    base = tmp_path / "base"
    build_model("llama", layers=2, seed=1).save_pretrained(base)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(base)
    command = [
        "recipe=zephyr_7b", *files, f"teacher.path={base}", f"student.path={base}",
        "student.precision=float32", "teacher.precision=float32", "prompts.limit.train=6",
        "prompts.splits={train: 0.6, validation: 0.2, heldout: 0.2}", "train.epochs=1",
        "train.prompts_per_step=3", "warmup.responses_per_step=3",
    ]  # fmt: skip
    folder = run_here(monkeypatch, tmp_path, *command)
    metrics = json.loads((folder / "metrics.json").read_text())
    names = [stage["stage"] for stage in metrics["stages"]]
    assert names[:6] == ["rank", "lessons", "warmup", "rank", "reference", "train"]
    written = load_tokenizer(str(folder / "model")).apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert written == "<|user|>\nHi<|im_end|>\n<|assistant|>\n"


def test_a_conversation_in_zephyrs_template(tiny_dir):
    folder = with_chat_template(str(tiny_dir), chat_template("zephyr"))
    assert with_chat_template(str(tiny_dir), chat_template("zephyr")) == folder
    assert identity(folder) != identity(str(tiny_dir))
    tokenizer = load_tokenizer(folder)
    tokenizer.bos_token = "<|im_start|>"
    messages = [
        {"role": "system", "content": "S"}, {"role": "user", "content": "U"},
        {"role": "assistant", "content": "A"},
    ]  # fmt: skip
    assert tokenizer.apply_chat_template(messages, tokenize=False) == (
        "<|im_start|><|system|>\nS<|im_end|>\n<|user|>\nU<|im_end|>\n<|assistant|>\nA<|im_end|>\n"
    )


def test_what_is_not_there_is_said_at_once(monkeypatch, capsys, tmp_path, files, teacher):
    start = ["recipe=zephyr", *TINY, f"teacher.path={teacher}", *files]
    said = refusal(monkeypatch, capsys, tmp_path, *start, "warmup.conversations=talk.jsonl")
    assert "There is no file of conversations 'talk.jsonl'" in said
    said = refusal(monkeypatch, capsys, tmp_path, *start, "student.chat_template=zephir")
    assert "student.chat_template 'zephir'" in said and "did you mean 'zephyr'" in said
    said = refusal(monkeypatch, capsys, tmp_path, *start, "warmup.max_conversation_tokens=5")
    assert "leaves nothing to learn" in said


def test_rankings_of_two_lengths_share_their_samples(monkeypatch, tmp_path, teacher, shared_home):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    found = []
    for length in (2, 5):
        folder = run_here(
            monkeypatch, tmp_path, "recipe=pro_ranking_length", f"rank.top_k={length}", *SMALL,
            "prompts=starter", "score=likelihood", f"teacher.path={teacher}",
            "eval.quick.sharpening_control=false",
        )  # fmt: skip
        found.append(json.loads((folder / "metrics.json").read_text()))
    for name in ("warmup", "sample", "score"):
        first, second = (stages(metrics, name) for metrics in found)
        assert first[0]["key"] == second[0]["key"] and second[0]["reused"]
    shorter, longer = (stages(metrics, "train")[0] for metrics in found)
    assert shorter["key"] != longer["key"] and not longer["reused"]
