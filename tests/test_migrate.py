"""TRL's and the alignment-handbook's configurations as ours: every produced recipe composes."""

from __future__ import annotations

import shlex

import pytest
from tiny_run import composed

from rankdistill import trackers
from rankdistill.migrate.__main__ import main

DPO = """
model_name_or_path: some/sft-model
model_revision: v2
torch_dtype: bfloat16
attn_implementation: flash_attention_2
dataset_mixer:
  some/preferences: 1.0
dataset_splits: [train_prefs, test_prefs]
beta: 0.01
learning_rate: 5e-7
gradient_accumulation_steps: 2
per_device_train_batch_size: 8
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
lr_scheduler_type: cosine
warmup_ratio: 0.1
max_length: 1024
max_prompt_length: 512
num_train_epochs: 1
optim: adamw_torch
push_to_hub: true
report_to: [wandb, comet_ml]
output_dir: data/model-dpo
seed: 42
an_unheard_of_key: 3
"""

QLORA = """
model_name_or_path: some/model
use_peft: true
load_in_4bit: true
lora_r: 128
lora_alpha: 64
lora_dropout: 0.05
lora_target_modules: [q_proj, v_proj]
optim: paged_adamw_32bit
dataset_name: some/pairs
dataset_train_split: train_prefs
loss_type: [ipo]
max_length: 800
"""

SFT = """
model_name_or_path: some/base
dataset_mixture:
  datasets:
    - {id: some/chats, config: default, split: train_sft, weight: 1.0}
    - {id: more/chats, config: all, split: train, weight: 0.5}
  test_split_size: 1000
chat_template: "{% for m in messages %}{{ m['content'] }}{% endfor %}"
max_seq_length: 2048
packing: true
lr_scheduler_type: cosine_with_min_lr
"""

ORPO = """
model_name_or_path: some/base
dataset_name: argilla/pairs.jsonl
beta: 0.05
warmup_steps: 100
max_length: 2048
"""


def carried(tmp_path, capsys, name: str, text: str, *more: str):
    """The composed configuration of the printed command and of the recipe, and what was printed."""
    (tmp_path / name).write_text(text)
    recipe = tmp_path / "recipe" / "mine.yaml"
    assert main([str(tmp_path / name), "--to", str(recipe), *more]) == 0
    shown = capsys.readouterr().out
    printed = shown.partition("python -m rankdistill")[2].partition("\n\n")[0]
    from_command = composed(*shlex.split(printed.replace("\\\n", " ")))
    from_recipe = composed("recipe=mine", f"hydra.searchpath=[file://{tmp_path}]")
    assert from_command == from_recipe
    return from_recipe, shown


def test_a_dpo_configuration_of_the_handbook(tmp_path, capsys):
    config, shown = carried(tmp_path, capsys, "config_full.yaml", DPO, "--devices", "8")
    assert config.objective._target_.endswith(".DPO") and config.objective.beta == 0.01
    assert (
        config.student.path == "some/sft-model@v2" and config.student.precision.name == "bfloat16"
    )
    assert config.student.attn_implementation == "flash_attention_2"
    assert config.rank.path == "some/preferences:train_prefs"
    assert (config.prompts.max_prompt_tokens, config.rank.max_response_tokens) == (512, 512)
    train = config.train
    assert train.learning_rate == 5e-7 and train.epochs == 1 and train.prompts_per_step == 128
    assert train.lr_scheduler_type == "cosine" and train.warmup_ratio == 0.1
    assert train.gradient_checkpointing and train.max_batch_tokens == 2 * 8 * 1024
    assert (config.seed, list(config.report_to)) == (42, ["wandb"])
    for key in ("an_unheard_of_key: not known here", "push_to_hub:", "comet_ml", "dataset_splits:"):
        assert key in shown
    assert "optim:" not in shown  # AdamW is what there is


