"""What is planned, held against a GPU: a part of `python -m rankdistill.bench gpu`."""

from __future__ import annotations

import tempfile
from typing import Any

import torch

from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.parts import Bench
from rankdistill.bench.gpu.trainers import ppo_trainer
from rankdistill.models import LoRA, release
from rankdistill.plan.memory import TrainingStep, model_bytes
from rankdistill.plan.shapes import Shape, shape_of
from rankdistill.trainer.modes import enable_gradient_checkpointing


def planned(bench: Bench) -> list[Claim]:
    """Peaks against `rankdistill.plan`: a step by checkpointing, of LoRA, an iteration of PPO."""
    whole = [_peak(bench, checkpointing, None) for checkpointing in (False, "selective", True)]
    adapters = [_peak(bench, checkpointing, LoRA(16)) for checkpointing in (False, True)]
    return [*whole, *adapters, _ppo(bench)]


def _peak(bench: Bench, checkpointing: bool | str, lora: LoRA | None) -> Claim:
    # Trained weights are float32 under autocast, frozen ones are held in bfloat16.
    half = lora is not None and bench.device == "cuda"
    model = bench.build("0.5B", dtype=torch.bfloat16 if half else torch.float32)
    shape = _shape(model)
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
    return _near(bench, f"planner, {trained}, checkpointing {checkpointing}", peak, expected)


def _ppo(bench: Bench) -> Claim:
    """Policy and reference, at the peak of the updates on a rollout."""
    policy = bench.build("0.5B")
    shape = _shape(policy)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ppo_trainer(bench, policy, "group", folder)
        peak = bench.peak(trainer.train)
    each = trainer.config.sampling.responses_per_prompt
    rows = round(trainer.config.prompts_per_step * each * trainer.history[0]["response_tokens"])
    expected = TrainingStep(
        shape, "bfloat16", None, None, "shared", False, rows, rows, 1, "logps", on_gpu=True
    ).memory().total + model_bytes(shape, "float32", None)  # fmt: skip
    del trainer, policy
    release()
    return _near(bench, "planner, PPO with a reference", peak, expected / 2**30)


def _shape(model: Any) -> Shape:
    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        return shape_of(folder)


def _near(bench: Bench, name: str, peak: float, expected: float) -> Claim:
    target = "within 10 %"
    if not bench.timed:
        return Claim.untried(name, "no GPU, or a tiny model", target)
    figure = f"{peak:.2f} GiB, planned {expected:.2f}"
    return Claim.of(name, figure, target, abs(expected / peak - 1) <= 0.1)
