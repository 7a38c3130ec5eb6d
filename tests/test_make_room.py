"""One accelerator at a time holds the models that are read, or the engine that samples."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ppo_task import config

from rankdistill.score.likelihood import Likelihood
from rankdistill.score.reward_model import RewardModel
from rankdistill.stages import run as run_module
from rankdistill.stages.comparison import Reference
from rankdistill.stages.ppo import _train
from rankdistill.stages.run import Run
from rankdistill.train.ppo import rollout
from rankdistill.train.ppo.rollout import Rollouts


class Engine:
    """A sampler that knows whether it is closed."""

    closed = False

    def close(self) -> None:
        self.closed = True


class Told:
    """Loads nothing: it counts how often it is asked to."""

    loads = 0
    path = "a"

    def load_on_device(self) -> str:
        self.loads += 1
        return "weights"

    def tokenizer(self) -> None: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    run: Any = object.__new__(Run)
    run._sampler, run._opened, run._letting_go, run.sampler_name = None, None, [], "vllm"
    run.settings = SimpleNamespace(
        sample=None, sampler=None, train=SimpleNamespace(layout=SimpleNamespace(name="shared"))
    )
    monkeypatch.setattr(run_module, "sampler_options", lambda settings, name: {})
    monkeypatch.setattr(run_module, "open_sampler", lambda name: Engine())
    return run


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_models_of_the_evaluation_and_an_engine_take_turns(
    kind: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "device", lambda: torch.device(kind))
    answers: Any = SimpleNamespace(model=Told(), groups=[], temperature=1.0)
    suite: Any = SimpleNamespace(max_batch_tokens=1, read_prompts=None)
    reference = Reference(answers, answers, suite)
    first = run.sampler()
    held = reference.held_out(run)
    assert reference.held_out(run) is held and answers.model.loads == 2
    assert first.closed == (kind == "cuda")
    run.sampler()
    again = reference.held_out(run)
    assert (again is not held) == (kind == "cuda")
    run.close_sampler()  # before other models are loaded
    assert (reference.held_out(run) is not again) == (kind == "cuda")


def test_ppo_has_the_engines_room_before_it_loads_a_model() -> None:
    class Room(Exception): ...

    def hold_models() -> None:
        raise Room

    unloaded: Any = object()
    with pytest.raises(Room):
        _train(SimpleNamespace(hold_models=hold_models), *[unloaded] * 6)  # type: ignore[arg-type]


def test_a_scorer_that_loads_a_model_asks_for_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    scorers = [
        RewardModel(model="x", precision="float32", max_tokens=8, max_batch_tokens=8,
                    attn_implementation="sdpa", trust_remote_code=False),
        object.__new__(Likelihood),
    ]  # fmt: skip
    object.__setattr__(scorers[1], "through", "transformers")
    for kind in ("cpu", "cuda"):
        for module in ("reward_model", "likelihood"):
            found = torch.device(kind)
            monkeypatch.setattr(f"rankdistill.score.{module}.device", lambda found=found: found)
        assert [scorer.on_this_machine for scorer in scorers] == [kind == "cuda"] * 2


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_ppo_ends_its_engine_before_the_update(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    sampler = SimpleNamespace(
        name="vllm",
        sample=lambda *arguments: [("p0", [{"token_ids": [5, 2]}])],
        close=lambda: closed.append("engine"),
    )
    rollouts: Any = object.__new__(Rollouts)
    rollouts._accelerator = SimpleNamespace(
        device=torch.device(kind),
        is_main_process=True,
        wait_for_everyone=lambda: None,
        unwrap_model=lambda model: SimpleNamespace(policy=None),
        autocast=nullcontext,
    )
    rollouts._prompts, rollouts._ids = [{"prompt_id": "p0"}], [[7]]
    rollouts._config, rollouts._sampler = config(tmp_path), sampler
    rollouts._model = rollouts._loading = None
    rollouts._exported = lambda iteration: tmp_path
    monkeypatch.setattr(rollout, "disagreement", lambda *arguments: None)
    monkeypatch.setattr(rollout, "Model", lambda *arguments: None)
    monkeypatch.setattr(rollout, "broadcast_object_list", lambda told: told)
    assert rollouts._sampled(0, [0]) == [[{"token_ids": [5, 2]}]]
    assert closed == (["engine"] if kind == "cuda" else [])
