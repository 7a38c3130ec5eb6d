"""A step that runs out of memory is repeated with a smaller budget, which changes no gradient."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from ranking_trainer_data import TOKENIZER, config, logged, ragged_groups, weights
from test_ranking_trainer import gpt2
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from rankdistill import RankingTrainer
from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.objectives import RRHF
from rankdistill.trainer.batches import RankedBatch
from rankdistill.trainer.steps import (
    BeforeStep,
    StepTrainer,
    Watch,
    anyone,
    random_state,
    refuse,
    set_random_state,
    smaller_budget,
)


class Allocator(TorchDispatchMode):
    """Refuses tensors of more bytes than a limit; remembers the largest that it gave."""

    def __init__(self, limit: float = float("inf")) -> None:
        super().__init__()
        self.limit, self.largest, self.refused = limit, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            size = made.numel() * made.element_size()
            if size > self.limit:
                self.refused += 1
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} B.")
            self.largest = max(self.largest, size)
        return made


SMALL = 6000
"""Bytes: more than a random state takes, less than the activations of any group."""


class Noisy(RRHF):
    """Draws a number for each forward pass."""

    def __call__(self, candidates: Any) -> Any:
        output = super().__call__(candidates)
        return replace(output, loss=output.loss * torch.rand(()))


def trainer_of(folder, objective: Any = None, **settings: Any) -> RankingTrainer:
    args = config(folder, prompts_per_step=8, **settings)
    rows = ragged_groups(16)
    return RankingTrainer(gpt2(), args, rows, objective, processing_class=TOKENIZER)


def test_the_step_is_repeated_in_parts_and_nothing_else_changes(tmp_path, capsys):
    whole = trainer_of(tmp_path)
    with Allocator() as free:
        whole.train()
    assert whole.memory_figures == {}
    parts = trainer_of(tmp_path)
    with Allocator(0.7 * free.largest) as tight:
        parts.train()
    assert tight.refused == 1 and parts.state.global_step == 2
    # The second step is split from the start.
    assert parts.memory_figures == {"max_batch_tokens": parts.args.max_batch_tokens}
    assert parts.args.max_batch_tokens < 4096
    assert capsys.readouterr().out.count("out of memory: the step is repeated") == 1
    assert_close(weights(parts), weights(whole), rtol=0, atol=1e-12)
    for name in ("loss", "rank_accuracy", "rank_loss"):
        assert logged(parts, name) == pytest.approx(logged(whole, name), rel=1e-6)


def test_random_numbers_are_drawn_again(tmp_path):
    """Memory runs out in the last backward pass, after numbers were drawn."""
    refused = trainer_of(tmp_path, Noisy())
    backward, calls = refused.accelerator.backward, []

    def once(loss: torch.Tensor, **options: Any) -> None:
        calls.append(loss)
        backward(loss, **options)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    refused.accelerator.backward = once
    torch.manual_seed(0)
    refused.train()
    given = trainer_of(tmp_path, Noisy(), max_batch_tokens=refused.args.max_batch_tokens)
    torch.manual_seed(0)
    given.train()
    assert logged(refused) == logged(given)
    assert_close(weights(refused), weights(given), rtol=0, atol=0)


def test_an_accelerator_draws_its_own_random_numbers_again(monkeypatch):
    its = torch.arange(3, dtype=torch.uint8)
    put: dict[torch.device, torch.Tensor] = {}
    module = SimpleNamespace(
        get_rng_state=lambda device: its,
        set_rng_state=lambda state, device: put.update({device: state}),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    gpu = torch.device("cuda", 1)
    torch.manual_seed(3)
    states = random_state(gpu)
    drawn = torch.rand(4)
    set_random_state(gpu, states)
    assert torch.equal(torch.rand(4), drawn) and put == {gpu: its}
    for device in ("cpu", "meta"):
        set_random_state(torch.device(device), random_state(torch.device(device)))
    assert len(put) == 1


@pytest.mark.parametrize(("here", "others"), [(False, 0), (True, 0), (False, 1), (True, 1)])
def test_where_one_of_two_processes_is_out_of_memory_both_repeat(here, others):
    accelerator = SimpleNamespace(num_processes=2, reduce=lambda mine, reduction: mine + others)
    trainer = SimpleNamespace(accelerator=accelerator, args=SimpleNamespace(device="cpu"))
    assert anyone(trainer, here) == (here or others > 0)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_pass_that_others_wait_for_is_ended_without_prompts(tmp_path, monkeypatch, processes):
    """DDP exchanges gradients in a step's last pass, which is the one that ran out of memory."""
    monkeypatch.setattr(Accelerator, "num_processes", processes)
    passes: dict[str, list[tuple[int, bool]]] = {"refused": [], "given": []}

    def train(name: str, **settings: Any) -> RankingTrainer:
        trainer: Any = trainer_of(tmp_path, **settings)
        losses = trainer.losses

        def noisy(model: Any, rows: Any) -> torch.Tensor:
            passes[name].append((len(rows), trainer.accelerator.sync_gradients))
            found = losses(model, rows) * torch.rand(())  # as dropout draws, for no prompts too
            if name == "refused" and len(passes[name]) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return found

        trainer.losses = noisy
        torch.manual_seed(0)
        trainer.train()
        return trainer

    refused = train("refused")
    given = train("given", **refused.memory_figures)
    ended = [(8, True), (0, True)][:processes]
    assert passes["refused"] == [*ended, *passes["given"]]
    assert_close(weights(refused), weights(given), rtol=0, atol=0)
    assert logged(refused) == logged(given)


