"""Sampling K responses to one prompt: `TransformersSampler` and transformers' `generate`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from rankdistill.bench.flops import Cost, Work
from rankdistill.bench.results import ResultRow, Unequal, take_turns
from rankdistill.bench.settings import BenchSettings, Point, random_group
from rankdistill.console import heading, result
from rankdistill.sample.sampler import SamplingOptions, response_seed
from rankdistill.sample.transformers import decode

GENERATE = "generate(num_return_sequences=K)"
OURS = "TransformersSampler"
PROMPT_ID = "bench"
SEED = 0


def run(settings: BenchSettings) -> list[ResultRow]:
    """The row of the benchmark. No response ends early, so both ways write as many tokens.

    Raises:
        UserError: the model has too few positions.
        Unequal: the sampler's tokens are not those that `generate` writes with the same noise.
    """
    heading("sample", f"sampling with {settings.model}")
    model, _ = settings.load()
    # Its own EOS would end rows that ours, told of none, goes on with.
    model.generation_config.eos_token_id = None
    point = settings.at(K=8, P=512, R=32)
    prompt = list(random_group(point, model).prompt)
    _check_tokens(model, prompt, point)
    ways = {
        GENERATE: lambda: _generate(model, prompt, point),
        OURS: lambda: _ours(model, prompt, point),
    }
    turns = take_turns(ways, settings.rounds)
    row = ResultRow(
        benchmark="sample",
        what="sampling",
        point=f"K={point.K} P={point.P}, {point.R} new tokens",
        theirs=GENERATE,
        ours=OURS,
        their_turns=turns[GENERATE],
        our_turns=turns[OURS],
        limit=_limit(Cost.of(model), point),
        tokens=point.K * point.R,
    )
    result(f"{row.what}, {row.point}: {row.ratio:.2f}x {GENERATE}")
    return [row]


def _ours(model: Any, prompt: list[int], point: Point) -> list[list[int]]:
    """What TransformersSampler does for a batch of one prompt."""
    options = SamplingOptions(
        responses_per_prompt=point.K,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_response_tokens=point.R,
        seed=SEED,
    )
    return decode(model, [(PROMPT_ID, prompt)], options, ends=())[0]


def _generate(model: Any, prompt: list[int], point: Point) -> Tensor:
    config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        num_return_sequences=point.K,
        max_new_tokens=point.R,
        pad_token_id=0,
    )
    ids = torch.tensor([prompt], device=model.device)
    return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)


class _Race(LogitsProcessor):
    """Makes the most likely token the one that the sampler's noise chooses.

    The winner of an exponential race has the largest ``log p - log noise``.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        seeds = [response_seed(SEED, PROMPT_ID, row) for row in range(rows)]
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        noise = torch.stack(
            [
                torch.empty_like(row).exponential_(generator=generator)
                for row, generator in zip(scores, self._generators, strict=True)
            ]
        )
        return scores.log_softmax(-1) - noise.log()


def _check_tokens(model: Any, prompt: list[int], point: Point) -> None:
    """`generate` on K copies of the prompt, given the sampler's noise, writes the same tokens."""
    config = GenerationConfig(do_sample=False, max_new_tokens=point.R, pad_token_id=0)
    ids = torch.tensor([prompt] * point.K, device=model.device)
    whole = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        logits_processor=LogitsProcessorList([_Race(point.K, model.device)]),
    )
    if whole[:, len(prompt) :].tolist() != _ours(model, prompt, point):
        raise Unequal(
            f"sampling, {point}: generate, given the sampler's noise, writes other tokens than "
            "TransformersSampler, so their times do not compare."
        )


def _limit(cost: Cost, point: Point) -> float:
    """The ratio of the FLOPs: the prompt K times or once, and the same steps after it."""
    K, P, steps = point.K, point.P, point.R - 1
    after = Work(K * steps, K * steps, K * steps * (P + point.R / 2))

    def flops(prompts: int) -> float:
        pairs = prompts * P**2 / 2 + after.pairs
        work = Work(prompts * P + after.tokens, prompts + after.rows, pairs)
        return work.inference(cost)

    return flops(K) / flops(1)