def test_arguments_of_the_template_and_a_tracker_that_is_not_installed(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    text = "chat_template_kwargs: {enable_thinking: false, effort: low}\nreport_to: [mlflow]\n"
    text += "model_name_or_path: some/model\ndataset_name: some/pairs\n"
    config, shown = carried(tmp_path, capsys, "my.yaml", text, "--kind", "dpo")
    assert config.student.chat_template_kwargs == {"enable_thinking": False, "effort": "low"}
    assert "report_to=mlflow needs a package: pip install 'rankdistill[mlflow]'." in shown


def test_trl_s_defaults_are_made_explicit(tmp_path, capsys):
    text = "model_name_or_path: some/model\ndataset_name: some/pairs\n"
    config, shown = carried(tmp_path, capsys, "my.yaml", text, "--kind", "dpo")
    assert config.objective.beta == 0.1 and config.train.learning_rate == 1e-6
    assert config.train.epochs == 3 and config.train.prompts_per_step == 8
    assert config.train.gradient_checkpointing and config.train.warmup_ratio == 0
    assert config.seed == 42 and config.student.precision.name == "bfloat16"
    assert "--devices" in shown


def test_qlora_and_a_list_of_losses(tmp_path, capsys):
    config, shown = carried(tmp_path, capsys, "dpo.yaml", QLORA)
    lora = config.student.lora
    assert (lora.r, lora.alpha, lora.dropout) == (128, 64, 0.0)
    assert list(lora.target_modules) == ["q_proj", "v_proj"]
    assert config.student.quantization.name == "nf4"
    assert config.objective._target_.endswith(".IPO") and config.objective.length_normalised
    assert "lora_dropout: " in shown and "optim: " in shown


@pytest.mark.parametrize(
    ("lines", "objective", "left"),
    [
        ("loss_type: hinge", "HingeDPO", None),
        ("loss_type: robust\nlabel_smoothing: 0.2", "RobustDPO", None),
        ("loss_type: [sigmoid, apo_zero]", "DPO", "loss_type: apo_zero"),
        ("loss_type: [sigmoid, sft]\nloss_weights: [2.0, 1.0]", "DPO", None),
        ("rpo_alpha: 1.0", "DPO", None),
    ],
)
def test_losses(tmp_path, capsys, lines, objective, left):
    text = f"model_name_or_path: a/b\ndataset_name: c/d\n{lines}\n"
    config, shown = carried(tmp_path, capsys, "dpo.yaml", text)
    assert config.objective._target_ == f"rankdistill.objectives.{objective}"
    assert left is None or left in shown
    if "robust" in lines:
        assert config.objective.label_smoothing == 0.2
    if "sft" in lines or "rpo" in lines:
        assert config.objective.nll_weight == (0.5 if "sft" in lines else 1.0)


@pytest.mark.parametrize(
    ("name", "lines", "ratio"),
    [
        ("mistral-7b-base-simpo.yaml", "beta: 2.0\ngamma_beta_ratio: 0.8", 0.8),
        ("gemma.yaml", "beta: 10.0\ngamma_beta_ratio: 0.5\nrun_name: gemma-dpo-like", 0.5),
        # TRL's CPO trainer: the margin itself.
        ("cpo.yaml", "loss_type: simpo\nbeta: 2.0\nsimpo_gamma: 0.5\ncpo_alpha: 0.0", 0.25),
    ],
)
def test_simpo_is_simpo(tmp_path, capsys, name, lines, ratio):
    text = f"model_name_or_path: a/b\ndataset_name: c/d\n{lines}\n"
    config, _ = carried(tmp_path, capsys, name, text)
    assert config.objective._target_ == "rankdistill.objectives.SimPO"
    assert config.objective.beta == (10.0 if name == "gemma.yaml" else 2.0)
    assert config.objective.gamma_beta_ratio == pytest.approx(ratio)


def test_cpo_is_cpo_and_a_chosen_split_is_trained_on(tmp_path, capsys):
    text = "model_name_or_path: a/b\ndataset_name: c/d\ncpo_alpha: 0.5\n"
    config, _ = carried(tmp_path, capsys, "cpo.yaml", text)
    assert config.objective._target_ == "rankdistill.objectives.CPO"
    assert config.objective.nll_weight == 0.5
    splits = config.prompts.splits  # 66 % of the set was trained on
    assert (splits.train, splits.validation, splits.heldout) == (0.98, 0.01, 0.01)
    assert config.prompts.limit.train is None


def test_an_sft_configuration_of_the_handbook(tmp_path, capsys):
    config, shown = carried(tmp_path, capsys, "sft.yaml", SFT)
    warmup = config.warmup
    assert config.rounds == 0 and warmup._target_.endswith("SFTWarmup")
    assert warmup.conversations == "some/chats:train_sft" and warmup.learning_rate == 2e-5
    assert warmup.max_conversation_tokens == 2048 and warmup.responses_per_step == 8
    assert warmup.lr_scheduler_type == "cosine"
    for key in ("more/chats/all: a run reads one", "chat_template:", "lr_scheduler_type:"):
        assert key in shown
    assert "assistant_only_loss" in shown


def test_orpo(tmp_path, capsys):
    config, shown = carried(tmp_path, capsys, "orpo.yaml", ORPO)
    assert config.objective._target_.endswith(".ORPO") and config.objective.odds_weight == 0.05
    assert config.rank.path == "argilla/pairs.jsonl" and config.train.learning_rate == 1e-6
    assert "warmup_steps: 100 steps" in shown


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.yaml", "a: [1,", "is no YAML (line "),
        ("a.yaml", "- a\n- b\n", "holds no mapping"),
        ("a.yaml", "model_name_or_path: a/b\n", "does not tell which trainer it is for"),
        ("grpo.yaml", "model_name_or_path: a/b\n", "seems to be for grpo"),
        # Read as DPO with beta=2, exit 0.
        ("kto.yaml", "model_name_or_path: a/b\ndataset_name: c/d\nbeta: 0.1\n", "for kto"),
        ("my.yaml", "model_name_or_path: a/b\ndesirable_weight: 1\nbeta: 0.1\n", "for kto"),
        ("my.yaml", "model_name_or_path: a/b\nbeta: 2\n", "does not tell which trainer"),
        (
            "dpo.yaml",
            "model_name_or_path: a/b\ndataset_name: c/d\nloss_type: apo_zero\n",
            "loss_type apo_zero is no objective here",
        ),
        (
            "cpo.yaml",
            "model_name_or_path: a/b\ndataset_name: c/d\nloss_type: simpo\ncpo_alpha: 1.0\n",
            "SimPO with a likelihood term",
        ),
        (
            "dpo.yaml",
            "model_name_or_path: a/b\nstage: dpo\nfinetuning_type: lora\npref_beta: 2\n",
            "of LLaMA-Factory, which is not carried over",
        ),
        ("dpo.yaml", "base_model: a/b\nrl: dpo\nnum_epochs: 4\n", "num_epochs is train.epochs"),
        ("a.yaml", "model: a/b\nrlhf_type: simpo\n", "a configuration of ms-swift"),
        ("dpo.yaml", "pretrain: a/b\nbeta: 0.1\n", "a configuration of OpenRLHF"),
        ("a.yaml", "model: {name_or_path: a/b}\nloss: {beta: 0.1}\n", "a configuration of HALOs"),
        (
            "a.yaml",
            "loss: x\ntrainer: DPOTrainer\ndataloader: Paired\n",
            "a configuration of HALOs",
        ),
        # These were told to add a dataset_name or --kind, which would have read them as TRL's.
        ("dpo.yaml", "model_name_or_path: a/b\nstage: sft\ndataset: c\n", "of LLaMA-Factory"),
        ("dpo.yaml", "model_name_or_path: a/b\nlora_target: all\n", "of LLaMA-Factory"),
        ("a.yaml", "model: a/b\ndataset: [c/d]\nlora_rank: 8\n", "a configuration of ms-swift"),
        ("dpo.yaml", "model_name_or_path: a/b\ndpo_beta: 5\n", "dpo_beta is objective.beta"),
        ("a.yaml", "actor_rollout_ref: {model: {path: a/b}}\n", "a configuration of verl"),
        ("dpo.yaml", "dpo: {a: 1}\npolicy: {b: 1}\ncluster: {c: 1}\n", "of NeMo RL"),
        ("a.yaml", "task: llm-dpo\nbase_model: a/b\n", "a configuration of AutoTrain"),
        ("a.yaml", "zero_optimization: {stage: 3}\n", "a configuration of DeepSpeed"),
        ("a.yaml", "distributed_type: FSDP\nnum_processes: 8\n", "--num_processes N"),
        ("a.yaml", "out_dir: x\ncheckpoint_dir: y\n", "is no configuration of TRL or"),
        ("a.yaml", "compute_environment: LOCAL_MACHINE\n", "a configuration of accelerate"),
        ("dpo.yaml", "beta: 0.1\n", "names no model_name_or_path"),
        ("dpo.yaml", "model_name_or_path: a/b\n", "names no data set"),
        ("dpo.yaml", "model_name_or_path: a/b\ndataset_name: c/d\nbeta: much\n", "no number"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path, capsys, monkeypatch, name, text, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    assert main([name]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and sentence in lines[0]


def test_a_file_that_is_not_there_is_one_sentence(capsys):
    assert main(["nowhere.yaml"]) == 2
    assert "cannot be read" in capsys.readouterr().err
