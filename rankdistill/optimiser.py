"""The keys that every training shares: `conf/optimiser.yaml` and its ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rankdistill.errors import UserError
from rankdistill.fields import above_zero, at_least, irrelevant, require_choice, within

SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup")
CHECKPOINTING = (False, True, "selective")


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """How weights are optimised, by AdamW.

    Args:
        learning_rate: Peak learning rate.
        epochs: Passes over what is learned.
        max_batch_tokens: Tokens that go through a model at once; changes no gradient.
        lr_scheduler_type: linear, cosine, constant or constant_with_warmup.
        warmup_ratio: Share of the steps over which the learning rate rises to its peak, in [0, 1).
        weight_decay: Of AdamW, in [0, 1].
        max_grad_norm: Norm that gradients are clipped to.
        gradient_checkpointing: Recompute activations in the backward pass: false, true, or
            `selective` (see `rankdistill.trainer.modes`).
        logging_steps: Steps between logged figures.
        save_steps: Steps between checkpoints.

    Raises:
        UserError: A value is out of its range.
    """

    learning_rate: float | None = 3e-4
    epochs: float = 4.0
    max_batch_tokens: int = irrelevant(4096)
    lr_scheduler_type: str = "cosine"
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool | str = irrelevant(False)
    logging_steps: int = irrelevant(1)
    save_steps: int = irrelevant(50)

    group: ClassVar[str]
    """Where the keys are in the configuration."""

    def __post_init__(self) -> None:
        at_least(self.group, self, 1, "max_batch_tokens", "logging_steps", "save_steps")
        above_zero(self.group, self, "max_grad_norm")
        within(self.group, self, "(0, 10]", "learning_rate")
        within(self.group, self, "(0, 10000]", "epochs")
        within(self.group, self, "[0, 1]", "weight_decay")
        within(self.group, self, "[0, 1)", "warmup_ratio")
        if self.gradient_checkpointing not in CHECKPOINTING:
            raise UserError(
                f"{self.group}.gradient_checkpointing is {self.gradient_checkpointing!r}; it must "
                "be true, false or selective."
            )
        require_choice(f"{self.group}.lr_scheduler_type", self.lr_scheduler_type, SCHEDULES)
