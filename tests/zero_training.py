"""What one process finds under DeepSpeed on a CPU: python -m zero_training FOLDER STAGE.

Gradients of log-probabilities and of a distillation in bfloat16, and what is saved after a step.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.utils import DistributedType
from forward_oracle import ragged_groups
from fsdp2_heads import loss_of
from tiny_models import build_model, build_tokenizer

from rankdistill.forward import bind
from rankdistill.models import load_model, load_trainable
from rankdistill.trainer.output import masters, save_trained

deepspeed: Any = import_module("deepspeed")


def engine_of(model: Any, stage: int) -> Any:
    """The model as DeepSpeed trains it, with weights of any size cut in stage 3."""
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "bf16": {"enabled": True},
        "zero_optimization": {
            "stage": stage,
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    return deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )[0]


def found(folder: Path, stage: int, head: str, tied: bool) -> dict[str, Any]:
    """Losses, the largest relative error of a gradient, whether what was saved was trained."""
    build_model(tied=tied).save_pretrained(folder / "student")
    plain, model = (bind(load_trainable(str(folder / "student"))) for _ in range(2))
    expected = loss_of(head, plain, ragged_groups())
    expected.backward()
    engine = engine_of(model, stage)
    loss = loss_of(head, engine, ragged_groups())
    engine.backward(loss)
    gradient = import_module("deepspeed.utils").safe_get_full_grad
    pairs = zip(engine.module.parameters(), plain.parameters(), strict=True)
    errors = [float((gradient(p).float() - q.grad).norm() / q.grad.norm()) for p, q in pairs]
    engine.step()
    save(engine, stage, folder)
    saved = dict(load_model(str(folder / "saved")).named_parameters())
    exact = masters(engine.module, kept=True)
    return {
        "loss": [expected.item(), loss.item()],
        "dtype": str(loss.dtype),
        "gradient": max(errors),
        "saved": all(torch.equal(weight, exact[name]) for name, weight in saved.items()),
        "rounded": all(torch.equal(w, w.bfloat16().float()) for w in saved.values()),
    }


def save(engine: Any, stage: int, folder: Path) -> None:
    """As accelerate has it gathered."""

    def gathered(wrapped: Any) -> Any:
        if stage == 3:
            return wrapped._zero3_consolidated_16bit_state_dict()
        return wrapped.module.state_dict()

    accelerator = SimpleNamespace(
        distributed_type=DistributedType.DEEPSPEED,
        unwrap_model=lambda model: model,
        get_state_dict=gathered,
        wait_for_everyone=lambda: None,
    )
    trainer: Any = SimpleNamespace(
        accelerator=accelerator, model=engine.module, model_wrapped=engine,
        is_world_process_zero=lambda: True,
    )  # fmt: skip
    student = str(folder / "student")
    save_trained(trainer, build_tokenizer(), folder / "saved", lambda: load_trainable(student))


def main() -> None:
    torch.set_num_threads(1)
    of_cpus: Any = import_module("deepspeed.comm.torch")
    of_cpus.build_shm_op = lambda: None  # would be compiled
    of_cpus.has_coalescing_manager = lambda: False
    deepspeed.init_distributed("gloo")
    folder, stage = Path(sys.argv[1]), int(sys.argv[2])
    figures = {}
    for head in ("logps", "distil"):
        for tied in (False, True):
            own = folder / f"{head}-{tied}"
            own.mkdir()
            figures[own.name] = found(own, stage, head, tied)
    (folder / "found.json").write_text(json.dumps(figures))
    os._exit(0)  # its threads would be waited for


if __name__ == "__main__":
    main()
