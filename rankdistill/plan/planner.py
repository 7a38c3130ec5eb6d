"""The stages of a run, in the order of `rankdistill.stages.pipeline`, each with what it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from rankdistill.accelerate import path_of
from rankdistill.bench.flops import Work, sequences
from rankdistill.plan.config import HardwareConfig, PlanConfig
from rankdistill.plan.counts import Counts, count
from rankdistill.plan.memory import (
    GIB,
    Memory,
    Spread,
    TrainingStep,
    beside,
    engine_memory,
    forward_memory,
    model_bytes,
    remedy,
)
from rankdistill.plan.shapes import Shape, shape_of
from rankdistill.plan.stage import (
    PlannedStage,
    computing,
    cost,
    decoding,
    grouped,
    room,
    times,
    training_flops,
)
from rankdistill.stages.settings import Settings, with_precision
from rankdistill.train.schema import PPOTrainOptions

PASSES = 4
"""Forward passes over its answers that the figures of a model take, with what they work out."""

NOTHING = "a larger device or a smaller model"
"""Where no remedy of the list is enough."""


def on_gpu(hardware: HardwareConfig) -> bool:
    """Whether the devices are GPUs: their half precision is the faster one."""
    return hardware.flops.bfloat16 > hardware.flops.float32


def precise(precision: Any) -> str:
    """The name of a precision; the stored one, which vLLM calls `auto`, is taken for bfloat16."""
    name = getattr(precision, "name", precision)
    return "bfloat16" if name in ("stored", "auto") else name


@dataclass(frozen=True)
class Planner:
    """Works a run out for a machine.

    Args:
        settings: Of the run, as it would be built.
        plan: What is assumed.
        hardware: The machine.
    """

    settings: Settings
    plan: PlanConfig
    hardware: HardwareConfig

    def __post_init__(self) -> None:
        own = "bfloat16" if on_gpu(self.hardware) else "float32"
        object.__setattr__(self, "settings", with_precision(self.settings, own))

    @cached_property
    def counts(self) -> Counts:
        """Prompts and tokens."""
        return count(self.settings, self.plan)

    @cached_property
    def student(self) -> Shape:
        """Of the model that is trained."""
        student, teacher = self.settings.student, self.settings.teacher
        return self.shape(student.path or teacher.path, student, student.keep_layers)

    @cached_property
    def teacher(self) -> Shape:
        """Of the model that teaches."""
        return self.shape(self.settings.teacher.path, self.settings.teacher)

    @cached_property
    def spread(self) -> Spread:
        """Of the model that is trained."""
        return spread_of(self.plan.spread, self.hardware.devices)

    def shape(self, path: str, settings: Any, keep_layers: int | None = None) -> Shape:
        """Of a model by its name."""
        return shape_of(
            path,
            keep_layers=keep_layers,
            like=self.plan.like,
            trust_remote_code=settings.trust_remote_code,
        )

    def group(self, responses: int, layout: str | None = None) -> Work:
        """A prompt of the run with so many responses, in its layout or another."""
        own = layout or self.settings.train.layout.name
        return grouped(own, self.counts.prompt, responses, self.counts.response)

    def held(self, shape: Shape, settings: Any) -> float:
        """Bytes of the weights of a model that is not trained; `settings` are its group."""
        quantization = getattr(getattr(settings, "quantization", None), "name", None)
        return model_bytes(shape, precise(settings.precision), quantization)

    def done(self, memory: Memory | None = None) -> Memory:
        """With what every process takes."""
        memory = memory or Memory()
        return replace(memory, process=self.hardware.process_gib * GIB)

    def sampling(
        self, what: str, shape: Shape, prompts: int, each: int, *, fresh: bool = True
    ) -> PlannedStage:
        """`each` responses to `prompts` by an engine; `fresh`: the engine is started for it."""
        sample, counts, hardware = self.settings.sample, self.counts, self.hardware
        engine = sample.sampler in ("auto", "vllm")
        own = self.settings.student.precision if on_gpu(hardware) else "float32"
        precision = precise(sample.vllm.dtype if engine else own)
        usual = 256 if on_gpu(hardware) else 64  # what null is, of most cards and of a CPU
        most = sample.vllm.max_num_seqs or usual if engine else sample.transformers.batch_size
        engines, devices = sample.data_parallel or 1, sample.tensor_parallel
        tokens = prompts * each * counts.response
        at_once = max(1, min(most, -(-prompts * each // engines)))
        length = counts.longest_prompt + counts.longest_response
        flops = self._forward(shape, times(grouped("shared", counts.prompt, 1, 0), prompts))
        written = sequences(prompts * each, 0, round(counts.response), rows=round(tokens))
        seconds = decoding(
            shape, hardware, precision, tokens, at_once, counts.group, engines, devices
        )
        start = hardware.engine_seconds if fresh and engine else 0

        def memory(precision: str, devices: int) -> Memory:
            return self.done(engine_memory(shape, precision, at_once, length, devices))

        stage = PlannedStage(
            "sample", f"{what}: {prompts:,} prompts x {each}", shape.parameters,
            memory(precision, devices), tokens, flops + self._forward(shape, written),
            seconds + start, disk=tokens * 10 + prompts * each * 200,
            # An engine takes a share of a GPU; without one there is no such limit.
            share=sample.vllm.gpu_memory_utilization if engine and on_gpu(hardware) else 1.0,
        )  # fmt: skip
        spread = [2**k for k in range(1, 4) if devices * 2**k <= hardware.devices]
        return self._else(
            stage,
            {
                "sample.vllm.dtype=bfloat16": lambda: memory("bfloat16", devices),
                **{
                    f"sample.tensor_parallel={devices * more}": (
                        lambda more=more: memory(precision, devices * more)
                    )
                    for more in spread
                },
            },
        )

    def reading(
        self,
        name: str,
        what: str,
        shape: Shape,
        settings: Any,
        work: Work,
        *,
        max_batch_tokens: int,
        group: str = "teacher",
        others: float = 0.0,
        disk: float = 0.0,
    ) -> PlannedStage:
        """Forward passes of a model on one device.

        Args:
            settings: The group of the model, with its precision.
            work: All of it.
            group: Name of that group.
            others: Bytes of models beside it.
            disk: Bytes that are kept.
        """
        precision = precise(settings.precision)
        quantization = getattr(getattr(settings, "quantization", None), "name", None)
        tokens = int(max(min(max_batch_tokens, work.tokens), self.largest(self.counts.responses)))
        rows = round(tokens * work.rows / max(work.tokens, 1))
        flops = self._forward(shape, work)
        seconds = computing(flops, self.hardware, precision, "inference")

        def memory(precision: str, quantization: str | None) -> Memory:
            found = forward_memory(
                shape, precision, quantization, tokens, rows, on_gpu=on_gpu(self.hardware)
            )
            return self.done(beside(found, others))

        stage = PlannedStage(
            name, what, shape.parameters, memory(precision, quantization), work.tokens, flops,
            seconds + self.hardware.start_seconds, disk=disk,
        )  # fmt: skip
        return self._else(
            stage,
            {
                f"{group}.precision=bfloat16": lambda: memory("bfloat16", quantization),
                f"{group}.quantization=nf4": lambda: memory(precision, "nf4"),
            },
        )

    def training(
        self,
        name: str,
        what: str,
        options: Any,
        work: Work,
        *,
        steps: int,
        tokens: int,
        head: str = "logps",
        layout: str | None = None,
        epochs: float,
        others: float = 0.0,
        extra_flops: float = 0.0,
        least: int,
    ) -> PlannedStage:
        """A training of the student.

        Args:
            options: `max_batch_tokens` and `gradient_checkpointing`.
            work: Of one epoch.
            steps: Of one epoch.
            tokens: Of one device in a step.
            others: Bytes of models that are there beside it.
            extra_flops: Of those models.
            least: Tokens of what is never split.
        """
        student = self.settings.student
        at_once = max(min(options.max_batch_tokens, tokens), least)
        training = TrainingStep(
            self.student,
            precise(student.precision),
            student.lora.r,
            student.quantization and student.quantization.name,
            layout or self.settings.train.layout.name,
            options.gradient_checkpointing,
            tokens=at_once,
            rows=round(at_once * work.rows / max(work.tokens, 1)),
            passes=-(-tokens // at_once),
            head=head,
            spread=self.spread,
            on_gpu=on_gpu(self.hardware),
        )
        flops = training_flops(work, self.student, training) * epochs + extra_flops
        seconds = computing(flops, self.hardware, training.precision, "training")
        memory = self.done(beside(training.memory(), others))
        taken = round(steps * epochs)
        stage = PlannedStage(
            name, f"{what}, {taken:,} step{'s' * (taken != 1)}", self.student.parameters, memory,
            work.tokens * epochs, flops,
            seconds / self.hardware.devices + self.hardware.start_seconds,
            disk=self.saved, scratch=2 * (4 + 8) * training.trained, training=training,
            steps=taken,
        )  # fmt: skip
        return self._checked(stage, least, name)

    @property
    def saved(self) -> float:
        """Bytes of a trained student on disk: adapters are merged, whole weights stay float32."""
        student = self.settings.student
        precision = precise(student.precision) if student.lora.r else "float32"
        return model_bytes(self.student, precision, None)

    def largest(self, responses: int) -> int:
        """Tokens of the largest group."""
        counts = self.counts
        together = counts.longest_prompt + responses * counts.longest_response
        if self.settings.train.layout.name == "shared":
            return together
        return responses * (counts.longest_prompt + counts.longest_response)

    def _forward(self, shape: Shape, work: Work) -> float:
        return work.inference(cost(shape))

    def _else(
        self, stage: PlannedStage, choices: Mapping[str, Callable[[], Memory]]
    ) -> PlannedStage:
        """With the first of some choices that makes it fit, where it does not."""
        if stage.fits(self.hardware):
            return stage
        for text, memory in choices.items():
            if replace(stage, memory=memory()).fits(self.hardware):
                return replace(stage, remedy=text)
        return replace(stage, remedy=NOTHING)

    def _checked(self, stage: PlannedStage, least: int, group: str) -> PlannedStage:
        """As `_else`, for a training."""
        training = stage.training
        if stage.fits(self.hardware) or training is None:
            return stage
        around = stage.memory.others + stage.memory.process

        def fits(changed: TrainingStep) -> bool:
            return changed.memory().total + around <= room(self.hardware)

        proposal = remedy(training, fits, least, group)
        if proposal is None and group == "warmup" and stage.memory.others:
            around = stage.memory.process  # the teacher's outputs from disk, not the teacher
            first = "warmup.teacher_outputs=top_k"
            proposal = remedy(training, fits, least, group)
            enough = fits(training)
            return replace(stage, remedy=first if enough else f"{first} {proposal or NOTHING}")
        return replace(stage, remedy=proposal or NOTHING)

    @property
    def epoch_group(self) -> int:
        """Responses of a group that is trained on, after `rank.select`."""
        rank = self.settings.rank
        fewer = dict.fromkeys(("top_k", "random_k", "spread"), rank.top_k)
        most = {"best_worst": 2, "best_random": 2, **fewer}
        return min(self.counts.responses, most.get(rank.select.name, self.counts.responses))

    @property
    def is_ppo(self) -> bool:
        """Whether the policy learns from what it writes: by a reward, or by its teacher."""
        return isinstance(self.settings.train, PPOTrainOptions)


def spread_of(name: str | None, devices: int) -> Spread:
    """The spread of a shipped configuration by its name; None: a copy on every device.

    Raises:
        UserError: there is none of that name.
    """
    if name is None:
        return Spread(devices)
    given = yaml.safe_load(Path(path_of(name)).read_text(encoding="utf-8"))
    if "fsdp_config" in given:
        offloaded = given["fsdp_config"]["fsdp_offload_params"]
        return Spread(devices, True, True, True, offloaded, offloaded)
    deepspeed = given["deepspeed_config"]
    stage = deepspeed["zero_stage"]
    return Spread(
        devices,
        weights=stage >= 3,
        gradients=stage >= 2,
        optimiser=True,
        offloaded_optimiser=deepspeed["offload_optimizer_device"] == "cpu",
        offloaded_weights=deepspeed.get("offload_param_device") == "cpu",
    )
