"""Nothing is computed between the accelerator and the CPU, which only a GPU would refuse.

On a CPU every tensor is told where it would be: a model's weights, and what was moved or made with
a device, are on the accelerator; what was made without one is on the CPU. An operation on both is a
mistake. What a result is of follows from what it was computed from.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forward_oracle import ragged_groups
from ppo_task import policy, prompts, trainer
from ranking_trainer_data import TOKENIZER, strictly_ranked
from ranking_trainer_data import config as ranking_config
from tiny_models import build_model
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForSequenceClassification

from rankdistill import RankingTrainer, objectives
from rankdistill.evaluate.tokens import (
    KnownRows,
    entropy_and_divergence,
    matching_temperature,
    policy_values,
)
from rankdistill.forward import LAYOUTS, TokenGroup, attention, bind, collate, flex, response_logps
from rankdistill.objectives.divergences import DIVERGENCES
from rankdistill.sample import SamplingOptions
from rankdistill.sample.transformers import decode
from rankdistill.train.groups import RankedGroup
from rankdistill.train.ppo.experience import Experience
from rankdistill.train.ranking import candidates
from rankdistill.train.reward.model import logits, rewards
from rankdistill.train.reward.trainer import LOSSES, ranking_loss
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Divergence, LiveTeacher
from rankdistill.warmup.trainer import distil

MADE = {
    torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.full, torch.linspace, torch.ones,
    torch.rand, torch.randint, torch.randn, torch.randperm, torch.tensor, torch.zeros,
}  # fmt: skip
OBJECTIVES = [
    "RRHF", "PRO", "DPO", "RobustDPO", "HingeDPO", "IPO", "PlackettLuceDPO", "LiPO", "ListNet",
    "SLiC", "SimPO", "ORPO", "CPO", "KTO", "SFT",
]  # fmt: skip


WAITS = {"tolist", "item", "cpu", "numpy", "nonzero", "unique", "masked_select",
         "__int__", "__float__", "__bool__", "__index__"}  # fmt: skip


class Watch(TorchFunctionMode):
    """Follows tensors through functions, and keeps the names of those that mixed, or waited."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []
        self.waited: list[str] = []
        """The CPU wants to know what the accelerator has not computed yet."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tree_leaves((args, kwargs))
        tensors = [x for x in given if isinstance(x, torch.Tensor)]
        places = {place for x in tensors if x.dim() > 0 and (place := where(x))}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if name in WAITS or (name == "__getitem__" and _by_mask(args[1])):
            self.waited += [name] * ("accelerator" in map(where, tensors))
        if func in MADE:
            place = "accelerator" if kwargs.get("device") is not None else "cpu"
        elif func is torch.Tensor.to and any(isinstance(x, torch.device | str) for x in given):
            place = "accelerator"
        elif func is torch.Tensor.to and len(tensors) > 1:
            place = where(tensors[1])
        elif func is torch.Tensor.cpu:
            place = "cpu"
        else:
            known = places or {place for x in tensors if (place := where(x))}
            place = next(iter(known)) if len(known) == 1 else None
            if len(places) > 1 and name not in ("__get__", "__set__", "copy_"):
                self.mixed.append(name)
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and place is not None:
                x._where = place  # type: ignore[attr-defined]
        return result


def _by_mask(index: Any) -> bool:
    """Whether how many rows there are is seen from the values of an index."""
    return any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in tree_leaves(index))


def where(tensor: torch.Tensor) -> str | None:
    return tensor.__dict__.get("_where")


def on_accelerator(model: Any) -> Any:
    for tensor in (*model.parameters(), *model.buffers()):
        tensor._where = "accelerator"
    return model


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Fails where something mixed."""
    monkeypatch.setattr(attention, "available", lambda: False)  # the way of other devices
    watching = Watch()
    yield watching
    assert not watching.mixed


def test_it_sees_what_waits() -> None:
    with Watch() as watching:
        numbers = torch.zeros(2).to("cpu")
        assert int(numbers.sum() + 0) == 0 and len(numbers[numbers > 0]) == 0
        assert torch.zeros(2).sum().item() == 0
    assert watching.waited == ["__int__", "__getitem__"]


def batch_of(groups: Any, layout: str = "shared") -> Any:
    return collate(groups, layout).to("cpu")


def test_it_sees_a_mistake() -> None:
    with Watch() as watching:
        torch.zeros(2).to("cpu").add(torch.zeros(2))
    assert watching.mixed == ["add"]


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "mistral"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_forward(architecture: str, layout: str, watch: Watch) -> None:
    model = bind(on_accelerator(build_model(architecture, layers=2)), layout)
    with watch:
        logps = response_logps(model, batch_of(ragged_groups(), layout), temperature=0.7).logps
        logps.sum().backward()


