"""TRL's DPOTrainer in its fastest configuration, on given token ids."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from rankdistill.bench.training import Step
from rankdistill.forward import TokenGroup

Pair = tuple[int, int]
"""Numbers of the chosen and of the rejected response."""


class TRLSteps:
    """Steps of a DPOTrainer that trains `model` in place.

    On its device, in float32 or under autocast (`bf16`), without gradient checkpointing, with
    reference log-probabilities that are known: what costs a user of TRL the least. Rows are handed
    to the trainer's own collator in tokens, so that its tokenisation, which adds EOS, cannot make
    them others than ours.
    """

    def __init__(self, model: Any, tokenizer: Any, beta: float, *, bf16: bool = False) -> None:
        from datasets import Dataset
        from trl.trainer.dpo_config import DPOConfig
        from trl.trainer.dpo_trainer import DPOTrainer

        os.environ.setdefault("TQDM_DISABLE", "1")  # or computing the reference shows a bar
        self._folder = tempfile.TemporaryDirectory(prefix="rankdistill-bench-")
        config = DPOConfig(
            output_dir=self._folder.name,
            beta=beta,
            bf16=bf16,
            use_cpu=model.device.type == "cpu",
            gradient_checkpointing=False,
            precompute_ref_log_probs=True,
            max_length=None,
            per_device_train_batch_size=1,
            report_to=[],
            disable_tqdm=True,
        )
        # Only to make a trainer; the steps bring their own rows.
        rows = Dataset.from_list([{"prompt": "1 2", "chosen": " 3", "rejected": " 4"}])
        self._trainer: Any = DPOTrainer(
            model, args=config, train_dataset=rows, processing_class=tokenizer
        )
        model.train()

    def step(
        self, group: TokenGroup, reference: Sequence[float], batches: Sequence[Sequence[Pair]]
    ) -> Step:
        """The mean loss of all pairs, from accumulated batches of equally many."""
        trainer = self._trainer

        def row(chosen: int, rejected: int) -> dict[str, Any]:
            return {
                "prompt_ids": list(group.prompt),
                "chosen_ids": list(group.responses[chosen]),
                "rejected_ids": list(group.responses[rejected]),
                "ref_chosen_logps": reference[chosen],
                "ref_rejected_logps": reference[rejected],
            }

        def step() -> float:
            total = 0.0
            for pairs in batches:
                inputs = trainer.data_collator([row(*pair) for pair in pairs])
                inputs = trainer._prepare_inputs(inputs)
                loss = trainer.compute_loss(trainer.model, inputs) / len(batches)
                loss.backward()
                total += loss.item()
            return total

        return step


def all_pairs(count: int) -> list[Pair]:
    """Every pair of responses that are in the order of their rank."""
    return list(itertools.combinations(range(count), 2))
