"""A trained model that two processes hold in shards leaves them whole, its adapters merged."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import forked
import pytest
import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from tiny_models import build_model, build_tokenizer
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from rankdistill.models import LoRA, load_model, load_trainable, merged
from rankdistill.trainer.output import save_trained

PROCESSES = 2
CASES = {"all weights": None, "adapters": LoRA(4)}


def after_training(path: str, lora: LoRA | None) -> Any:
    """The student with other trainable weights than it had."""
    model = load_trainable(path, lora=lora)
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def gathered(model: Any) -> dict[str, Any]:
    """As accelerate gathers it (`Accelerator.get_state_dict`), which needs a GPU for FSDP."""
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)


def share(process: int, folder: Path, student: str) -> None:
    """What one of the processes does."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=process, world_size=PROCESSES
    )
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for name, lora in CASES.items():
        model = after_training(student, lora)
        plain = model if lora is None else model.get_base_model()
        for layer in plain.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        accelerator = SimpleNamespace(
            distributed_type=DistributedType.FSDP,
            unwrap_model=lambda wrapped: wrapped,
            get_state_dict=gathered,
            wait_for_everyone=dist.barrier,
        )
        trainer: Any = SimpleNamespace(
            accelerator=accelerator, model=model, model_wrapped=model,
            is_world_process_zero=lambda: process == 0,
        )  # fmt: skip

        def load(lora: LoRA | None = lora) -> Any:
            assert process == 0
            return load_trainable(student, lora=lora)

        save_trained(trainer, build_tokenizer(), folder / name, load)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder, student = tmp_path_factory.mktemp("shards"), tmp_path_factory.mktemp("student")
    build_model().save_pretrained(student)
    forked.shares(share, folder, str(student), processes=PROCESSES)
    return folder, str(student)


@pytest.mark.parametrize("name", CASES)
def test_the_shards_of_two_processes_are_one_plain_model(name: str, outputs) -> None:
    folder, student = outputs
    expected = merged(after_training(student, CASES[name])).state_dict()
    found = load_model(str(folder / name)).state_dict()
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_deepspeed_leaves_the_numbers_that_it_trained(
    stage: int, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a model in bfloat16 and trains float32; a stand-in for the package."""
    build_model(tied=tied).save_pretrained(tmp_path / "student")
    student = str(tmp_path / "student")
    trained = after_training(student, None)
    exact = {name: weight.clone() for name, weight in trained.state_dict().items()}
    masters = {id(p): p.detach().clone() for p in trained.parameters()}
    for parameter in trained.parameters():
        parameter.data = parameter.data.bfloat16()
    rounded = trained.state_dict()
    if stage == 3:  # each process has a part, or nothing
        for parameter in trained.parameters():
            parameter.data = parameter.data.new_empty(0)
    utils = ModuleType("deepspeed.utils")
    utils.safe_get_full_fp32_param = lambda p: masters[id(p)]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepspeed.utils", utils)
    accelerator = SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED, unwrap_model=lambda wrapped: wrapped,
        get_state_dict=lambda wrapped: rounded, wait_for_everyone=lambda: None,
    )  # fmt: skip
    trainer: Any = SimpleNamespace(
        accelerator=accelerator, model=trained, model_wrapped=trained,
        is_world_process_zero=lambda: True,
    )  # fmt: skip
    save_trained(trainer, build_tokenizer(), tmp_path / "out", lambda: load_trainable(student))
    found = load_model(str(tmp_path / "out")).state_dict()
    assert all(torch.equal(found[name], weight) for name, weight in exact.items())
