"""What a warm-up is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rankdistill.models import LoRA
from rankdistill.records import Group
from rankdistill.warmup.lessons import Lessons


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
        validation: Sequence[Group] = (),
        lora: LoRA | None = None,
        use_liger_kernel: bool = False,
        teacher_precision: str = "float32",
        teacher_quantization: str | None = None,
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
        layout: str = "shared",
    ) -> dict[str, Any]:
        """Write the warmed-up model and its tokenizer to the new folder `out`.

        Args:
            student: Folder of the model to start from.
            teacher: What `from_pretrained` takes.
            groups: Prompts of the train split, each with responses to learn from.
            out: Folder to create.
            seed: Of the data order.
            report_to: Trackers, as in transformers.
            precision: Of the student's forward and backward; bfloat16 and float16 keep float32
                master weights (mixed precision), see `rankdistill.models.load_trainable`.
            checkpoints: Folder of checkpoints; a killed warm-up continues from the last one.
            validation: Prompts with responses that it is measured on while it trains.
            lora: Adapters to train instead of all weights; `out` has them merged.
            use_liger_kernel: Whether Liger's kernels compute the student's layers.
            teacher_precision: Of the teacher's weights.
            teacher_quantization: Of the teacher's weights, see `load_model`.
            attn_implementation: Of both models.
            trust_remote_code: Whether code that comes with a model may run.
            layout: Layout of the grouped forward.

        Returns:
            Figures for the run's record; `history` is the Trainer's log history, a list of rows.
        """
        ...
