"""FSDP2 as accelerate wraps a model, with one process: the values of autocast, and float32."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.parts import Bench, relative, tokenizer
from rankdistill.forward import TokenGroup, collate, response_logps
from rankdistill.models import load_model
from rankdistill.train.ppo.actor_critic import ActorCritic, value_head
from rankdistill.train.ppo.losses import policy_loss, value_loss
from rankdistill.train.reward.model import logits
from rankdistill.trainer.modes import keep_float32
from rankdistill.trainer.output import masters, save_trained
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Divergence, LiveTeacher
from rankdistill.warmup.trainer import distil

HEADS = ("log-probabilities", "distillation", "actor-critic", "reward")
AUTOCAST = "<= 2e-2"
"""Either is off a float32 gradient by about 1e-2 (8 layers of 256, on a CPU)."""
RATE = 1e-3
"""Of plain gradient descent, so that weights show the gradients as they are."""


def sharded(bench: Bench) -> list[Claim]:
    """Every head through `fsdp2_prepare_model`, what is saved, and ZeRO where it is there."""
    with tempfile.TemporaryDirectory() as folder:
        # As accelerate has it: what is offloaded is gathered on the CPU.
        backend = "cpu:gloo,cuda:nccl" if bench.device == "cuda" else "gloo"
        os.environ.setdefault("LOCAL_RANK", "0")
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            claims = [claim for head in HEADS for claim in _head(bench, head)]
            claims += [*_offloaded(bench), _saved(bench, Path(folder, "fsdp"))]
            zero = [_zero(bench, stage, Path(folder, str(stage))) for stage in (2, 3)]
            return [*claims, *(claim for of_stage in zero for claim in of_stage)]
        finally:
            dist.destroy_process_group()


def _head(bench: Bench, head: str) -> list[Claim]:
    """Tied tables in the precision of training, and untied ones in float32."""
    dtype, off = _sharded_once(_Student(bench, head, "0.5B", _precision(bench)))
    exact = _sharded_once(_Student(bench, head, "untied", "no"))[1]
    told = f"FSDP2, {head}, untied, float32: gradient of a whole model"
    return [
        *_as_autocast(f"FSDP2, {head}", dtype, off),
        Claim.of(told, f"{exact:.1e}", "<= 1e-5", exact <= 1e-5),
    ]


def _precision(bench: Bench) -> str:
    return "bf16" if bench.device == "cuda" else "no"


def _as_autocast(name: str, dtype: torch.dtype, off: float) -> list[Claim]:
    """What is returned, and the gradient against that of a whole model under autocast."""
    exact = dtype == torch.float32
    return [
        Claim.of(f"{name}: precision", str(dtype), "torch.float32", exact),
        Claim.of(f"{name}: gradient of autocast", f"{off:.1e}", AUTOCAST, off <= 2e-2),
    ]


@dataclass(frozen=True)
class _Student:
    """The same model with a head, as often as it is asked for, and what it learns."""

    bench: Bench
    head: str
    shape: str
    precision: str
    """Of accelerate: no, bf16."""

    def made(self) -> Any:
        if self.head == "reward":
            return self.bench.reward_model(self.shape)
        model = self.bench.build(self.shape)
        if self.head != "actor-critic":
            return model
        return ActorCritic(model, value_head(model), "shared", 1.0)

    @cached_property
    def _teacher(self) -> Any:
        half = torch.bfloat16 if self.precision == "bf16" else torch.float32
        return self.bench.build(self.shape, seed=1, dtype=half).requires_grad_(False)

    def second(self, model: Any, whole: bool = False) -> Tensor:
        """The loss of a second step, whose gradients are there.

        Args:
            whole: The model computes under autocast, where a sharded one is cast.
        """
        optimizer = torch.optim.SGD(model.parameters(), RATE)

        def step() -> None:
            optimizer.step()
            optimizer.zero_grad()

        lower = whole and self.precision == "bf16"
        return self.steps(model, torch.Tensor.backward, step, lower)

    def steps(
        self,
        model: Any,
        backward: Callable[[Tensor], Any],
        step: Callable[[], Any],
        lower: bool = False,
    ) -> Tensor:
        """As `second`, by the ways of a wrapper; `lower` computes under autocast."""

        def forward() -> Tensor:
            # Not around the step: autocast keeps its copies of the weights until its end.
            with torch.autocast(self.bench.device, torch.bfloat16, enabled=lower):
                return self._loss(model)

        backward(forward())
        step()
        loss = forward()
        backward(loss)
        return loss

    def _loss(self, model: Any) -> Tensor:
        """[] a mean over what it is of."""
        shapes = ((3, 256), (2, 128))
        groups = [self.bench.group(K, P, 64, self._teacher) for K, P in shapes]
        batch = collate(groups).to(self.bench.device)
        if self.head == "log-probabilities":
            return response_logps(model, batch).token_logps.mean()
        if self.head == "reward":
            return logits(model, groups)[0].mean()
        if self.head == "distillation":
            rows = [
                TokenRow(str(i), TokenGroup(group.prompt, group.responses[:1]), i)
                for i, group in enumerate(groups)
            ]
            live = LiveTeacher(self._teacher, Divergence("forward_kl", 1.0))
            return distil(model, live, rows).loss / sum(len(row.response) for row in rows)
        new, values = (x[None] for x in model(batch))
        gain = torch.sin(torch.arange(new.numel(), device=new.device))[None]
        mask = torch.ones_like(gain, dtype=torch.bool)
        of_values = value_loss(values, values.detach(), gain, mask, 0.2)
        return (policy_loss(new, new.detach(), gain, mask, 0.2) + of_values).mean()


def _sharded_once(student: _Student, offload: bool = False) -> tuple[torch.dtype, float]:
    """What the sharded model returns, and how far its gradient is from that of the whole one."""
    plain, sharded = student.made(), student.made()
    sharded = prepared(sharded, student.precision, student.bench.device, offload)
    student.second(plain, whole=True)
    loss = student.second(sharded)
    return loss.dtype, _apart([p.grad.to_local() for p in sharded.parameters()], plain)


def _apart(grads: Sequence[Tensor], plain: Any) -> float:
    wanted = torch.cat([p.grad.float().flatten() for p in plain.parameters()])
    ours = torch.cat([grad.to(wanted.device).float().flatten() for grad in grads])
    return relative(ours, wanted)


def _offloaded(bench: Bench) -> list[Claim]:
    """What `fsdp2_1gpu` does: the weights are in the machine's memory between their uses."""
    name = "FSDP2, offloaded weights"
    if bench.device != "cuda":
        targets = {"precision": "torch.float32", "gradient of autocast": AUTOCAST}
        return [Claim.untried(f"{name}: {what}", "no GPU", t) for what, t in targets.items()]
    student = _Student(bench, "log-probabilities", "0.5B", _precision(bench))
    return _as_autocast(name, *_sharded_once(student, offload=True))


