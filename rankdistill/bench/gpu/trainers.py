"""The trainers: their overhead, what they leave behind, PPO."""

from __future__ import annotations

import tempfile
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import torch

from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.parts import Bench, tokenizer
from rankdistill.evaluate.tokens import entropy_and_divergence
from rankdistill.forward import TokenGroup, collate
from rankdistill.models import Loading, Model, release
from rankdistill.score.likelihood import Reader
from rankdistill.score.scorer import TeacherAccess
from rankdistill.train.groups import RankedGroup
from rankdistill.train.ranking import RankingConfig, RankingTrainer
from rankdistill.train.reference import ReferenceConfig, reference_logps
from rankdistill.train.reward.model import rewards
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Divergence, LiveTeacher
from rankdistill.warmup.trainer import DistillationTrainer

MIB = 2**20


def loop(bench: Bench) -> list[Claim]:
    """Twelve steps of a `RankingTrainer`, and how often a step waits for the card."""
    model = bench.build("0.5B")
    group = bench.group(4, 512, 256, model)
    steps = 12 if bench.timed else 2
    bare = bench.seconds({"bare": bench.step(model, group)})["bare"]
    trainer = _trainer(bench, model, [group] * 32, steps)
    trainer.train()  # kernels and allocations
    took = bench.seconds({"loop": trainer.train})["loop"] / steps
    overhead, waits = took / (8 * bare), _waits(bench, trainer, steps)
    name, figure = "trainer against bare steps", f"{overhead:.2f} x"
    times = bench.timed_claim(name, figure, "<= 1.10 x", overhead <= 1.1)
    few = Claim.untried("waits for the card, per step", "no GPU", "<= 4")
    if waits is not None:
        few = Claim.of("waits for the card, per step", f"{waits:.1f}", "<= 4", waits <= 4)
    return [times, few]


def _trainer(bench: Bench, model: Any, groups: Sequence[TokenGroup], steps: int) -> RankingTrainer:
    return RankingTrainer(
        model, _arguments(bench, steps), _rows(groups), processing_class=tokenizer()
    )


def _arguments(bench: Bench, steps: int) -> RankingConfig:
    return RankingConfig(
        tempfile.mkdtemp(prefix="rankdistill-bench-"),
        prompts_per_step=8, max_steps=steps, save_strategy="no", disable_tqdm=True,
        max_batch_tokens=1, bf16=bench.device == "cuda", use_cpu=bench.device == "cpu",
    )  # fmt: skip


def _rows(groups: Sequence[TokenGroup]) -> list[Any]:
    """The groups as a stage has them."""
    return [
        {
            "prompt_id": str(i),
            "messages": [{"role": "user", "content": " ".join(map(str, group.prompt))}],
            "responses": [
                {"text": "", "token_ids": list(response), "score": -float(k)}
                for k, response in enumerate(group.responses)
            ],
        }
        for i, group in enumerate(groups)
    ]


def _waits(bench: Bench, trainer: Any, steps: int) -> float | None:
    """Synchronising calls per step that torch warns of."""
    if bench.device != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in seen) / steps


def given_back(bench: Bench) -> list[Claim]:
    """What is left on the card after each stage of a run in one process."""
    stages = {
        "warm-up": _distilled, "scores by likelihood": _scored,
        "scores by a reward model": _rewarded, "reference": _read, "training": _trained,
        "evaluation": _held,
    }  # fmt: skip
    claims = []
    for name, stage in stages.items():
        seen = stage(bench)
        release()
        gone = not any(each() for each in seen)
        claims.append(Claim.of(f"models are gone after {name}", str(gone), "True", gone))
        claims += _left(bench, name)
    return claims


def _left(bench: Bench, name: str) -> list[Claim]:
    told, target = f"memory given back after {name}", "<= 64 MiB allocated, 256 reserved"
    if bench.device != "cuda":
        return [Claim.untried(told, "no GPU", target)]
    held, reserved = torch.cuda.memory_allocated() / MIB, torch.cuda.memory_reserved() / MIB
    figure = f"{held:.0f} MiB allocated, {reserved:.0f} reserved"
    free, total = torch.cuda.mem_get_info()
    return [
        Claim.of(told, figure, target, held <= 64 and reserved <= 256),
        Claim.of(f"free on the card after {name}", f"{free / total:.1%}", ">= 97 %",
                 free / total >= 0.97),
    ]  # fmt: skip


