"""What one process of a launch finds: every head under FSDP2 as accelerate itself wraps it.

python -m fsdp2_heads FOLDER [all], with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; it writes
the figures of every case, or of all combinations, into RANK.json.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from forward_oracle import ragged_groups
from tiny_models import build_model
from transformers import AutoModelForSequenceClassification

from rankdistill.bench.gpu.sharded import prepared
from rankdistill.forward import TokenGroup, bind, collate, response_logps
from rankdistill.train.ppo.actor_critic import ActorCritic, value_head
from rankdistill.train.reward.model import logits
from rankdistill.trainer.modes import enable_gradient_checkpointing, weights_in
from rankdistill.warmup.head import DistillationHead
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Divergence, LiveTeacher
from rankdistill.warmup.trainer import distil

HEADS = ("logps", "distil", "distil in chunks", "ppo", "reward")
Case = tuple[str, bool, str, bool | str]
"""Head, whether the tables are tied, precision, gradient checkpointing."""
CHECKPOINTING = (False, True, "selective")
ALL: list[Any] = [*product(HEADS, (False, True), ("no", "bf16"), CHECKPOINTING)]
CASES: list[Any] = [
    *(
        (head, tied, precision, checkpointing)
        for head, tied, precision, checkpointing in ALL
        if (HEADS.index(head) + tied + (precision == "no") + CHECKPOINTING.index(checkpointing)) % 2
    ),
    ("micro-batches", False, "bf16", True),
    ("micro-batches", True, "no", "selective"),
    ("micro-batches", True, "no", True),
]
"""Half of all combinations, in which every two values of different parts meet."""


def student(head: str, tied: bool, checkpointing: bool | str) -> Any:
    """The module that is trained; the same numbers at every call."""
    model: Any = build_model("llama", tied=tied)
    if head == "reward":
        torch.manual_seed(0)
        model.config.num_labels = 1
        model = AutoModelForSequenceClassification.from_config(model.config)
    enable_gradient_checkpointing(model.train(), checkpointing)
    return ActorCritic(model, value_head(model), "shared", 1.0) if head == "ppo" else bind(model)


def loss_of(head: str, model: Any, groups: list[TokenGroup]) -> torch.Tensor:
    """[] as the head's trainer computes it, up to what it sums."""
    if head == "logps":
        return response_logps(model, collate(groups)).logps.sum()
    if head == "ppo":
        logps, values = model(collate(groups))
        return logps.sum() + values.sum()
    if head == "reward":
        return logits(model, groups)[0].sum()
    teacher = bind(build_model("llama", seed=5).requires_grad_(False))
    rows = [
        TokenRow(str(i), TokenGroup(group.prompt, [response]), i)
        for i, group in enumerate(groups)
        for response in group.responses
    ]
    live = LiveTeacher(teacher, Divergence("forward_kl", 2.0))
    if head == "distil":
        return distil(model, live, rows, (1.0, 0.5)).loss
    batch = collate([row.tokens for row in rows])
    chunked = DistillationHead(live.target(batch, rows), 1.0, 0.5, chunk_rows=7)
    return model(group_batch=batch, head=chunked.__call__).loss


def backward(head: str, model: Any, groups: list[TokenGroup]) -> torch.Tensor:
    """The loss, whose gradients are there; micro-batches are exchanged with the last of them."""
    if head != "micro-batches":
        loss = loss_of(head, model, groups)
        loss.backward()
        return loss
    with torch.no_grad():
        loss_of("logps", model, groups[:1])
    sync = getattr(model, "set_requires_gradient_sync", lambda last: None)
    total = torch.zeros(())
    for number, group in enumerate(groups, start=1):
        sync(number == len(groups))
        loss = loss_of("logps", model, [group])
        loss.backward()
        total = total + loss.detach()
    return total


def measured(head: str, tied: bool, precision: str, checkpointing: bool | str) -> dict[str, Any]:
    """Loss of the process's groups, and the largest relative error of the gradients' mean."""
    rank, processes = dist.get_rank(), dist.get_world_size()
    groups = ragged_groups()[rank::processes]
    plain, wrapped = (student(head, tied, checkpointing) for _ in range(2))
    wrapped = prepared(wrapped, precision, "cpu")
    expected, found = (backward(head, model, groups) for model in (plain, wrapped))
    worst = 0.0
    pairs = zip(wrapped.parameters(), plain.parameters(), strict=True)
    for parameter, other in pairs:
        wanted = other.grad.clone()
        dist.all_reduce(wanted)
        gradient = parameter.grad.full_tensor().float()
        error = (gradient - wanted / processes).norm() / wanted.norm().clamp(min=1e-12)
        worst = max(worst, float(error))
    return {"loss": [expected.item(), found.item()], "dtype": str(found.dtype), "gradient": worst}


def log_ratio() -> float:
    """The largest one, of a token, between a sharded policy in bfloat16 and its reference."""
    policy, reference = (student("logps", True, False) for _ in range(2))
    batch = collate(ragged_groups())
    ours = response_logps(prepared(policy, "bf16", "cpu"), batch).token_logps
    with torch.no_grad(), weights_in(reference, torch.bfloat16):
        theirs = response_logps(reference, batch).token_logps
    return (ours - theirs).abs().max().item()


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    DistillationHead.__dataclass_fields__["chunk_rows"].default = 7
    cases = ALL if sys.argv[2:] else CASES
    found: dict[str, Any] = {json.dumps(case): measured(*case) for case in cases}
    if dist.get_world_size() == 1:
        found["log ratio"] = log_ratio()
    Path(sys.argv[1], f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
