"""Where models run."""

from __future__ import annotations

import gc
import os

import torch


def device() -> torch.device:
    """The accelerator of this process, or the CPU where there is none.

    Of several, a launch gives each process on a machine the one of its local rank, also before
    anything has been told so.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or int(rank) >= torch.accelerator.device_count():
        return torch.device(accelerator.type, torch.accelerator.current_device_index())
    return torch.device(accelerator.type, int(rank))


def claim_device() -> None:
    """Makes `device()` the current accelerator, before anything else is put on the first one."""
    found = device()
    if found.type != "cpu":
        torch.accelerator.set_device_index(found)


def own_precision() -> str:
    """What `auto` is on this machine: bfloat16 on a GPU that computes in it, else float32."""
    half = device().type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if half else "float32"


def release() -> None:
    """Give the accelerator's memory back, of all that nobody holds any more.

    An engine in another process finds free what is free. Weights that no circle holds are gone with
    their last user, so a machine without an accelerator is spared the search for circles (0.3 s).
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return
    gc.collect()  # accelerate's autocast holds a model in a circle
    torch.get_device_module(accelerator).empty_cache()
