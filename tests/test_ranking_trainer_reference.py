"""The frozen reference: computed once, with the policy's own forward, without the adapter."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from ranking_trainer_data import TOKENIZER, config, logged, logps_by_hand, strictly_ranked, trained
from tiny_models import build_model
from torch.testing import assert_close

from rankdistill import RankingTrainer
from rankdistill.errors import UserError
from rankdistill.objectives import DPO, PlackettLuceDPO
from rankdistill.train.reference import ReferenceConfig, add_reference_logps


def with_lora(model, *, noise=0.0):
    """LoRA with dropout on top of the model; `noise` makes the adapter differ from nothing."""
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    model = get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=noise)
    return model


@pytest.mark.parametrize("layout", ["shared", "padded"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2"])
def test_log_2_at_the_start_under_another_packing(tmp_path, architecture, layout):
    rows, model = strictly_ranked(9), build_model(architecture)
    by_hand = [logps_by_hand(model, row) for row in rows]
    alone = ReferenceConfig(max_batch_tokens=1)
    rows = add_reference_logps(rows, model, TOKENIZER, alone)
    for row, expected in zip(rows, by_hand, strict=True):
        assert row["reference_logps"] == pytest.approx(expected, abs=1e-4)

    args = config(tmp_path, per_device_train_batch_size=9, max_batch_tokens=700, layout=layout)
    trainer = trained(model, rows, args, objective=DPO(beta=1.0))
    assert logged(trainer) == pytest.approx([math.log(2)], abs=1e-4)
    for name in ("chosen_log_ratio", "rejected_log_ratio", "chosen_reward", "rejected_reward"):
        assert logged(trainer, name) == pytest.approx([0.0], abs=1e-4)


def test_the_trainer_computes_it_itself_and_it_does_not_move(tmp_path):
    rows = strictly_ranked(6)
    args = config(tmp_path, optim="adamw_torch_fused", learning_rate=1e-3, num_train_epochs=5,
                  per_device_train_batch_size=6)  # fmt: skip
    trainer = RankingTrainer(build_model(), args, rows, PlackettLuceDPO(),
                             processing_class=TOKENIZER, eval_dataset=rows[:2])  # fmt: skip
    started = [group.reference_logps for group in trainer.train_dataset]
    trainer.train()
    assert trainer.state.global_step == 5 and logged(trainer)[-1] < logged(trainer)[0]
    factorials = [math.lgamma(len(row["responses"]) + 1) for row in rows]
    assert logged(trainer)[0] == pytest.approx(sum(factorials) / 6, abs=1e-4)
    assert [group.reference_logps for group in trainer.train_dataset] == started
    assert started[0] == pytest.approx(logps_by_hand(build_model(), rows[0]), abs=1e-4)
    assert logps_by_hand(trainer.model, rows[0]) != pytest.approx(started[0], abs=1e-2)
    assert trainer.evaluate()["eval_margin"] > 0


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_of_a_model_with_an_adapter_it_is_the_model_without(tmp_path, noise):
    rows, policy = strictly_ranked(5), with_lora(build_model(), noise=noise)
    args = config(tmp_path, optim="adamw_torch_fused", learning_rate=1e-2, num_train_epochs=5,
                  per_device_train_batch_size=5, max_batch_tokens=70)  # fmt: skip
    trainer = trained(policy, rows, args, objective=DPO(beta=1.0))
    first = logged(trainer)[0]
    if noise:
        assert first != pytest.approx(math.log(2), abs=1e-3)
    else:  # LoRA's dropout of 0.5 is off, or it would differ
        assert first == pytest.approx(math.log(2), abs=1e-5)
    assert logged(trainer)[-1] < first
    base = build_model()
    for row, group in zip(rows, trainer.train_dataset, strict=True):
        assert group.reference_logps == pytest.approx(logps_by_hand(base, row), abs=1e-4)
    with trainer.model.disable_adapter():
        fresh = logps_by_hand(trainer.model, rows[0])
    assert fresh == pytest.approx(trainer.train_dataset[0].reference_logps, abs=1e-4)
    assert logps_by_hand(trainer.model, rows[0]) != pytest.approx(fresh, abs=1e-2)


@pytest.mark.parametrize("as_path", [False, True])
def test_another_model_as_the_reference(tmp_path, tiny_dir, as_path):
    rows, policy = strictly_ranked(4), build_model("llama", seed=7)
    reference = str(tiny_dir) if as_path else build_model("llama")
    trainer = trained(policy, rows, config(tmp_path), objective=DPO(), reference_model=reference)
    for row, group in zip(rows, trainer.train_dataset, strict=True):
        expected = logps_by_hand(build_model("llama"), row)
        assert group.reference_logps == pytest.approx(expected, abs=1e-4)


def test_temperature_and_autocast_are_the_policy_s(tmp_path):
    for settings in ({"temperature": 0.5}, {"bf16": True}):
        args = config(tmp_path, per_device_train_batch_size=5, max_batch_tokens=80, **settings)
        trainer = trained(build_model(), strictly_ranked(5), args, objective=DPO(beta=1.0))
        assert logged(trainer) == pytest.approx([math.log(2)], abs=1e-4)
    plain = RankingTrainer(build_model(), config(tmp_path), strictly_ranked(5), DPO(),
                           processing_class=TOKENIZER)  # fmt: skip
    assert plain.train_dataset[0].reference_logps != pytest.approx(
        trainer.train_dataset[0].reference_logps, abs=1e-6
    )


def test_add_reference_logps_keeps_the_kind_of_rows(tmp_path):
    rows, args = strictly_ranked(3), config(tmp_path, max_length=60)
    too_long = {**copy.deepcopy(rows[0]), "prompt_id": "long"}
    too_long["responses"][0]["token_ids"] *= 40
    rows.append(too_long)
    listed = add_reference_logps(rows, build_model(), TOKENIZER, args)
    table = add_reference_logps(Dataset.from_list(rows), build_model(), TOKENIZER, args)
    again = add_reference_logps(table, build_model(), TOKENIZER, args)
    assert isinstance(listed, list) and isinstance(again, Dataset)
    assert listed[3]["reference_logps"] is None and "reference_logps" not in rows[0]
    for row, of_table in zip(listed, again, strict=True):
        assert row["reference_logps"] == of_table["reference_logps"]
    trainer = RankingTrainer(build_model("llama", seed=7), args, again, DPO(),
                             processing_class=TOKENIZER)  # fmt: skip
    assert [list(g.reference_logps) for g in trainer.train_dataset] == again["reference_logps"][:3]


def test_rows_that_come_too_late_for_a_reference_are_refused(tmp_path):
    rows = strictly_ranked(3)
    trainer = trained(build_model(), rows, config(tmp_path), objective=DPO())
    with pytest.raises(
        UserError, match="DPO needs a reference, and the eval_dataset has no column"
    ):
        trainer.evaluate(strictly_ranked(2, seed=1))
    fresh = add_reference_logps(rows, build_model(), TOKENIZER, trainer.args)
    assert trainer.evaluate(fresh)["eval_loss"] < math.log(2)
    assert DPO(reference_free=True).needs_reference is False
    assert_close(trainer.evaluate(fresh)["eval_tie_share"], 0.0)
