"""FSDP2 as accelerate wraps a model, with one process: the values of autocast, and float32."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.parts import Bench, relative
from rankdistill.forward import collate, response_logps
from rankdistill.trainer.modes import keep_float32
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Divergence, LiveTeacher
from rankdistill.warmup.trainer import distil


def sharded(bench: Bench) -> list[Claim]:
    """Log-probabilities and distillation through `fsdp2_prepare_model`; ZeRO where it is there."""
    claims = []
    with tempfile.TemporaryDirectory() as folder:
        backend = "nccl" if bench.device == "cuda" else "gloo"
        os.environ.setdefault("LOCAL_RANK", "0")
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            claims += [claim for head in ("logps", "distil") for claim in _head(bench, head)]
        finally:
            dist.destroy_process_group()
    found = find_spec("deepspeed") is not None
    why = "`accelerate launch` with zero2_1gpu" if found else "deepspeed is not installed"
    return [*claims, Claim.untried("ZeRO: gradient of autocast", why, "<= 1e-2")]


def _head(bench: Bench, head: str) -> list[Claim]:
    precision = "bf16" if bench.device == "cuda" else "no"
    plain, model = bench.build("0.5B"), bench.build("0.5B")
    model = prepared(model, precision, bench.device)
    teacher = bench.build("0.5B", seed=1).eval().requires_grad_(False)
    with bench.autocast():
        expected = _loss(bench, head, plain, teacher)
    found = _loss(bench, head, model, teacher)
    expected.backward()
    found.backward()
    pairs = list(zip(model.parameters(), plain.parameters(), strict=True))
    ours = torch.cat([p.grad.full_tensor().float().flatten() for p, _ in pairs])
    off = relative(ours, torch.cat([q.grad.float().flatten() for _, q in pairs]))
    name = f"FSDP2, {head}"
    returned = str(found.dtype)
    return [
        Claim.of(f"{name}: precision", returned, "torch.float32", found.dtype == torch.float32),
        Claim.of(f"{name}: gradient of autocast", f"{off:.1e}", "<= 2e-2", off <= 2e-2),
    ]


def _loss(bench: Bench, head: str, model: Any, teacher: Any) -> torch.Tensor:
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
