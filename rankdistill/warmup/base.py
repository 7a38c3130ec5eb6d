"""What a warm-up is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rankdistill.records import Group


class Warmup(Protocol):
    """Prepares the student before it writes the responses that are ranked.

    Implementations are frozen dataclasses, named by `_target_` in `conf/warmup/`.
    """

    @property
    def needs_teacher_responses(self) -> bool:
        """Whether the teacher first writes a response to every prompt of the train split."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """What the weights depend on besides the models, the rows and the seed; hashed."""
        ...

    def __call__(
        self,
        student: Path,
        teacher: str,
        groups: Sequence[Group],
        out: Path,
        *,
        seed: int,
        report_to: Sequence[str],
        precision: str,
        checkpoints: Path,
        teacher_precision: str = "float32",
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
        layout: str = "shared",
    ) -> dict[str, Any]:
        """Write the warmed-up model and its tokenizer to the new folder `out`.

        Args:
            student: Folder of the model to start from.
            teacher: What `from_pretrained` takes.
            groups: Prompts of the train split, each with responses of the teacher.
            out: Folder to create.
            seed: Of the data order.
            report_to: Trackers, as in transformers.
            precision: Of the student's forward and backward; bfloat16 and float16 keep float32
                master weights (mixed precision).
            checkpoints: Folder of checkpoints; a killed warm-up continues from the last one.
            teacher_precision: Of the teacher's weights.
            attn_implementation: Of both models.
            trust_remote_code: Whether code that comes with a model may run.
            layout: Layout of the grouped forward.

        Returns:
            Figures for the run's record; `history` is the Trainer's log history, a list of rows.
        """
        ...
