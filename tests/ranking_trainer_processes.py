"""What each process of test_ranking_trainer_processes.py runs; it writes its results to a file."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from ranking_trainer_data import TOKENIZER, config, logged, ragged_groups, weights
from test_ranking_trainer import NotFiniteAbove
from tiny_models import build_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from rankdistill import RankingTrainer
from rankdistill.errors import UserError
from rankdistill.forward import token_count
from rankdistill.objectives import DPO, RRHF
from rankdistill.trainer.checkpoints import last_checkpoint
from rankdistill.trainer.stopping import saves_when_stopped

CASES: dict[str, dict[str, Any]] = {
    # Tail of 2 prompts, whose second accumulation step has no prompt on either of two processes.
    "accumulated": {"prompts": 10, "prompts_per_step": 4, "gradient_accumulation_steps": 2},
    # One token per pass: the processes have different numbers of forward passes.
    "uneven": {"prompts": 7, "prompts_per_step": 5, "max_batch_tokens": 1},
    # One process of two never has a prompt.
    "idle": {"prompts": 3, "prompts_per_step": 1, "max_batch_tokens": 1},
    "reference": {"prompts": 9, "per_step": 6, "objective": DPO()},
    # FSDP2 by torch itself, since accelerate shards on accelerators only; with forward passes that
    # one of the processes makes for the other's sake.
    "sharded": {"prompts": 7, "prompts_per_step": 5, "max_batch_tokens": 60, "sharded": True},
    # The last process refuses what is larger, so that all repeat the step in smaller parts.
    "refused": {"prompts": 12, "prompts_per_step": 12, "refuses": 100},
    "adapter": {"prompts": 6, "per_step": 2, "objective": DPO(), "lora": True},
}


def run(name: str, folder: Path) -> dict[str, Any]:
    """One training: its losses, metrics, weights and evaluation."""
    case = dict(CASES[name])
    rows = ragged_groups(case.pop("prompts"))
    objective, lora = case.pop("objective", RRHF()), case.pop("lora", False)
    sharded, refuses = case.pop("sharded", False), case.pop("refuses", None)
    world = int(os.environ.get("WORLD_SIZE", 1))
    if "per_step" in case:
        case["per_device_train_batch_size"] = case.pop("per_step") // world
    args = config(
        folder / name, train_sampling_strategy="random", num_train_epochs=2,
        per_device_eval_batch_size=2, **case,
    )  # fmt: skip
    model = build_model("gpt2", layers=2).double()
    if lora:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], lora_dropout=0.3))
    trainer = RankingTrainer(
        model, args, rows, objective, processing_class=TOKENIZER, eval_dataset=ragged_groups(5, 3)
    )
    if sharded and world > 1:
        shard(trainer)
    if refuses is not None and int(os.environ.get("RANK", 0)) == world - 1:
        refuse_above(trainer, refuses)
    trainer.train()
    assert refuses is None or trainer.memory_figures["max_batch_tokens"] < 4096
    evaluation = {k: v for k, v in trainer.evaluate().items() if "second" not in k}
    evaluation = {k: v for k, v in evaluation.items() if "time" not in k}
    trained = weights(trainer)
    if sharded and world > 1:
        trainer.model.reshard()  # the evaluation leaves the outermost parameters whole
        trained = weights(trainer)
        assert all(isinstance(value, DTensor) for value in trained.values())
        trained = {name: value.full_tensor() for name, value in trained.items()}
    return {
        "loss": logged(trainer), "rank_accuracy": logged(trainer, "rank_accuracy"),
        "evaluation": evaluation, "weights": trained,
    }  # fmt: skip


def shard(trainer: RankingTrainer) -> None:
    """Shards the trainer's model over the processes, instead of the DDP it would get."""
    mesh = init_device_mesh("cpu", (trainer.args.world_size,))
    for block in trainer.model.transformer.h:
        fully_shard(block, mesh=mesh)
    fully_shard(trainer.model, mesh=mesh)
    trainer.accelerator.prepare_model = lambda model, **_: model


def refuse_above(trainer: RankingTrainer, most: int) -> None:
    """Has memory run out in a forward pass of more than `most` tokens."""
    losses = trainer.losses

    def refusing(model: Any, rows: Any) -> Any:
        computed = losses(model, rows)
        if sum(token_count(row.tokens, trainer.layout) for row in rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return computed

    trainer.losses = refusing


def stop(folder: Path) -> str:
    """What a loss that is not finite on one of the processes ends with."""
    rows = ragged_groups(4)
    rows[2]["responses"][0]["score"] = 11.0
    args = config(folder / "stop", per_device_train_batch_size=1)
    trainer = RankingTrainer(
        build_model("gpt2", layers=1), args, rows, NotFiniteAbove(), processing_class=TOKENIZER
    )
    try:
        trainer.train()
    except UserError as error:
        return str(error)
    return "trained"


class _Ask(TrainerCallback):
    """Ctrl-C in the last process, in the second step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 1 and args.process_index == args.world_size - 1:
            os.kill(os.getpid(), signal.SIGINT)


def asked(folder: Path) -> tuple[int, str | None]:
    """Where a training stops that one process is asked to, and its last checkpoint."""
    args = config(folder / "asked", per_device_train_batch_size=1, save_strategy="steps")
    trainer = RankingTrainer(
        build_model("gpt2", layers=1), args, ragged_groups(8), RRHF(), processing_class=TOKENIZER
    )
    trainer.add_callback(_Ask())
    try:
        with saves_when_stopped(trainer):
            trainer.train()
    except KeyboardInterrupt:
        return trainer.state.global_step, last_checkpoint(folder / "asked")
    return -1, None


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    result: dict[str, Any] = {name: run(name, folder) for name in CASES}
    result["stop"], result["asked"] = stop(folder), asked(folder)
    torch.save(result, folder / f"process-{os.environ['RANK']}.pt")
