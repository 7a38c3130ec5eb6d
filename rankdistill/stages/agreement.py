"""After each reload of a sampler: that it wrote with the weights that are then read or trained.

The sample stage keeps what the sampler itself says of its first responses. An engine that kept old
weights writes fluently, and nothing else would tell.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rankdistill.console import is_main_process
from rankdistill.distributed import sharding
from rankdistill.errors import UserError
from rankdistill.forward import bind
from rankdistill.models import release
from rankdistill.sample import Sampler
from rankdistill.sample.agreement import COMPARED, gap_between
from rankdistill.stages.run import Model, Run

FILE = "sampler_logps.json"


def keep_logps(
    sampler: Sampler,
    model: Model,
    prompts: Mapping[str, Sequence[int]],
    rows: Iterable[Any],
    folder: Path,
) -> None:
    """Writes what the sampler says of the first response to the first few prompts, if it can tell.

    Args:
        prompts: Their token ids, by prompt id.
        rows: Groups that it has just written.
        folder: Of the stage's output.
    """
    firsts = [(r["prompt_id"], r["responses"][0]["token_ids"]) for r in islice(rows, COMPARED)]
    # Without its last token a response has room for the one that vLLM writes behind it.
    pairs = [(list(prompts[name]), list(ids)[:-1]) for name, ids in firsts if len(ids) > 1]
    logps = sampler.response_logps(model, pairs) if pairs else None
    if logps is not None:
        said = {"pairs": pairs, "logps": [list(row) for row in logps]}
        (folder / FILE).write_text(json.dumps(said), encoding="utf-8")


def check_sampler(run: Run, model: Model, loaded: Any = None) -> None:
    """Stops before a model is read or trained that is not the one that wrote its responses.

    Args:
        loaded: The model, where it is loaded already.

    Raises:
        UserError: It and the sampler differ by more than rounding.
    """
    outputs = [o for o in run.unchecked.pop(model.path, []) if (o.path / FILE).exists()]
    # A sampler does not quantise as the model is loaded here, which is no fault of either.
    if not outputs or model.loading.quantization or not is_main_process() or sharding(os.environ):
        return
    network = model.load_on_device() if loaded is None else loaded
    network = bind(network, run.settings.train.layout.name)
    # A sampler of one's own says nothing of its precision.
    own = run.settings.sampler is not None
    theirs = None if own else run.sampled_by(model)["dtype"] or "float32"
    for output in outputs:
        said = json.loads((output.path / FILE).read_text(encoding="utf-8"))
        gap = gap_between(said["logps"], network, said["pairs"])
        if differs := gap.beyond(theirs, model.loading.precision):
            raise UserError(
                f"The sampler '{run.sampler_name}' and the model {model.path} that it wrote with "
                f"{differs}: it had other weights, or rounds "
                f"far more; remove what it wrote (python -m rankdistill.store remove {output.key}) "
                "and take sample=transformers, or float32 throughout."
            )
    if loaded is None:
        del network
        release()