def _distilled(bench: Bench) -> list[weakref.ref]:
    student, teacher = bench.build("0.5B"), bench.build("0.5B", seed=1).requires_grad_(False)
    group = bench.group(1, 256, 64, student)
    live = LiveTeacher(teacher, Divergence("forward_kl", 1.0))
    rows = [TokenRow(str(i), group, i) for i in range(8)]
    trainer = DistillationTrainer(student, _arguments(bench, 1), rows, live, (1.0, 0.5))
    trainer.train()
    return [weakref.ref(student), weakref.ref(teacher), weakref.ref(trainer)]


def _scored(bench: Bench) -> list[weakref.ref]:
    """By a teacher that is loaded from its folder."""
    with tempfile.TemporaryDirectory(prefix="rankdistill-bench-") as folder:
        model = bench.build("0.5B")
        groups = _rows([bench.group(2, 256, 64, model)] * 2)
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        precision = "bfloat16" if bench.device == "cuda" else "float32"
        teacher = Model(folder, {}, Loading(precision))
        reader = Reader.load(teacher, groups, TeacherAccess(teacher, teacher))
        reader.logps(range(len(groups)))
    return [weakref.ref(model), weakref.ref(reader.model)]


def _rewarded(bench: Bench) -> list[weakref.ref]:
    model = bench.reward_model("0.5B")
    rewards(model, [bench.group(2, 256, 64, model)] * 2)
    return [weakref.ref(model)]


def _read(bench: Bench) -> list[weakref.ref]:
    model = bench.build("0.5B").requires_grad_(False)
    groups = [RankedGroup("0", bench.group(2, 256, 64, model), (1.0, 0.0), (0, 1))]
    reference_logps(groups, model, ReferenceConfig(bf16=bench.device == "cuda"))
    return [weakref.ref(model)]


def _trained(bench: Bench) -> list[weakref.ref]:
    model = bench.build("0.5B")
    trainer = _trainer(bench, model, [bench.group(2, 256, 64, model)] * 8, 1)
    trainer.train()
    return [weakref.ref(model), weakref.ref(trainer)]


def _held(bench: Bench) -> list[weakref.ref]:
    first, second = (bench.build("0.5B", seed).requires_grad_(False) for seed in (0, 1))
    entropy_and_divergence(first, second, [collate([bench.group(2, 256, 64, first)])])
    return [weakref.ref(first), weakref.ref(second)]


def ppo(bench: Bench) -> list[Claim]:
    """An iteration with each kind of advantage; the first ratio is 1 but for rounding."""
    claims = []
    for advantage in ("group", "gae"):
        with tempfile.TemporaryDirectory() as folder:
            trainer = ppo_trainer(bench, bench.build("0.5B"), advantage, folder)
            trainer.train()
        error = trainer.history[0]["first_ratio_error"]
        figure = f"{error:.1e}"
        claims.append(Claim.of(f"PPO ({advantage}): first ratio", figure, "<= 2e-2", error <= 2e-2))
        del trainer
        release()
    return claims


def ppo_trainer(bench: Bench, policy: Any, advantage: str, folder: str) -> Any:
    """Of one iteration: 4 responses of at most 64 tokens to 8 prompts, in steps of half of them."""
    from rankdistill.sample.sampler import SamplingOptions
    from rankdistill.sample.transformers import TransformersSampler
    from rankdistill.train.ppo.config import PPOConfig
    from rankdistill.train.ppo.trainer import PPOTrainer

    def reward(groups: Any) -> list[list[float]]:
        return [[float(sum(r["token_ids"]) % 7) for r in group["responses"]] for group in groups]

    prompts = [
        {"prompt_id": f"p{i}", "messages": [{"role": "user", "content": f"{i} 5 6"}]}
        for i in range(8)
    ]
    config = PPOConfig(
        output_dir=folder, prompts_per_rollout=8, prompts_per_step=4, advantage=advantage,
        max_kl=None, sampler_tolerance=1.0,
        mixed_precision="bf16" if bench.device == "cuda" else "no",
        sampling=SamplingOptions(4, 1.0, 1.0, 0, 8 if bench.tiny else 64, 0),
    )  # fmt: skip
    return PPOTrainer(policy, config, prompts, tokenizer(), reward, TransformersSampler())
