"""What is planned, held against a GPU: a part of `python -m rankdistill.bench gpu`."""

from __future__ import annotations

import tempfile

import torch

from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.parts import Bench
from rankdistill.bench.gpu.trainers import bare_step
from rankdistill.models import release
from rankdistill.plan.memory import Training
from rankdistill.plan.shapes import shape_of
from rankdistill.trainer.modes import enable_gradient_checkpointing


def planned(bench: Bench) -> list[Claim]:
    """The peak of a training step by gradient checkpointing, against `rankdistill.plan`."""
    claims = []
    for checkpointing in (False, "selective", True):
        model = bench.build("0.5B").train()
        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            shape = shape_of(folder)
        group = bench.group(4, 512, 256, model)
        enable_gradient_checkpointing(model, checkpointing)
        optimizer = torch.optim.AdamW(model.parameters())
        step = bare_step(bench, model, group)
        step()
        optimizer.step()
        peak = bench.peak(step)
        rows = sum(len(response) for response in group.responses)
        expected = Training(
            shape, "bfloat16", None, None, "shared", checkpointing, rows + len(group.prompt), rows,
            1, "logps", on_gpu=True,
        ).memory().total / 2**30  # fmt: skip
        name, target = f"planner, checkpointing {checkpointing}", "within 10 %"
        if not bench.timed:
            claims.append(Claim.untried(name, "no GPU, or a tiny model", target))
            continue
        off = expected / peak - 1
        figure = f"{peak:.2f} GiB, planned {expected:.2f}"
        claims.append(Claim.of(name, figure, target, abs(off) <= 0.1))
        del model, optimizer, step
        release()
    return claims