def test_what_is_logged_counts_a_pass_that_is_repeated_once(tmp_path):
    whole = trainer_of(tmp_path)
    whole.train()
    refused: Any = trainer_of(tmp_path, max_batch_tokens=200)
    losses, passes = refused.losses, []

    def second_fails(model: Any, rows: Any) -> torch.Tensor:
        passes.append(len(rows))
        if len(passes) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return losses(model, rows)

    refused.losses = second_fails
    refused.train()
    assert 1 < passes[0] < 8
    for name in ("loss", "rank_loss", "sft_loss"):
        assert logged(refused, name) == pytest.approx(logged(whole, name), rel=1e-6)


def test_gradients_that_are_dropped_hold_no_memory():
    layer = torch.nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    args = SimpleNamespace(device=torch.device("cpu"))
    BeforeStep(SimpleNamespace(args=args, adds_to=(), model_wrapped=layer)).restore()
    assert layer.weight.grad is None and layer.bias.grad is None


def test_where_others_exchange_gradients_already_the_step_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    trainer: Any = trainer_of(tmp_path)

    def refused(loss: torch.Tensor, **_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer.accelerator.backward = refused
    with pytest.raises(UserError, match="cannot repeat it together"):
        trainer.train()


def rows_of(*lengths: int) -> list[Any]:
    """Rows of a prompt of 3 tokens and a response of so many."""
    return [
        SimpleNamespace(prompt_id="p", tokens=TokenGroup([3] * 3, [[4] * length]))
        for length in lengths
    ]


def one_of_two(others: list[int], budget: int) -> Any:
    """A trainer as far as its step is concerned, and what the other process tells of its own."""

    def gather(mine: torch.Tensor) -> torch.Tensor:
        return torch.cat([mine, torch.tensor(others).view(-1, *mine.shape[1:])])

    return SimpleNamespace(
        accelerator=SimpleNamespace(num_processes=2, gather=gather), layout="shared", weight=len,
        args=SimpleNamespace(device="cpu", max_batch_tokens=budget, output_dir="absent"),
        state=SimpleNamespace(global_step=6),
    )  # fmt: skip


def test_a_step_is_of_all_processes_and_each_has_as_many_passes_as_the_one_with_most():
    trainer = one_of_two([5, 1, 3], 20)
    batches = [RankedBatch(rows_of(7, 7, 7)), RankedBatch(rows_of(2))]
    assert StepTrainer._get_num_items_in_batch(trainer, batches, torch.device("cpu")) == 4 + 5
    assert [[len(part) for part in batch.parts] for batch in batches] == [[2, 1], [1, 0, 0]]
    again = one_of_two([4], 10)
    StepTrainer._split_anew(again, batches[0])
    assert [len(part) for part in batches[0].parts] == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("others", "given", "budget"), [([17, 1], 30, 10), ([35, 1], 36, 17), ([17, 1], 17, 8)]
)
def test_the_budget_is_half_of_the_largest_pass_of_any_process(others, given, budget, capsys):
    found = smaller_budget(one_of_two(others, given), [[0, 1], [2]], rows_of(7, 8, 1))
    assert found == budget and isinstance(found, int)
    assert f"max_batch_tokens={budget} in place of {given}," in capsys.readouterr().out


def test_one_prompt_at_a_time_is_too_much_only_where_no_process_has_two():
    assert smaller_budget(one_of_two([30, 2], 40), [[0], [1]], rows_of(7, 8)) == 15
    with pytest.raises(UserError, match=r"Step 7 ran out .* \(12 tokens at most\)"):
        smaller_budget(one_of_two([12, 1], 40), [[0], [1]], rows_of(7, 8))


@pytest.mark.parametrize(("given", "advised"), [(4096, 2048), (1001, 500), (1, 1)])
def test_a_step_that_cannot_be_repeated_names_half_of_the_budget(given, advised):
    told = rf"Step 7 ran out .* with max_batch_tokens={advised} \(of this stage\).* the start"
    with pytest.raises(UserError, match=told):
        refuse(one_of_two([], given))


def test_one_group_too_many_and_accumulated_steps_are_told(tmp_path):
    whole = trainer_of(tmp_path)
    with Allocator(SMALL), pytest.raises(UserError, match="one prompt and its responses at a time"):
        whole.train()
    accumulated = trainer_of(tmp_path, gradient_accumulation_steps=2)
    told = r"Step 1 ran out of memory.*max_batch_tokens=2048.*continues from the start"
    with Allocator(SMALL), pytest.raises(UserError, match=told):
        accumulated.train()


@pytest.mark.parametrize(
    ("error", "out"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED."), True),
        (RuntimeError("shapes do not fit"), False),
    ],
)
def test_what_running_out_of_memory_is(error, out):
    """CPUs and cuDNN have no class of error for it."""
    watch = Watch()
    with nullcontext() if out else pytest.raises(RuntimeError, match="shapes"), watch:
        raise error
    assert watch.ran_out == out


def test_other_errors_are_not_taken_for_memory(tmp_path):
    trainer: Any = trainer_of(tmp_path)

    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    trainer.losses = broken
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trainer.train()
