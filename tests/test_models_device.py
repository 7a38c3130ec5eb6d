"""What is on the accelerator, and that nothing stays there without a user."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import build_model
from ranking_trainer_data import TOKENIZER, config, ragged_groups

from rankdistill import RankingTrainer
from rankdistill.forward import bind
from rankdistill.models import load_model, release
from rankdistill.vllm_worker import free_share


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_bound_model_is_gone_with_its_last_user() -> None:
    model = bind(bind(build_model(layers=1)), "packed")
    seen = weakref.ref(model)
    del model
    assert seen() is None


@pytest.mark.usefixtures("no_collector")
def test_a_trained_model_is_gone_with_its_last_user(tmp_path: Any) -> None:
    def train() -> list[weakref.ref]:
        model = build_model(layers=1)
        settings = config(tmp_path, per_device_train_batch_size=2)
        trainer = RankingTrainer(model, settings, ragged_groups(2), processing_class=TOKENIZER)
        trainer.train()
        return [weakref.ref(x) for x in (model, trainer, trainer.optimizer)]

    assert [seen() for seen in train()] == [None] * 3


def test_a_bound_model_is_saved_as_what_it_is(tmp_path: Any) -> None:
    bind(build_model(layers=1)).save_pretrained(tmp_path)
    assert type(load_model(str(tmp_path))).__name__ == "LlamaForCausalLM"


def test_what_is_free_on_an_accelerator_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for one: the circle is found, and its allocator asked."""
    emptied: list[str] = []
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    module = SimpleNamespace(empty_cache=lambda: emptied.append("cuda"))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    circle: Any = torch.nn.Linear(1, 1)
    circle.hook = circle.forward
    seen = weakref.ref(circle)
    del circle
    release()
    assert seen() is None and emptied == ["cuda"]


@pytest.mark.parametrize(
    ("free", "share"), [((80, 80), 0.85), ((80, 40), 0.48), ((60, 80), 0.73), ((0, 80), 0.0)]
)
def test_an_engine_asks_for_what_is_free(free: Any, share: float, monkeypatch: Any) -> None:
    """On the fuller one of two GPUs of 80; 0.85 is the most."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free[gpu], 80))
    assert free_share(0.85) == pytest.approx(share)
