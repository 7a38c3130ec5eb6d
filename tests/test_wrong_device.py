"""Nothing is computed between the accelerator and the CPU, which only a GPU would refuse.

On a CPU every tensor is told where it would be: a model's weights, and what was moved or made with
a device, are on the accelerator; what was made without one is on the CPU. An operation on both is a
mistake. What a result is of follows from what it was computed from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import build_model
from forward_oracle import ragged_groups
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rankdistill import objectives
from rankdistill.forward import LAYOUTS, TokenGroup, attention, bind, collate, response_logps
from rankdistill.objectives.divergences import DIVERGENCES
from rankdistill.train.groups import RankedGroup
from rankdistill.train.ppo.actor_critic import ActorCritic, value_head
from rankdistill.train.ranking import candidates
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


class Watch(TorchFunctionMode):
    """Follows tensors through functions, and keeps the names of those that mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = tree_leaves((args, kwargs))
        tensors = [x for x in given if isinstance(x, torch.Tensor)]
        places = {place for x in tensors if x.dim() > 0 and (place := where(x))}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        if func in MADE:
            place = "accelerator" if kwargs.get("device") is not None else "cpu"
        elif func is torch.Tensor.to and any(isinstance(x, torch.device | str) for x in given):
            place = "accelerator"
        elif func is torch.Tensor.to and len(tensors) > 1:
            place = where(tensors[1])
        elif func is torch.Tensor.cpu:
            place = "cpu"
        else:
            place = next(iter(places)) if len(places) == 1 else None
            if len(places) > 1 and name not in ("__get__", "__set__", "copy_"):
                self.mixed.append(name)
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and place is not None:
                x._where = place  # type: ignore[attr-defined]
        return result


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


def test_policy_and_critic(watch: Watch) -> None:
    policy = build_model(layers=1)
    model = on_accelerator(ActorCritic(policy, value_head(policy), "shared", 1.0))
    with watch:
        logps, values = model(batch_of(ragged_groups()))
        (logps.sum() + values.sum()).backward()
