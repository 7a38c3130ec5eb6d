"""An engine of vLLM beside models on the card: `python -m rankdistill.bench gpu --with-vllm`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from rankdistill.bench.gpu import Claim
from rankdistill.bench.gpu.parts import NO_TIMES, Bench, tokenizer
from rankdistill.forward import bind
from rankdistill.models.model import Loading, Model
from rankdistill.sample.agreement import TAIL, gap_between
from rankdistill.sample.sampler import SamplingOptions
from rankdistill.sample.vllm import VLLMSampler

GAP = {"bfloat16": 0.05, "float32": 0.01}
"""Nats per token between an engine and a model of the same weights; TAIL times that at the 99th
percentile."""
TARGETS = {
    "engine, second start from one path": "<= 40 % of the first",
    "engine, started beside a model": "it starts",
    "engine, log-probabilities": "those of the model",
    "engine, reloaded with tied tables": "those of the model",
    "engine over two GPUs, closed": ">= 97 % free after 10 s",
    "engines, one per GPU": ">= 0.8 x their number",
}
START, BESIDE, FIRST, RELOADED, CLOSED, SPREAD = TARGETS


def engine(bench: Bench) -> list[Claim]:
    """Starts, swapped weights, and memory that is given back; needs vLLM, and minutes."""
    why = "add --with-vllm"
    if bench.with_vllm and find_spec("vllm") is not None:
        with tempfile.TemporaryDirectory(prefix="rankdistill-bench-") as folder:
            models = [_saved(bench, Path(folder, str(seed)), seed) for seed in (0, 1)]
            return [_starts(bench, models[0]), *_weights(bench, models), *_several(bench, models)]
    if bench.with_vllm:
        why = "vllm is not installed"
    return [Claim.untried(name, why, target) for name, target in TARGETS.items()]


def _saved(bench: Bench, folder: Path, seed: int) -> Model:
    precision = "bfloat16" if bench.device == "cuda" else "float32"
    bench.build("0.5B", seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return Model(str(folder), {}, Loading(precision))


@contextmanager
def _started(bench: Bench, model: Model, **options: Any) -> Iterator[tuple[VLLMSampler, float]]:
    """An engine, and the seconds of its start."""
    with VLLMSampler(dtype=model.loading.precision, **options) as sampler:
        started = time.monotonic()
        sampler.prepare(model, _prompts(bench, 1), _options(bench))
        yield sampler, time.monotonic() - started


def _prompts(bench: Bench, count: int) -> list[tuple[str, list[int]]]:
    size = 8 if bench.tiny else 256
    return [(f"p{i}", [(7 * i + k) % 250 + 3 for k in range(size)]) for i in range(count)]


def _options(bench: Bench) -> SamplingOptions:
    return SamplingOptions(4, 1.0, 1.0, 0, 4 if bench.tiny else 256, 0)


def _starts(bench: Bench, model: Model) -> Claim:
    """What vLLM has compiled is found again by the path of the model's shape."""
    if not bench.timed:
        return Claim.untried(START, NO_TIMES, TARGETS[START])
    took = []
    for _ in range(3):
        with _started(bench, model) as (_, seconds):
            took.append(seconds)
    told = ", ".join(f"{seconds:.0f} s" for seconds in took)
    return Claim.of(START, told, TARGETS[START], took[1] <= 0.4 * took[0])


def _weights(bench: Bench, models: list[Model]) -> list[Claim]:
    """An engine that is started while the first model is loaded, and then given the second."""
    held = bind(models[0].load_on_device())
    gib = held.num_parameters() * held.dtype.itemsize / 2**30
    claims = []
    with _started(bench, models[0]) as (sampler, seconds):
        told = f"{gib:.2f} GiB, {seconds:.0f} s"
        claims.append(Claim.of(BESIDE, told, TARGETS[BESIDE], True))
        for name, model in zip((FIRST, RELOADED), models, strict=True):
            loaded = held if name == FIRST else bind(model.load_on_device())
            claims.append(_agree(bench, name, sampler, model, loaded))
    return claims


def _agree(bench: Bench, name: str, sampler: VLLMSampler, model: Model, loaded: Any) -> Claim:
    options = _options(bench)
    pairs = [
        (ids, responses[0]["token_ids"][:-1])
        for (_, ids), (_, responses) in zip(
            _prompts(bench, 4),
            sampler.sample(model, _prompts(bench, 4), options, "student"),
            strict=True,
        )
    ]
    gap = gap_between(list(sampler.response_logps(model, pairs)), loaded, pairs)
    most = GAP[model.loading.precision]
    target = f"<= {most:g} nats per token, {TAIL * most:g} at the 99th percentile"
    rounded = gap.beyond(None, None, most) is None
    return Claim.of(name, f"{gap.mean:.1e}, {gap.p99:.1e}", target, rounded)


def _several(bench: Bench, models: list[Model]) -> list[Claim]:
    """What needs two GPUs or more."""
    gpus = torch.cuda.device_count() if bench.device == "cuda" else 0
    if gpus < 2 or not bench.timed:
        why = f"{gpus} GPUs"
        return [Claim.untried(name, why, TARGETS[name]) for name in (CLOSED, SPREAD)]
    with _started(bench, models[0], tensor_parallel=2):
        pass
    ends = time.monotonic() + 10
    while (free := _least_free(2)) < 0.97 and time.monotonic() < ends:
        time.sleep(0.1)
    took = {}
    for engines in (1, gpus):
        with _started(bench, models[0], data_parallel=engines) as (sampler, _):
            started = time.monotonic()
            list(sampler.sample(models[0], _prompts(bench, 4096), _options(bench), "student"))
            took[engines] = time.monotonic() - started
    ratio = took[1] / took[gpus]
    return [
        Claim.of(CLOSED, f"{free:.1%} free", TARGETS[CLOSED], free >= 0.97),
        Claim.of(SPREAD, f"{ratio:.1f} x with {gpus}", TARGETS[SPREAD], ratio >= 0.8 * gpus),
    ]


def _least_free(gpus: int) -> float:
    parts = (torch.cuda.mem_get_info(gpu) for gpu in range(gpus))
    return min(free / total for free, total in parts)
