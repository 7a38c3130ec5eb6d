"""Checkpoints of PPO: models, optimiser, random state, KL coefficient and what was done so far."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator

from rankdistill.store.removal import is_folder, refuse_link
from rankdistill.trainer.checkpoints import complete_checkpoints

STATE = "progress.json"
"""Written last, so a checkpoint that has it is complete."""

KEPT = 2
"""Checkpoints that are kept."""


@dataclass
class Progress:
    """How far a training is."""

    iteration: int = 0
    """Iterations that are finished: they determine the next rollout, and its updates' order."""
    steps: int = 0
    """Optimiser steps that were taken."""
    kl_coefficient: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    """The figures of every iteration."""


def save(accelerator: Accelerator, progress: Progress, folder: Path) -> None:
    """A checkpoint after an iteration; every process calls it. Older ones are removed.

    Raises:
        UserError: a link has the checkpoint's name.
    """
    checkpoint = folder / f"checkpoint-{progress.iteration}"
    refuse_link(checkpoint)
    if accelerator.is_main_process:
        shutil.rmtree(checkpoint, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(checkpoint))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        partial = checkpoint / f"{STATE}.partial"
        partial.write_text(json.dumps(asdict(progress)), encoding="utf-8")
        partial.replace(checkpoint / STATE)
        for old in complete_checkpoints(folder, STATE)[:-KEPT]:
            if is_folder(old):  # a link is read from, but not followed to remove
                shutil.rmtree(old)
    accelerator.wait_for_everyone()


def last_complete(folder: Path) -> Path | None:
    """The latest checkpoint that was written to its end; None where there is none."""
    found = complete_checkpoints(folder, STATE)
    return found[-1] if found else None


def restore(accelerator: Accelerator, checkpoint: Path) -> Progress:
    """Loads a checkpoint into what the accelerator prepared; every process calls it."""
    accelerator.load_state(str(checkpoint))
    return Progress(**json.loads((checkpoint / STATE).read_text(encoding="utf-8")))
