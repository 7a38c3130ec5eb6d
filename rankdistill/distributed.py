"""Several processes of one launch: what their launcher got, and how a mistake ends all of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping

from rankdistill.errors import UserError

PATIENCE_SECONDS = 10.0
"""How long a process leaves it to the main one to say what is wrong."""

_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def rank() -> int:
    """This process's rank under torchrun or accelerate launch; 0 when alone."""
    return int(os.environ.get("RANK") or 0)


def world_size() -> int:
    """How many processes torchrun or accelerate launch started; 1 when alone."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def workers(environment: Mapping[str, str], gpus: int, gpus_each: int) -> tuple[int, bool]:
    """How many processes of a launch make rows together, and whether this one does.

    The first of every node does, and every process that has a GPU of its own. On a CPU the
    processes of one node share its cores, so one of them makes as many rows as all would.

    Args:
        environment: The process's.
        gpus: Of this machine.
        gpus_each: That one sampler takes.
    """
    world = int(environment.get("WORLD_SIZE") or 1)
    local = int(environment.get("LOCAL_WORLD_SIZE") or world)
    each = gpus_each == 1 and gpus >= local
    first = int(environment.get("LOCAL_RANK") or 0) == 0
    return (world if each else world // local), each or first


def remarks(environment: Mapping[str, str], accelerator: bool) -> list[str]:
    """A line for everything that the launcher was asked for and did not get.

    Args:
        environment: The process's.
        accelerator: Whether the machine has one: a GPU or the like.

    Raises:
        UserError: MPI started several processes that know nothing of each other.
    """
    processes = int(environment.get("WORLD_SIZE") or 1)
    others = max(int(environment.get(name) or 1) for name in _MPI)
    if others > 1 and "RANK" not in environment:
        raise UserError(
            f"MPI started {others} processes, and RANK and WORLD_SIZE are not set: start them with "
            f"`torchrun --nproc_per_node {others} -m rankdistill ...`."
        )
    lines = []
    accelerate = "ACCELERATE_MIXED_PRECISION" in environment
    # accelerate names a port where more than one process is asked for, and starts one on a CPU.
    if accelerate and "WORLD_SIZE" not in environment and "MASTER_PORT" in environment:
        lines.append(
            "accelerate launch was asked for several processes and started one, as it does on a "
            "CPU: `torchrun --nproc_per_node N -m rankdistill ...` starts N."
        )
    if environment.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        if not accelerator:
            lines.append(
                "FSDP was asked for, but accelerate shards models on accelerators only: every "
                "process trains the whole model (DDP)."
            )
        elif processes == 1 and environment.get("FSDP_OFFLOAD_PARAMS", "").lower() != "true":
            lines.append("FSDP was asked for, but there is one process: nothing is sharded.")
    return lines


def sharding(environment: Mapping[str, str]) -> str | None:
    """`FSDP` or `DeepSpeed`, where the launcher spreads a model over processes, or to the CPU.

    accelerate leaves FSDP out on a machine without an accelerator.
    """

    def asked(name: str) -> bool:
        return environment.get(f"ACCELERATE_USE_{name}", "").lower() == "true"

    if asked("DEEPSPEED"):
        return "DeepSpeed"
    if not asked("FSDP"):
        return None
    import torch  # not before it is needed: the command line imports this module

    return "FSDP" if torch.accelerator.is_available() else None


def refuse_sharding(what: str, environment: Mapping[str, str]) -> None:
    """Refuses a launch that spreads a model which every process needs whole.

    Args:
        what: Needs it, as the beginning of a sentence.

    Raises:
        UserError: FSDP or DeepSpeed was asked for.
    """
    found = sharding(environment)
    if found is not None:
        raise UserError(
            f"{what} needs the whole model in every process, and this launch shards it ({found}): "
            "start it with `torchrun --nproc_per_node N -m rankdistill ...`, or with one process."
        )


def say_mistake(message: str) -> None:
    """Prints one sentence for all processes of a launch; the launcher ends those that are left.

    Rank 0 reports errors. Other ranks wait PATIENCE_SECONDS to be killed by the launcher, and
    report only if they are not.
    """
    if rank() == 0:
        print(f"error: {message}", file=sys.stderr, flush=True)
        return
    time.sleep(PATIENCE_SECONDS)
    print(f"error: (rank {rank()}) {message}", file=sys.stderr, flush=True)
