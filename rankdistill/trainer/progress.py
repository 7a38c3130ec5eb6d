"""The training stages' bar: steps, rate, time left, loss."""

from __future__ import annotations

from typing import Any

from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rankdistill.console import Bar


def show_progress(trainer: Trainer) -> None:
    """Give a Trainer that was made with `disable_tqdm=True` the bar instead of printed logs."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressBar())


class ProgressBar(TrainerCallback):
    """Shows the steps of a Trainer; takes the place of its own bar (`disable_tqdm=True`)."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._loss = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar = Bar(state.max_steps, "steps", done=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        loss = (kwargs.get("logs") or {}).get("loss")
        if loss is not None:
            self._loss = f"loss {float(loss):.4f}"

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.advance(1, self._loss)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()
