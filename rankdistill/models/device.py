"""Where models run."""

from __future__ import annotations

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
