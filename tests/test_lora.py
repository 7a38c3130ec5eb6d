"""LoRA from loading to the plain model that a stage leaves; QLoRA where bitsandbytes is."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch
from peft import LoraConfig, PeftModel
from ranking_trainer_data import (
    TOKENIZER,
    config,
    logged,
    logps_by_hand,
    ragged_groups,
    strictly_ranked,
    trained,
    weights,
)
from tiny_models import build_model, build_tokenizer
from tiny_run import TINY, run_here
from torch.nn.modules.dropout import _DropoutNd
from transformers import AutoConfig, AutoModelForCausalLM
from warmup_runs import warm_up

from rankdistill import RankingTrainer
from rankdistill.errors import UserError
from rankdistill.models import LoRA, adapted, load_model, load_trainable, merged
from rankdistill.objectives import DPO
from rankdistill.train.reference import ReferenceConfig, add_reference_logps
from rankdistill.warmup.hidden import HiddenWarmup
from rankdistill.warmup.logits import LogitsWarmup
from rankdistill.warmup.sft import SFTWarmup

IDS = torch.arange(3, 33).view(2, 15)


def moved(model, std=0.3):
    """The model with adapters that change something."""
    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    return model


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "phi"])
def test_merging_is_exact(architecture):
    start = build_model(architecture).double()
    model = moved(LoRA(4).on(build_model(architecture).double())).double()
    with torch.no_grad():
        before, adapted = start(IDS).logits, model(IDS).logits
        plain = merged(model)
        after = plain(IDS).logits
    assert (adapted - before).abs().max() > 1e-3
    torch.testing.assert_close(after, adapted, rtol=0, atol=1e-10)
    assert type(plain) is type(start) and plain.state_dict().keys() == start.state_dict().keys()
    assert merged(start) is start


def test_adapters_start_by_the_seed_alone(tiny_dir):
    torch.manual_seed(1)
    first = load_trainable(str(tiny_dir), lora=LoRA(2), seed=5)
    torch.manual_seed(2)
    expected = torch.rand(1)
    torch.manual_seed(2)
    again, other = (load_trainable(str(tiny_dir), lora=LoRA(2), seed=seed) for seed in (5, 6))
    assert torch.equal(torch.rand(1), expected)
    ours = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])
    assert any(not torch.equal(ours[0][name], ours[2][name]) for name in ours[0])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_trained_is_float32(tiny_dir, precision):
    whole = load_trainable(str(tiny_dir), precision=precision)
    assert {p.dtype for p in whole.parameters()} == {torch.float32}
    adapted = load_trainable(str(tiny_dir), precision=precision, lora=LoRA(2))
    kinds = {(p.requires_grad, p.dtype) for p in adapted.parameters()}
    assert kinds == {(True, torch.float32), (False, getattr(torch, precision))}
    targets = {name.split(".")[-4] for name, p in adapted.named_parameters() if p.requires_grad}
    assert "q_proj" in targets and "down_proj" in targets and "lm_head" not in targets


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": 0}, r"student.lora.r is 0; it must be in \[1, 16384\]"),
        ({"r": 2, "alpha": 0}, "student.lora.alpha is 0"),
        ({"r": 2, "dropout": 1.0}, r"student.lora.dropout is 1.0; it must be in \[0, 1\)"),
        ({"r": 2, "target_modules": []}, "student.lora.target_modules is"),
        ({"r": 2, "target_modules": [3]}, "names of layers"),
        ({"r": 2, "target_modules": ["c_attn"]}, "does not fit LlamaForCausalLM: .*c_attn"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        LoRA(**options).on(build_model())


def test_peft_config_as_in_trl(tmp_path):
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    rows = strictly_ranked(5)
    trainer = RankingTrainer(build_model(), config(tmp_path), rows, DPO(beta=1.0),
                             processing_class=TOKENIZER, peft_config=lora)  # fmt: skip
    assert isinstance(trainer.model, PeftModel)
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trained and all("lora" in name for name in trained)
    dropouts = [m.p for m in trainer.model.modules() if isinstance(m, _DropoutNd)]
    assert dropouts and set(dropouts) == {0.0}
    with pytest.raises(UserError, match="has adapters already: merge them first"):
        RankingTrainer(trainer.model, config(tmp_path), rows, DPO(), processing_class=TOKENIZER,
                       peft_config=lora)  # fmt: skip


TAUGHT = [
    {
        "prompt_id": row["prompt_id"],
        "split": "train",
        "messages": row["messages"],
        "responses": [{**row["responses"][0], "source": "teacher"}],
    }
    for row in ragged_groups(12)
]


def warmed_up(warmup, student, folder, **options):
    """The folder that a warm-up leaves."""
    defaults = {"teacher": student, "groups": TAUGHT, "out": folder / "model",
                "lora": LoRA(4, dropout=0.5)}  # fmt: skip
    warm_up(warmup, student, **{**defaults, **options})
    return folder / "model"


QUICK = {"learning_rate": 1e-2, "epochs": 2.0, "responses_per_step": 4, "save_steps": 1000}


@pytest.mark.parametrize(
    "warmup",
    [SFTWarmup(**QUICK), LogitsWarmup(**QUICK, alpha=0.0), HiddenWarmup(**QUICK)],
    ids=lambda warmup: type(warmup).__name__,
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_warm_up_leaves_a_plain_model_of_the_student_and_its_adapters(
    warmup, precision, tiny_dir, teacher, tmp_path
):
    out = warmed_up(warmup, tiny_dir, tmp_path, teacher=str(teacher), precision=precision)
    assert not (out / "adapter_config.json").exists()
    before = load_model(str(tiny_dir), precision=precision).state_dict()
    after = load_model(str(out), precision="auto").state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    linear = {name for name in before if "proj" in name}
    assert changed == linear and {x.dtype for x in after.values()} == {getattr(torch, precision)}


def test_the_reference_is_the_warmed_up_student_with_its_adapters_merged(tiny_dir, tmp_path):
    student = str(warmed_up(SFTWarmup(**QUICK), tiny_dir, tmp_path))
    lora, rows = LoRA(4, dropout=0.5), strictly_ranked(9)
    expected = [logps_by_hand(load_model(student), row) for row in rows]
    moved_by_warmup = logps_by_hand(load_model(str(tiny_dir)), rows[0])
    assert expected[0] != pytest.approx(moved_by_warmup, abs=1e-2)

    alone = ReferenceConfig(max_batch_tokens=1, layout="padded")
    rows = add_reference_logps(rows, load_trainable(student, lora=lora), TOKENIZER, alone)
    args = config(tmp_path, optim="adamw_torch_fused", learning_rate=1e-2, num_train_epochs=5,
                  per_device_train_batch_size=9, max_batch_tokens=700)  # fmt: skip
    policy = load_trainable(student, lora=lora)
    trainer = trained(policy, rows, args, objective=DPO(beta=1.0))
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=1e-4)
    for name in ("chosen_log_ratio", "rejected_log_ratio", "chosen_reward", "rejected_reward"):
        assert logged(trainer, name)[0] == pytest.approx(0.0, abs=1e-4)
    assert trainer.state.global_step == 5 and logged(trainer)[-1] < logged(trainer)[0]
    for row, group, at_first in zip(rows, trainer.train_dataset, expected, strict=True):
        assert group.reference_logps == pytest.approx(at_first, abs=1e-4)
        assert logps_by_hand(load_model(student), row) == pytest.approx(at_first, abs=1e-4)
        assert logps_by_hand(trainer.model, row) != pytest.approx(at_first, abs=1e-2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_continued_training_of_adapters_ends_like_one_that_was_not_cut_off(
    tmp_path, tiny_dir, checkpointing
):
    def policy():
        return load_trainable(str(tiny_dir), lora=LoRA(2))

    def arguments(**more):
        return config(tmp_path, optim="adamw_torch_fused", learning_rate=1e-2, num_train_epochs=2,
                      per_device_train_batch_size=3, save_strategy="steps", save_steps=2,
                      gradient_checkpointing=checkpointing, **more)  # fmt: skip

    rows = strictly_ranked(6)
    whole = trained(policy(), rows, arguments(), objective=DPO())
    assert not (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    again = RankingTrainer(policy(), arguments(), rows, DPO(), processing_class=TOKENIZER)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert logged(again) == logged(whole)
    for name, value in weights(whole).items():
        assert torch.equal(weights(again)[name], value), name


def test_a_whole_run(monkeypatch, tmp_path, teacher):
    shared = [f"teacher.path={teacher}", "eval.quick.sharpening_control=false", *TINY]
    run = run_here(
        monkeypatch, tmp_path, "recipe=dpo", "warmup=sft", "student.lora.r=4",
        "student.lora.dropout=0.1", "student.lora.target_modules=[q_proj,down_proj]",
        "train.learning_rate=1e-2", *shared, "warmup.responses_per_step=2",
    )  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    first = next(row for row in metrics["training_history"] if "loss" in row)
    assert first["rank_loss"] == pytest.approx(math.log(2), abs=1e-4)
    folders = sorted(
        (tmp_path / "home").rglob("model.safetensors"), key=lambda f: f.stat().st_mtime
    )
    models = [load_model(str(f.parent)).state_dict() for f in folders if ".partial" not in str(f)]
    assert len(models) >= 3  # with fewer layers, warmed up, trained
    for before, after in pairwise(models[-3:]):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {name for name in before if "q_proj" in name or "down_proj" in name}


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_over_quantised_weights(quantization, tmp_path):
    """On a CPU too, where the command refuses it: bitsandbytes is slow and inexact there."""
    pytest.importorskip("bitsandbytes")
    sizes = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
    torch.manual_seed(0)
    architecture = AutoConfig.for_model("llama", vocab_size=259, tie_word_embeddings=True, **sizes)
    AutoModelForCausalLM.from_config(architecture).save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    policy = load_trainable(str(tmp_path / "model"), lora=LoRA(4, quantization=quantization))
    trainer = trained(
        policy, strictly_ranked(4), objective=DPO(beta=1.0),
        args=config(tmp_path, optim="adamw_torch_fused", learning_rate=1e-2, num_train_epochs=3),
    )  # fmt: skip
    assert logged(trainer)[0] == pytest.approx(math.log(2), abs=0.02)
    assert logged(trainer)[-1] < logged(trainer)[0]
    start = load_model(str(tmp_path / "model"))
    with torch.no_grad():
        adapted = trainer.model(IDS).logits
        plain = merged(trainer.model)
        after = plain(IDS).logits
    difference = (after - adapted).abs().max()
    assert difference < 0.02 < (after - start(IDS).logits).abs().max()
    plain.save_pretrained(tmp_path / "out")
    assert torch.equal(load_model(str(tmp_path / "out"))(IDS).logits, plain(IDS).logits)


@pytest.mark.parametrize("names", [["lm_head"], ["q_proj", "lm_head"], ["embed_tokens"]])
def test_adapters_on_tied_layers_are_refused(names):
    # Merged, they changed the other layer too: the saved logits were off by 8 to 17.
    model = build_model("llama")
    with pytest.raises(UserError, match=r"adapts '(lm_head|embed_tokens)', and this model's input"):
        LoRA(2, target_modules=names).on(model)


@pytest.mark.parametrize(
    "options",
    [{"target_modules": ".*(lm_head|q_proj)"},
     {"target_modules": ["q_proj"], "target_parameters": ["embed_tokens.weight"]},
     {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}],
)  # fmt: skip
def test_so_are_those_that_a_peft_config_names_in_other_ways(options):
    with pytest.raises(UserError, match=r"adapts '(lm_head|embed_tokens)', and this model's input"):
        adapted(build_model("llama"), LoraConfig(r=2, task_type="CAUSAL_LM", **options), 0)


@pytest.mark.parametrize(
    "whole",
    [{"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]},
     {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}],
)  # fmt: skip
def test_tied_layers_that_are_trained_whole_are_saved_as_trained(whole, tmp_path):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", **whole)
    model = adapted(build_model("llama"), config, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.01 * torch.randn_like(parameter)
        trained = model(IDS).logits
        merged(model).save_pretrained(tmp_path / "out")
        saved = load_model(str(tmp_path / "out"))(IDS).logits
    assert (saved - trained).abs().max() < 1e-4
