"""What a warm-up is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rankdistill.models import LoRA, Model
from rankdistill.records import Group
from rankdistill.warmup.lessons import Lessons


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a warm-up trains, beside its own options."""

    seed: int
    """Of the data order, and of what is drawn anew, such as adapters."""
    checkpoints: Path
    """Folder of checkpoints; a killed warm-up continues from the last one."""
    validation: Sequence[Group] = ()
    """Prompts with responses that it is measured on while it trains."""
    report_to: Sequence[str] = ()
    """Trackers, as in transformers."""
    lora: LoRA | None = None
    """Adapters to train instead of all weights; the model that is written has them merged."""
    use_liger_kernel: bool = False
    """Whether Liger's kernels compute the student's layers."""
    layout: str = "shared"
    """Of the grouped forward."""
    cache: Path | None = None
    """Folder of what is kept of the teacher; made or completed where it isn't. None: beside the
    checkpoints."""


class Warmup(Protocol):
    """Prepares the student before it writes the responses that are ranked.

    Implementations are frozen dataclasses, named by `_target_` in `conf/warmup/`.
    """

    @property
    def lessons(self) -> Lessons | None:
        """Which responses are learned; None: the student stays as it is."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What the weights depend on besides the models, the rows and the seed; hashed."""
        ...

    def __call__(
        self, student: Model, teacher: Model, groups: Sequence[Group], out: Path, how: Training
    ) -> dict[str, Any]:
        """Write the warmed-up model and its tokenizer to the new folder `out`.

        Args:
            student: The model to start from. Where its `loading.precision` is bfloat16 or float16,
                its weights are trained in float32 (mixed precision), see `Model.trainable`.
            teacher: The model to learn from.
            groups: Prompts of the train split, each with responses to learn from.
            out: Folder to create.

        Returns:
            Figures for the run's record; `history` is the Trainer's log history, a list of rows.
        """
        ...
