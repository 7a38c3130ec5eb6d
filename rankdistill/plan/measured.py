"""What is planned, held against a GPU: a part of `python -m rankdistill.bench gpu`."""

from __future__ import annotations

import tempfile

import torch

from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.parts import Bench
from rankdistill.models import LoRA, release
from rankdistill.plan.memory import TrainingStep
from rankdistill.plan.shapes import shape_of
from rankdistill.trainer.modes import enable_gradient_checkpointing


def planned(bench: Bench) -> list[Claim]:
    """The peak of a training step, against `rankdistill.plan`: by checkpointing, and of LoRA."""
    whole = [_peak(bench, checkpointing, None) for checkpointing in (False, "selective", True)]
    return [*whole, *(_peak(bench, checkpointing, LoRA(16)) for checkpointing in (False, True))]


def _peak(bench: Bench, checkpointing: bool | str, lora: LoRA | None) -> Claim:
    # Trained weights are float32 under autocast, frozen ones are held in bfloat16.
    half = lora is not None and bench.device == "cuda"
    model = bench.build("0.5B", dtype=torch.bfloat16 if half else torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        shape = shape_of(folder)
    group = bench.group(4, 512, 256, model)
    model = (model if lora is None else lora.on(model, 0)).train()
    enable_gradient_checkpointing(model, checkpointing)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    step = bench.step(model, group)
    step()
    optimizer.step()
    peak = bench.peak(step)
    rows = sum(len(response) for response in group.responses)
    expected = TrainingStep(
        shape, "bfloat16", lora and lora.r, None, "shared", checkpointing, rows + len(group.prompt),
        rows, 1, "logps", on_gpu=True,
    ).memory().total / 2**30  # fmt: skip
    del model, optimizer, step
    release()
    trained = "all weights" if lora is None else f"LoRA r={lora.r}"
    name, target = f"planner, {trained}, checkpointing {checkpointing}", "within 10 %"
    if not bench.timed:
        return Claim.untried(name, "no GPU, or a tiny model", target)
    figure = f"{peak:.2f} GiB, planned {expected:.2f}"
    return Claim.of(name, figure, target, abs(expected / peak - 1) <= 0.1)
