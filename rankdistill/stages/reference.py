"""The reference stage: what an objective's frozen reference says of the ranked responses."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from rankdistill.distributed import sharding
from rankdistill.models import Rows, device
from rankdistill.stages.run import Model, Run
from rankdistill.store import Partial
from rankdistill.store.sequences import values_of
from rankdistill.train.reference import COLUMN, ReferenceConfig, reference_column


def reference_logps(run: Run, model: Model, ranked: Rows) -> dict[str, Any]:
    """The responses' log-probabilities under the reference, by prompt id."""
    identity = {
        "code": 1,
        "reference": model.identity,
        "ranked": ranked.key,
        "layout": run.settings.train.layout.name,
        **run.trained_in,
    }
    if run.settings.student.precision.name != "float32" and sharding(os.environ) is not None:
        identity["computed"] = "in lower weights"  # as the policy is, see `weights_in`

    def make(partial: Partial) -> Mapping[str, Any]:
        # Not a RankingConfig: one of those waits for all processes of a launch.
        config = ReferenceConfig(
            layout=run.settings.train.layout.name,
            max_batch_tokens=run.settings.train.max_batch_tokens,
            bf16=run.settings.student.precision.name == "bfloat16",
            fp16=run.settings.student.precision.name == "float16",
            device=device(),
        )
        policy = model.trainable(run.lora, run.settings.seed)
        rows = ranked.rows
        column = reference_column(rows, policy, model.tokenizer(), config)
        names = values_of(rows, "prompt_id")
        partial.shards().put(
            {"prompt_id": name, COLUMN: values} for name, values in zip(names, column, strict=True)
        )
        return {"groups": len(ranked)}

    what = f"{len(ranked)} groups under the student before training"
    output = run.stage("reference", what, identity, make)
    return {row["prompt_id"]: row[COLUMN] for row in output.rows()}
