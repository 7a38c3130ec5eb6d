"""Where models run."""

from __future__ import annotations

import ctypes
import gc
import os
from functools import cache

import torch

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1
"""`M_MMAP_MAX` and `M_TRIM_THRESHOLD` of glibc's mallopt(3)."""


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
    """Makes `device()` the current accelerator, before anything else is put on the first one.

    Where there is none, what tensors give back stays with this process until `release`. glibc
    returns it at once, and the pages that the system then clears again for the next tensors take a
    seventh of a training's CPU time.
    """
    found = device()
    if found.type != "cpu":
        torch.accelerator.set_device_index(found)
    elif libc := _libc():
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, -1)  # never by itself


def own_precision() -> str:
    """What `auto` is on this machine: bfloat16 on a GPU that computes in it, else float32."""
    half = device().type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if half else "float32"


def release() -> None:
    """Give the device's memory back, of all that nobody holds any more.

    An engine in another process finds free what is free. Weights that no circle holds are gone with
    their last user, so a machine without an accelerator is spared the search for circles (0.3 s).
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        if libc := _libc():
            libc.malloc_trim(0)
        return
    gc.collect()  # accelerate's autocast holds a model in a circle
    torch.get_device_module(accelerator).empty_cache()


@cache
def _libc() -> ctypes.CDLL | None:
    """glibc; None where the C library is another."""
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:
        return None
