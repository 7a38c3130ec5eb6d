"""Supervised fine-tuning on the teacher's responses, with TRL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from rankdistill.errors import UserError
from rankdistill.models import load_model, load_tokenizer, save_model
from rankdistill.records import Group
from rankdistill.train.checkpoints import last_checkpoint
from rankdistill.train.progress import show_progress
from rankdistill.warmup.options import (
    Optimisation,
    TokenRow,
    figures,
    token_rows,
    training_arguments,
)

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class SFTWarmup(Optimisation):
    """Cross-entropy with the teacher's responses: response tokens only, EOS included where it
    stood.

    The rows reach TRL's SFTTrainer as token ids with labels: nothing is rendered, re-tokenised,
    cut, packed or given another EOS. The loss is the mean over the response tokens of a step,
    whatever its micro-batches, processes and accumulation.
    """

    @property
    def identity(self) -> dict[str, Any]:
        return {"warmup": "sft", "code": 1, **self.optimisation}

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
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """See `Warmup`. The teacher itself is not loaded."""
        tokenizer = load_tokenizer(str(student), trust_remote_code=trust_remote_code)
        rows = token_rows(groups, tokenizer)
        arguments = training_arguments(
            SFTConfig,
            self,
            checkpoints=checkpoints,
            seed=seed,
            report_to=report_to,
            precision=precision,
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        size = self._micro_batch(rows, arguments.world_size)
        arguments.per_device_train_batch_size = size
        arguments.gradient_accumulation_steps = self.responses_per_step // (
            size * arguments.world_size
        )
        trainer = SFTTrainer(
            model=load_model(
                str(student),
                attn_implementation=attn_implementation,
                trust_remote_code=trust_remote_code,
            ),
            args=arguments,
            train_dataset=_labelled(rows),
            processing_class=tokenizer,
        )
        show_progress(trainer)
        result = trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
        if trainer.is_world_process_zero():
            save_model(trainer.accelerator.unwrap_model(trainer.model), tokenizer, out)
        trainer.accelerator.wait_for_everyone()
        return figures(trainer, result, rows)

    def _micro_batch(self, rows: Sequence[TokenRow], processes: int) -> int:
        """The largest divisor of a process's share whose padded rows keep to `max_batch_tokens`.

        Raises:
            UserError: The responses of a step don't divide among the processes.
        """
        share, rest = divmod(self.responses_per_step, processes)
        if rest:
            raise UserError(
                f"warmup.responses_per_step is {self.responses_per_step}, which {processes} "
                f"processes cannot share equally under warmup=sft; give a multiple of {processes}."
            )
        fits = max(1, self.max_batch_tokens // max(row.length for row in rows))
        return max(size for size in range(1, share + 1) if share % size == 0 and size <= fits)


def _labelled(rows: Sequence[TokenRow]) -> Dataset:
    """`input_ids` and `labels`, which are the ids where the response is and ignored elsewhere."""
    return Dataset.from_dict(
        {
            "input_ids": [[*row.tokens.prompt, *row.response] for row in rows],
            "labels": [[IGNORED] * len(row.tokens.prompt) + list(row.response) for row in rows],
        }
    )
