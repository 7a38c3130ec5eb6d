"""What a `PPOTrainer` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from rankdistill.fields import at_least, require_choice
from rankdistill.forward import LAYOUTS
from rankdistill.objectives.divergences import divergence_named
from rankdistill.sample.sampler import SamplingOptions
from rankdistill.train.schema import PPOMethod


@dataclass(frozen=True, kw_only=True)
class PPOConfig(PPOMethod):
    """Options of PPO; an iteration is one rollout and the updates on it. Beyond `PPOMethod`:

    Args:
        output_dir: Checkpoints, and the policy's weights for the sampler.
        sampling: Of the rollouts. Unfiltered: ``top_p=1``, ``top_k=0``. The policy's and the
            reference's logits are divided by its temperature everywhere.
        prompts_per_rollout: Prompts of an iteration, over all processes.
        sampling_strategy: `random`, or `group_by_cluster`: prompts of one cluster in one iteration.
        layout: `shared`, `packed` or `padded`.
        mixed_precision: no, bf16 or fp16, as in accelerate.
        seed: Of rollouts and of the data order.

    Raises:
        UserError: a value out of its range.
    """

    learning_rate: float = 3e-6
    epochs: float = 1.0
    output_dir: str
    sampling: SamplingOptions
    prompts_per_rollout: int = 32
    sampling_strategy: str = "random"
    layout: str = "shared"
    mixed_precision: str = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_rollouts(self.sampling)
        if self.divergence is not None:
            divergence_named(self.divergence, "train.divergence")
        require_choice("train.layout", self.layout, LAYOUTS)
        at_least("train", self, 1, "prompts_per_rollout")

    @property
    def precision(self) -> str:
        """That the policy computes in while it is trained."""
        return {"bf16": "bfloat16", "fp16": "float16"}.get(self.mixed_precision, "float32")
