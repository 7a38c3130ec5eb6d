"""Liger's kernels beside the grouped forward. A stand-in for the package, which needs a GPU."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
from peft import PeftModel
from ranking_trainer_data import config, ragged_groups, strictly_ranked, trained
from torch import nn
from warmup_runs import warm_up

from rankdistill import RankingConfig
from rankdistill.errors import UserError
from rankdistill.models import LoRA, load_trainable
from rankdistill.objectives import DPO
from rankdistill.warmup.logits import LogitsWarmup
from rankdistill.warmup.sft import SFTWarmup


@pytest.fixture
def asked(monkeypatch) -> list[tuple[nn.Module, dict[str, bool]]]:
    """What Liger was asked to patch, and with what."""
    calls: list[tuple[nn.Module, dict[str, bool]]] = []

    def apply(model: nn.Module, **kernels: bool) -> None:
        calls.append((model, kernels))

    package, transformers = ModuleType("liger_kernel"), ModuleType("liger_kernel.transformers")
    transformers._apply_liger_kernel_to_instance = apply  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "liger_kernel", package)
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", transformers)
    monkeypatch.setattr("transformers.integrations.liger.is_liger_kernel_available", lambda: True)
    return calls


@pytest.mark.parametrize("lora", [None, LoRA(2)])
def test_a_ranking_takes_its_layers_and_keeps_its_own_head(asked, lora, tmp_path, tiny_dir):
    args = config(tmp_path, use_liger_kernel=True)
    model = load_trainable(str(tiny_dir), lora=lora)
    trainer = trained(model, strictly_ranked(3), args, objective=DPO())
    plain = trainer.model.get_base_model() if isinstance(trainer.model, PeftModel) else model
    assert asked == [(plain, {"fused_linear_cross_entropy": False})]


@pytest.mark.filterwarnings("ignore:`use_liger_kernel=True` is deprecated")  # by TRL, until 2.0
@pytest.mark.parametrize("warmup", [SFTWarmup(epochs=1.0), LogitsWarmup(epochs=1.0)])
def test_a_warm_up_takes_them_too(asked, warmup, tmp_path, tiny_dir):
    groups = [{**row, "responses": row["responses"][:1]} for row in ragged_groups(3)]
    for use, calls in ((False, 0), (True, 1)):
        warm_up(
            warmup, tiny_dir, tiny_dir, groups, tmp_path / f"{use}",
            checkpoints=tmp_path / f"checkpoints-{use}", use_liger_kernel=use,
        )  # fmt: skip
        assert len(asked) == calls
    assert asked[0][1] == {"fused_linear_cross_entropy": False}


def test_its_loss_is_refused(tmp_path):
    with pytest.raises(UserError, match="would replace the forward that groups go through"):
        RankingConfig(
            str(tmp_path),
            use_liger_kernel=True,
            liger_kernel_config={"fused_linear_cross_entropy": True},
        )
    some = RankingConfig(str(tmp_path), use_liger_kernel=True, liger_kernel_config={"rope": False})
    assert some.liger_kernel_config == {"rope": False, "fused_linear_cross_entropy": False}
