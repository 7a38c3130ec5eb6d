"""Two processes give the gradients of one, under DDP and under FSDP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forked
import pytest
import torch
import torch.distributed as dist
from forward_oracle import assert_same_gradients, gradients, lively_model, ragged_groups, slope
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from rankdistill.forward import bind, bound_layout, collate, response_logps

# architecture, layout, gradient checkpointing, how the model is wrapped
CASES = {
    "shared": ("llama", "shared", {}, "ddp"),
    "padded": ("llama", "padded", {}, "ddp"),
    "general head, checkpointed": ("gemma2", "shared", {"use_reentrant": False}, "ddp"),
    "sharded": ("llama", "shared", {}, "fsdp"),
    "sharded, the head by itself": ("phi", "shared", {}, "fsdp, head apart"),
}
PROCESSES = 2


def build(architecture: str, checkpointing: dict, wrapper: str) -> Any:
    model = lively_model(architecture, tied=wrapper != "fsdp, head apart")
    if checkpointing:
        model.train().gradient_checkpointing_enable(checkpointing)
    return model


def wrap(model: Any, wrapper: str) -> Any:
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    if wrapper == "fsdp, head apart":
        fully_shard(model.lm_head, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def share(process: int, folder: Path) -> None:
    """What one of the processes does: every other group."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=process, world_size=PROCESSES
    )
    torch.set_num_threads(1)
    groups = ragged_groups()
    found = {}
    for name, (architecture, layout, checkpointing, wrapper) in CASES.items():
        model = wrap(bind(build(architecture, checkpointing, wrapper), layout), wrapper)
        assert bound_layout(model) == layout
        batch = collate(groups[process::PROCESSES], layout)
        logps = response_logps(model, batch).token_logps
        # Gradients are averaged over processes, the loss of the whole is a sum.
        of_process = gradients(getattr(model, "module", model), logps, 2 * weights(process))
        found[name] = {n: getattr(g, "full_tensor", g.clone)() for n, g in of_process.items()}
    torch.save(found, folder / f"{process}.pt")
    dist.destroy_process_group()


def weights(process: int) -> torch.Tensor:
    """The part of the whole batch's `slope` that belongs to the process's response tokens."""
    tokens = [sum(len(r) for r in group.responses) for group in ragged_groups()]
    return torch.cat(slope(sum(tokens)).split(tokens)[process::PROCESSES])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ddp")
    forked.shares(share, folder, processes=PROCESSES)
    return [torch.load(folder / f"{process}.pt") for process in range(PROCESSES)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradients_of_one(name: str, found: list[dict]) -> None:
    architecture, layout, checkpointing, wrapper = CASES[name]
    model = bind(build(architecture, checkpointing, wrapper), layout)
    wanted = gradients(model, response_logps(model, collate(ragged_groups(), layout)).token_logps)
    for of_process in found:
        assert_same_gradients(of_process[name], wanted)
