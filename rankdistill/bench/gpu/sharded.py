"""FSDP2 as accelerate wraps a model, with one process: the values of autocast, and float32."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
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
from rankdistill.forward import collate, response_logps
from rankdistill.models import load_model
from rankdistill.trainer.modes import keep_float32
from rankdistill.trainer.output import masters, save_trained
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Divergence, LiveTeacher
from rankdistill.warmup.trainer import distil


def sharded(bench: Bench) -> list[Claim]:
    """Log-probabilities and distillation through `fsdp2_prepare_model`; ZeRO where it is there."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if bench.device == "cuda" else "gloo"
        os.environ.setdefault("LOCAL_RANK", "0")
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            claims = [claim for head in ("logps", "distil") for claim in _head(bench, head)]
            claims.append(_saved(bench, Path(folder, "student")))
            return [*claims, *(claim for stage in (2, 3) for claim in _zero(bench, stage))]
        finally:
            dist.destroy_process_group()


def _head(bench: Bench, head: str) -> list[Claim]:
    plain = bench.build("0.5B")
    model = prepared(bench.build("0.5B"), _precision(bench), bench.device)
    teacher = bench.build("0.5B", seed=1).eval().requires_grad_(False)
    with bench.autocast():
        expected = _loss(bench, head, plain, teacher)
    found = _loss(bench, head, model, teacher)
    expected.backward()
    found.backward()
    grads = [p.grad.full_tensor() for p in model.parameters()]
    return _as_autocast(f"FSDP2, {head}", found, grads, plain)


def _precision(bench: Bench) -> str:
    return "bf16" if bench.device == "cuda" else "no"


def _as_autocast(name: str, loss: Tensor, grads: Sequence[Tensor], plain: Any) -> list[Claim]:
    """What is returned, and the gradient against that of a whole model under autocast."""
    ours = torch.cat([grad.float().flatten() for grad in grads])
    wanted = torch.cat([p.grad.float().flatten() for p in plain.parameters()])
    off, exact = relative(ours, wanted), loss.dtype == torch.float32
    return [
        Claim.of(f"{name}: precision", str(loss.dtype), "torch.float32", exact),
        Claim.of(f"{name}: gradient of autocast", f"{off:.1e}", "<= 2e-2", off <= 2e-2),
    ]


def _saved(bench: Bench, folder: Path) -> Claim:
    """A student that has taken a step, as the next stage loads it."""
    model = prepared(bench.build("0.5B"), _precision(bench), bench.device)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    _loss(bench, "logps", model, model).backward()
    optimizer.step()
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    accelerator = SimpleNamespace(
        distributed_type=DistributedType.FSDP,
        unwrap_model=lambda wrapped: wrapped,
        get_state_dict=lambda wrapped: get_model_state_dict(wrapped, options=options),
        wait_for_everyone=lambda: None,
    )
    trainer: Any = SimpleNamespace(
        accelerator=accelerator, model=model, model_wrapped=model,
        is_world_process_zero=lambda: True,
    )  # fmt: skip
    save_trained(trainer, tokenizer(), folder, lambda: bench.build("0.5B").cpu())
    found = dict(load_model(str(folder)).named_parameters())
    same = all(
        torch.equal(found[name], p.full_tensor().cpu()) for name, p in model.named_parameters()
    )
    return Claim.of("FSDP2: saved is trained, bit for bit", str(same), "True", same)


def _zero(bench: Bench, stage: int) -> list[Claim]:
    """DeepSpeed with one process: log-probabilities, and what is left of a step."""
    name, kept = f"ZeRO-{stage}", f"ZeRO-{stage}: saved in float32"
    if find_spec("deepspeed") is None or bench.device != "cuda":
        why = "no deepspeed, or no GPU"
        return [Claim.untried(f"{name}, logps: gradient of autocast", why, "<= 2e-2"),
                Claim.untried(kept, why, "True")]  # fmt: skip
    deepspeed: Any = import_module("deepspeed")
    gradient = import_module("deepspeed.utils").safe_get_full_grad
    plain, model = bench.build("0.5B"), bench.build("0.5B")
    with bench.autocast():
        _loss(bench, "logps", plain, plain).backward()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": True},
        "zero_allow_untested_optimizer": True,
    }
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=config, dist_init_required=False
    )
    loss = _loss(bench, "logps", engine, plain)
    engine.backward(loss)
    grads: list[Any] = [gradient(p) for p in engine.module.parameters()]
    engine.step()
    weights = masters(engine.module, kept=True)
    fine = any(not torch.equal(w, w.bfloat16().float()) for w in weights.values())
    return [*_as_autocast(f"{name}, logps", loss, grads, plain),
            Claim.of(kept, str(fine), "True", fine)]  # fmt: skip


def _loss(bench: Bench, head: str, model: Any, teacher: Any) -> Tensor:
    groups = [bench.group(3, 256, 64, teacher), bench.group(1, 128, 64, teacher)]
    if head == "logps":
        return response_logps(model, collate(groups).to(bench.device)).logps.sum()
    rows = [TokenRow(str(i), group, i) for i, group in enumerate(groups[1:])]
    return distil(model, LiveTeacher(teacher, Divergence("forward_kl", 1.0)), rows).loss


def prepared(model: Any, precision: str, device: str) -> Any:
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