def _saved(bench: Bench, folder: Path) -> Claim:
    """A student that has taken a step, as the next stage loads it."""
    student = _Student(bench, "log-probabilities", "0.5B", _precision(bench))
    model = prepared(student.made(), student.precision, bench.device)
    student.second(model)
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    _save(bench, folder, model, model, DistributedType.FSDP, lambda wrapped: get_model_state_dict(
        wrapped, options=options))  # fmt: skip
    trained = {name: p.full_tensor() for name, p in model.named_parameters()}
    return _kept("FSDP2", folder, trained)


def _save(
    bench: Bench, folder: Path, wrapped: Any, model: Any, kind: DistributedType, state: Any
) -> None:
    """As a training does, from a stand-in for its trainer."""
    accelerator = SimpleNamespace(
        distributed_type=kind,
        unwrap_model=lambda wrapped: model,
        get_state_dict=state,
        wait_for_everyone=lambda: None,
    )
    trainer: Any = SimpleNamespace(
        accelerator=accelerator, model=wrapped, model_wrapped=wrapped,
        is_world_process_zero=lambda: True,
    )  # fmt: skip
    save_trained(trainer, tokenizer(), folder, lambda: bench.build("0.5B").cpu())


def _kept(name: str, folder: Path, trained: Mapping[str, Tensor]) -> Claim:
    """Whether the next stage loads what was trained."""
    found = dict(load_model(str(folder)).named_parameters())
    same = all(torch.equal(p, trained[name].cpu()) for name, p in found.items())
    return Claim.of(f"{name}: saved is trained, bit for bit", str(same), "True", same)


def _zero(bench: Bench, stage: int, folder: Path) -> list[Claim]:
    """DeepSpeed with one process: two steps of two heads, and what is saved of them."""
    heads, name = HEADS[:2], f"ZeRO-{stage}"
    if find_spec("deepspeed") is None or bench.device != "cuda":
        why = "no deepspeed, or no GPU"
        parts = {"precision": "torch.float32", "gradient of autocast": AUTOCAST}
        claims = [
            Claim.untried(f"{name}, {head}: {what}", why, target)
            for head in heads
            for what, target in parts.items()
        ]
        return [*claims, Claim.untried(f"{name}: saved in float32", why, "True"),
                Claim.untried(f"{name}: saved is trained, bit for bit", why, "True")]  # fmt: skip
    claims, engine = [], None
    for head in heads:
        student = _Student(bench, head, "0.5B", "bf16")
        plain, engine = student.made(), _engine(student.made(), stage)
        student.second(plain, whole=True)
        loss = student.steps(engine, engine.backward, engine.step)
        gradient = import_module("deepspeed.utils").safe_get_full_grad
        grads: list[Any] = [gradient(p) for p in engine.module.parameters()]
        claims += _as_autocast(f"{name}, {head}", loss.dtype, _apart(grads, plain))
    assert engine is not None
    engine.step()
    trained = masters(engine.module, kept=True)
    fine = any(not torch.equal(w, w.bfloat16().float()) for w in trained.values())
    _save(bench, folder, engine, engine.module, DistributedType.DEEPSPEED, lambda wrapped: {})
    return [*claims, Claim.of(f"{name}: saved in float32", str(fine), "True", fine),
            _kept(name, folder, trained)]  # fmt: skip


def _engine(model: Any, stage: int) -> Any:
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": True},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    initialize: Any = import_module("deepspeed").initialize
    return initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)[0]


def prepared(model: Any, precision: str, device: str, offload: bool = False) -> Any:
    """The model as `Accelerator.prepare` wraps it on an accelerator, with our precision.

    A process group is there. accelerate's own `Accelerator` shards on accelerators only.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model
    from torch.distributed.device_mesh import init_device_mesh

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        cpu_offload=offload,
        cpu_ram_efficient_loading=False,
        state_dict_type="SHARDED_STATE_DICT",
    )
    if precision != "no":
        plugin.set_mixed_precision(precision)
        keep_float32(SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)))
    mesh = init_device_mesh(device, (dist.get_world_size(),), mesh_dim_names=("dp",))
    stand_in: Any = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin),
        mixed_precision=precision,
        is_main_process=True,
        device=torch.device(device),
        torch_device_mesh=mesh,
        parallelism_config=SimpleNamespace(fsdp_dim_names=["dp"]),
    )
    return fsdp2_prepare_model(stand_in, model)
