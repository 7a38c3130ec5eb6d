"""PPO with adapters: they alone learn, and the reference is the model without them."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pytest
import torch
from peft import PeftModel
from ppo_task import policy, trainer

from rankdistill.models import LoRA, merged, merged_copy


def start() -> Any:
    """As `policy`, with an output layer that says something: adapters leave it as it is."""
    model = policy()
    model.get_input_embeddings().weight.data.mul_(20.0)
    return model


def adapted() -> PeftModel:
    return LoRA(8).on(start())


def adapters(run: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in run.policy.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("advantage", ["gae", "group"])
def test_adapters_win_and_nothing_else_moves(tmp_path, advantage):
    model = adapted()
    before = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    run = trainer(tmp_path, epochs=10, policy=model, advantage=advantage)
    run.train()
    history = run.history
    assert history[0]["score"] < 0.3 and fmean(row["score"] for row in history[-3:]) > 0.8
    # What the sampler got is the adapters' product with the weights.
    assert max(row["sampler_gap"] for row in history) < 1e-4
    assert max(row["first_ratio_error"] for row in history) < 1e-4
    left = dict(model.named_parameters())
    assert all(torch.equal(left[name], weight) for name, weight in before.items())
    learnt = [name for name, p in left.items() if p.requires_grad]
    assert learnt and all("lora_" in name for name in learnt)


def test_the_reference_is_the_model_without_adapters(tmp_path):
    own = trainer(tmp_path / "own", epochs=3, policy=adapted())
    held = trainer(tmp_path / "held", epochs=3, policy=adapted(), reference=start())
    own.train()
    held.train()
    assert own.history[0]["kl"] == pytest.approx(0.0, abs=1e-6) and own.history[-1]["kl"] > 0.01
    for ours, theirs in zip(own.history, held.history, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_a_continued_run_equals_an_unbroken_one(tmp_path):
    unbroken = trainer(tmp_path / "unbroken", epochs=3, policy=adapted())
    unbroken.train()
    folder, kept = tmp_path / "continued", []
    first = trainer(folder, epochs=3, policy=adapted(), save_steps=1)
    first.on_iteration = lambda figures: kept.append(figures) if len(kept) < 2 else _stop()
    with pytest.raises(KeyboardInterrupt):
        first.train()
    again = trainer(folder, epochs=3, policy=adapted(), save_steps=1)
    again.train(resume=True)
    assert again.history == unbroken.history
    wanted = adapters(unbroken)
    assert all(torch.equal(weight, wanted[name]) for name, weight in adapters(again).items())


def _stop() -> None:
    raise KeyboardInterrupt


def test_a_merged_copy_leaves_the_adapters(tmp_path):
    model = adapted()
    torch.nn.init.normal_(model.base_model.model.model.layers[0].mlp.up_proj.lora_B.default.weight)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        expected = model(ids).logits
        plain = merged_copy(model)
        torch.testing.assert_close(plain(ids).logits, expected, rtol=0, atol=1e-4)
        assert not isinstance(plain, PeftModel) and isinstance(model, PeftModel)
        assert torch.equal(model(ids).logits, expected)
    whole = merged(model)
    assert merged_copy(whole) is whole
