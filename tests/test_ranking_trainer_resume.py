"""A run that was cut off and continued ends like one that was not."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal

import pytest
import torch
from accelerate import skip_first_batches
from ranking_trainer_data import TOKENIZER, config, logged, ragged_groups, trained, weights
from tiny_models import build_model
from transformers import TrainerCallback

from rankdistill import RankingTrainer
from rankdistill.objectives import DPO
from rankdistill.shell import ENDING, Terminated, terminable
from rankdistill.trainer.batches import EpochOrder, StepBatches
from rankdistill.trainer.checkpoints import last_checkpoint, owes_evaluation
from rankdistill.trainer.stopping import saves_when_stopped

ROWS = ragged_groups(10)


def arguments(folder, **settings):
    """Two epochs of four shuffled steps, the last of each with one prompt."""
    return config(
        folder, optim="adamw_torch_fused", learning_rate=1e-3, lr_scheduler_type="linear",
        warmup_steps=2, max_grad_norm=1.0, num_train_epochs=2, prompts_per_step=3,
        gradient_accumulation_steps=2, train_sampling_strategy="random", save_strategy="steps",
        save_steps=1, max_batch_tokens=100, **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return trained(build_model(), ROWS, arguments(folder), objective=DPO())


@pytest.mark.parametrize("step", [2, 4, 7])
def test_continued_run_ends_with_the_same_weights(tmp_path, unbroken, step):
    source = f"{unbroken.args.output_dir}/checkpoint-{step}"
    shutil.copytree(source, tmp_path / f"checkpoint-{step}")
    again = RankingTrainer(
        build_model(), arguments(tmp_path), ROWS, DPO(), processing_class=TOKENIZER
    )
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == unbroken.state.global_step == 8
    assert logged(again) == logged(unbroken)
    assert logged(again, "rank_accuracy") == logged(unbroken, "rank_accuracy")
    for name, value in weights(unbroken).items():
        assert torch.equal(weights(again)[name], value), name


def test_what_is_left_of_an_epoch_is_in_its_order_whoever_tells_the_loader(tmp_path):
    """Some versions of transformers tell the epoch to the loader that skips, which keeps it."""
    trainer = RankingTrainer(
        build_model(), arguments(tmp_path), ROWS, DPO(), processing_class=TOKENIZER
    )
    loader = trainer.get_train_dataloader()
    rest = skip_first_batches(loader, 3)
    trainer.state.epoch = 1.375
    EpochOrder().on_epoch_begin(
        trainer.args, trainer.state, trainer.control, train_dataloader=loader
    )
    orders = []
    for epoch in (0, 1):
        batches = StepBatches(len(ROWS), 3, accumulation=2, seed=trainer.args.seed)
        batches.set_epoch(epoch)
        orders.append([[ROWS[row]["prompt_id"] for row in batch] for batch in batches])
    left = [[group.prompt_id for group in batch.groups] for batch in rest]
    assert left == orders[1][3:] != orders[0][3:]
    assert any(type(c) is EpochOrder for c in trainer.callback_handler.callbacks)


def test_continues_from_the_last_complete_checkpoint(tmp_path, unbroken):
    for step in (2, 5, 6):
        source = f"{unbroken.args.output_dir}/checkpoint-{step}"
        shutil.copytree(source, tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-5" / "trainer_state.json").unlink()  # killed while it was written
    state = tmp_path / "checkpoint-6" / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    (tmp_path / "checkpoint-latest").mkdir()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    again = RankingTrainer(
        build_model(), arguments(tmp_path), ROWS, DPO(), processing_class=TOKENIZER
    )
    again.train(resume_from_checkpoint=True)
    assert logged(again) == logged(unbroken)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-8")


class Ask(TrainerCallback):
    """Sends this process a signal in the middle of a step, or two."""

    def __init__(self, number: int, step: int, times: int = 1) -> None:
        self.number, self.step, self.times = number, step, times

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step - 1:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_training_that_is_asked_to_stop_saves_its_step_and_goes_on_from_it(
    tmp_path, unbroken, number
):
    def trainer() -> RankingTrainer:
        how = dataclasses.replace(arguments(tmp_path), save_steps=50)
        return RankingTrainer(build_model(), how, ROWS, DPO(), processing_class=TOKENIZER)

    stopped, handlers = trainer(), [signal.getsignal(n) for n in ENDING]
    stopped.add_callback(Ask(number, 3))
    expected = Terminated if number == signal.SIGTERM else KeyboardInterrupt
    with terminable(), pytest.raises(expected), saves_when_stopped(stopped):
        stopped.train()
    assert [signal.getsignal(n) for n in ENDING] == handlers
    assert stopped.state.global_step == 3
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    again = trainer()
    again.train(resume_from_checkpoint=True)
    assert logged(again) == logged(unbroken)
    for name, value in weights(unbroken).items():
        assert torch.equal(weights(again)[name], value), name


def test_a_second_signal_stops_a_training_at_once(tmp_path):
    trainer = RankingTrainer(
        build_model(), arguments(tmp_path), ROWS, DPO(), processing_class=TOKENIZER
    )
    trainer.add_callback(Ask(signal.SIGINT, 3, times=2))
    with pytest.raises(KeyboardInterrupt), saves_when_stopped(trainer):
        trainer.train()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_a_signal_that_is_ignored_stays_ignored_while_a_model_trains(tmp_path):
    """As SIGINT is in a job that a shell started in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        trainer = RankingTrainer(
            build_model(), arguments(tmp_path), ROWS, DPO(), processing_class=TOKENIZER
        )
        trainer.add_callback(Ask(signal.SIGINT, 3))
        with saves_when_stopped(trainer):
            trainer.train()
        assert trainer.state.global_step == 8
    finally:
        signal.signal(signal.SIGINT, before)


def test_resume_without_a_checkpoint_starts_anew(tmp_path, unbroken):
    trainer = RankingTrainer(
        build_model(), arguments(tmp_path), ROWS, DPO(), processing_class=TOKENIZER
    )
    trainer.train(resume_from_checkpoint=True)
    assert logged(trainer) == logged(unbroken)
    assert last_checkpoint(tmp_path / "nowhere") is None


def evaluated(folder, on_start) -> RankingTrainer:
    """A trainer that evaluates after each epoch, and before the first if it is told so."""
    return RankingTrainer(
        build_model(), arguments(folder, eval_strategy="epoch", eval_on_start=on_start), ROWS,
        DPO(), processing_class=TOKENIZER, eval_dataset=ROWS[:3],
    )  # fmt: skip


@pytest.fixture(scope="module")
def unbroken_evaluations(tmp_path_factory) -> RankingTrainer:
    trainer = evaluated(tmp_path_factory.mktemp("evaluated"), on_start=True)
    trainer.train()
    return trainer


@pytest.mark.parametrize("step", [None, 2, 4, 6])
def test_an_evaluation_that_a_kill_cut_off_is_made_up_for(tmp_path, unbroken_evaluations, step):
    """Checkpoint 4 is of an epoch's last step, and the evaluation comes after it."""
    if step is not None:
        source = f"{unbroken_evaluations.args.output_dir}/checkpoint-{step}"
        shutil.copytree(source, tmp_path / f"checkpoint-{step}")
    assert owes_evaluation(tmp_path) == (step in (None, 4))
    again = evaluated(tmp_path, on_start=owes_evaluation(tmp_path))
    again.train(resume_from_checkpoint=True)
    assert logged(again, "eval_loss") == logged(unbroken_evaluations, "eval_loss")
    assert len(logged(again, "eval_loss")) == 3