@pytest.mark.parametrize("architecture", ["gemma2", "mistral"])
def test_the_forward_by_the_mask_of_flex_attention(
    architecture: str, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA; the kernel itself has a backward pass there only."""

    def attend(
        q: Any, k: Any, v: Any, plan: Any, *, scaling: Any, window: Any, softcap: Any
    ) -> Any:
        flex.block_mask(plan, window, q.device)
        return flex.dense_attention(q, k, v, plan, window, softcap)

    monkeypatch.setattr(attention, "flex_fits", lambda *tensors: True)
    monkeypatch.setattr(flex, "tree_attention", attend)
    model = bind(on_accelerator(build_model(architecture, layers=2)))
    with watch:
        response_logps(model, batch_of(ragged_groups())).logps.sum().backward()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective(name: str, watch: Watch) -> None:
    model = bind(on_accelerator(build_model(layers=1)))
    groups = [group for group in ragged_groups() if len(group.responses) > 1]
    ranked = [
        RankedGroup(str(i), group, tuple(float(-k) for k in range(n)), tuple(range(n)),
                    tuple(-20.0 - k for k in range(n)))
        for i, group in enumerate(groups)
        for n in [len(group.responses)]
    ]  # fmt: skip
    with watch:
        logps = response_logps(model, batch_of(groups))
        getattr(objectives, name)()(candidates(ranked, logps)).loss.sum().backward()


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_a_divergence(name: str, watch: Watch) -> None:
    student, teacher = (bind(on_accelerator(build_model(layers=1, seed=s))) for s in (0, 1))
    rows = [
        TokenRow(str(i), TokenGroup(group.prompt, group.responses[:1]), i)
        for i, group in enumerate(ragged_groups())
    ]
    live = LiveTeacher(teacher.requires_grad_(False), Divergence(name, 2.0))
    with watch:
        distil(student, live, rows, (1.0, 0.5)).loss.backward()


@pytest.mark.parametrize("advantage", ["gae", "group"])
def test_an_iteration_of_ppo(advantage: str, tmp_path: Path, watch: Watch) -> None:
    """Rollout with its sampler, experience, losses, update."""
    task = trainer(
        tmp_path, policy=on_accelerator(policy()), prompts=prompts(2), epochs=1, ppo_epochs=1,
        advantage=advantage, prompts_per_rollout=2, prompts_per_step=1,
        sampling={"responses_per_prompt": 2, "max_response_tokens": 4},
    )  # fmt: skip
    on_accelerator(task.model)
    with watch:
        task.train()


def test_a_reward_model_and_its_losses(watch: Watch) -> None:
    model: Any = build_model(layers=1)
    model.config.num_labels = 1
    model = AutoModelForSequenceClassification.from_config(model.config)
    model = bind(on_accelerator(model))
    groups = [group for group in ragged_groups() if len(group.responses) > 1]
    with watch:
        values, mask = logits(model, groups)
        scores = torch.arange(values.numel(), device=values.device).view_as(values)
        for loss in LOSSES:
            ranking_loss(values, scores, mask, loss=loss, centering=0.1).sum().backward(
                retain_graph=True
            )
        rewards(model, groups)


def test_what_an_evaluation_measures(watch: Watch) -> None:
    first, second = (bind(on_accelerator(build_model(layers=1, seed=s))) for s in (0, 1))
    batches = [collate(ragged_groups())]
    with watch:
        entropy_and_divergence(first, second, batches, (1.0, 0.7))
        KnownRows(first, batches).divergence_to(second)
        policy_values(first, batches)
        matching_temperature(first, batches, 3.0)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_the_sampler(top_p: float, watch: Watch) -> None:
    model = on_accelerator(build_model(layers=1)).eval()
    requests = [("a", [5, 9, 30]), ("b", [7, 8])]
    with watch:
        decode(model, requests, SamplingOptions(2, 1.0, top_p, 0, 4, 0), [2])


def test_a_training_step_waits_twice_however_many_passes_it_has(tmp_path: Path) -> None:
    """To see whether the loss, and whether the gradient is finite."""
    waited = []
    for steps in (1, 3):
        ranking = RankingTrainer(
            on_accelerator(build_model(layers=1)),
            ranking_config(tmp_path, prompts_per_step=2, max_steps=steps, max_batch_tokens=1,
                           logging_steps=9),
            strictly_ranked(6),
            processing_class=TOKENIZER,
        )  # fmt: skip
        with Watch() as watching:
            ranking.train()
        waited.append(len(watching.waited))
    assert waited[1] - waited[0] == 2 * 2, watching.waited


@pytest.mark.parametrize("max_batch_tokens", [1, 4096])
def test_an_update_of_ppo_waits_twice_however_many_passes_it_has(
    max_batch_tokens: int, tmp_path: Path
) -> None:
    task = trainer(
        tmp_path, policy=on_accelerator(policy()), prompts=prompts(4), epochs=1, ppo_epochs=1,
        advantage="gae", prompts_per_rollout=4, prompts_per_step=2,
        max_batch_tokens=max_batch_tokens,
        sampling={"responses_per_prompt": 2, "max_response_tokens": 4},
    )  # fmt: skip
    on_accelerator(task.model)
    task.optimizer.param_groups[0]["fused"] = True  # as on CUDA
    experience = Experience.of(task.rollouts(0), task.config, 0.1)
    with Watch() as watching:
        task._updates(experience, 0)
    assert watching.waited == ["cpu", "__float__"] * 2
