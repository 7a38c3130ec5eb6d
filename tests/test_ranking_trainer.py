"""RankingTrainer: a step is the mean over its prompts however it is split; the policy learns."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from ranking_trainer_data import (
    TOKENIZER,
    config,
    logged,
    ragged_groups,
    strictly_ranked,
    trained,
    weights,
)
from tiny_models import build_model
from torch.testing import assert_close

from rankdistill import RankingConfig, RankingTrainer
from rankdistill.errors import Diverged, UserError
from rankdistill.models import encode_prompt
from rankdistill.objectives import ObjectiveOutput
from rankdistill.trainer.batches import StepBatches
from rankdistill.trainer.modes import disable_dropout

CONF = Path(__file__).parents[1] / "conf"


def gpt2():
    """In float64 throughout: unlike RMSNorm, its LayerNorm computes in the model's type."""
    return build_model("gpt2", layers=2).double()


def rrhf_by_hand(model, rows, temperature: float = 1.0) -> torch.Tensor:
    """Mean RRHF loss per prompt from padded full logits, one candidate after the other."""
    losses = []
    for row in rows:
        prompt = encode_prompt(TOKENIZER, row["messages"])
        responses = [response["token_ids"] for response in row["responses"]]
        scores = [response["score"] for response in row["responses"]]
        width = len(prompt) + max(map(len, responses))
        ids = torch.tensor(
            [[*prompt, *r, *[0] * (width - len(prompt) - len(r))] for r in responses]
        )
        real = torch.tensor([[i < len(prompt) + len(r) for i in range(width)] for r in responses])
        logits = model(input_ids=ids, attention_mask=real.long()).logits / temperature
        token_logps = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        p = [
            token_logps[i, len(prompt) - 1 : len(prompt) - 1 + len(r)].mean()
            for i, r in enumerate(responses)
        ]
        loss = sum(
            (p[i] - p[j]).clamp(min=0)
            for i in range(len(p))
            for j in range(len(p))
            if scores[i] < scores[j]
        )
        best = [p[i] for i in range(len(p)) if scores[i] == max(scores)]
        losses.append(loss - sum(best) / len(best))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("architecture", "dtype", "tolerance"),
    [("gpt2", torch.float64, 1e-8), ("llama", torch.float32, 1e-4)],
)
def test_loss_curve_of_a_plain_pytorch_loop(tmp_path, architecture, dtype, tolerance):
    rows, temperature = ragged_groups(18), 0.7
    args = config(
        tmp_path, optim="adamw_torch_fused", learning_rate=3e-3, max_grad_norm=1.0,
        per_device_train_batch_size=4, max_batch_tokens=90, temperature=temperature,
    )  # fmt: skip
    ours = logged(trained(build_model(architecture).to(dtype), rows, args))

    model = build_model(architecture).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    theirs = []
    for start in range(0, 18, 4):
        loss = rrhf_by_hand(model, rows[start : start + 4], temperature)
        theirs.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    assert len(ours) == 5
    assert ours == pytest.approx(theirs, rel=max(tolerance, 1e-6))  # the log is in float32
    assert theirs[-1] != pytest.approx(theirs[0], rel=1e-3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One step that is not split."""
    folder = tmp_path_factory.mktemp("whole")
    return trained(gpt2(), ragged_groups(8), config(folder, per_device_train_batch_size=8))


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize(
    "split",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 3},
        {"prompts_per_step": 8, "gradient_accumulation_steps": 3},
        {"per_device_train_batch_size": 8, "max_batch_tokens": 1},
        {"per_device_train_batch_size": 8, "max_batch_tokens": 150},
        {"per_device_train_batch_size": 8, "gradient_checkpointing": True},
    ],
)
def test_how_a_step_is_split_changes_nothing(tmp_path, whole, split, layout):
    parts = trained(gpt2(), ragged_groups(8), config(tmp_path, layout=layout, **split))
    assert parts.state.global_step == whole.state.global_step == 1
    assert_close(weights(parts), weights(whole), rtol=0, atol=1e-12)
    assert logged(parts) == pytest.approx(logged(whole), rel=1e-6)
    for name in ("rank_accuracy", "margin", "rank_loss"):
        assert logged(parts, name) == pytest.approx(logged(whole, name), rel=1e-9)
    assert not torch.equal(whole.model.lm_head.weight, gpt2().lm_head.weight)


def test_tail_of_an_epoch_is_a_mean_over_its_own_prompts(tmp_path):
    rows = ragged_groups(7)
    args = config(tmp_path, learning_rate=0.0, per_device_train_batch_size=2,
                  gradient_accumulation_steps=2)  # fmt: skip
    trainer = trained(gpt2(), rows, args)
    expected = [rrhf_by_hand(gpt2(), part).item() for part in (rows[:4], rows[4:])]
    assert logged(trainer) == pytest.approx(expected, rel=1e-6)
    assert logged(trainer, "train_loss") == pytest.approx([sum(expected) / 2], rel=1e-6)


def test_dataloader_drop_last_leaves_the_tail_out(tmp_path):
    args = config(tmp_path, per_device_train_batch_size=4, dataloader_drop_last=True)
    assert trained(gpt2(), ragged_groups(7), args).state.global_step == 1


def test_every_prompt_is_dealt_once_a_step_whatever_the_processes():
    for processes, accumulation, prompts in [(1, 1, 10), (2, 1, 10), (3, 2, 10), (4, 2, 3)]:
        dealt = [
            list(StepBatches(prompts, 4, processes=processes, process=process,
                             accumulation=accumulation, seed=1))
            for process in range(processes)
        ]  # fmt: skip
        alone = list(StepBatches(prompts, 4, seed=1))
        assert {len(batches) for batches in dealt} == {len(alone) * accumulation}
        for step, expected in enumerate(alone):
            of_step = slice(step * accumulation, (step + 1) * accumulation)
            shares = [batch for batches in dealt for batch in batches[of_step]]
            assert sorted(index for share in shares for index in share) == sorted(expected)
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_order_differs_between_epochs_and_follows_the_seed():
    batches = StepBatches(20, 20, seed=3)
    first = list(batches)
    batches.set_epoch(1)
    assert list(batches) != first
    assert list(StepBatches(20, 20, seed=4)) == list(batches) != list(StepBatches(20, 20, seed=5))


@pytest.mark.parametrize(("seeds", "expected"), [({}, 3), ({"data_seed": 5}, 5)])
def test_prompts_are_drawn_by_the_seed_of_the_data_where_there_is_one(tmp_path, seeds, expected):
    args = config(
        tmp_path, train_sampling_strategy="random", per_device_train_batch_size=2, seed=3, **seeds
    )
    trainer: Any = RankingTrainer(gpt2(), args, ragged_groups(8), processing_class=TOKENIZER)
    drawn = list(trainer.get_train_dataloader().batch_sampler)
    assert drawn == list(StepBatches(8, 2, seed=expected))


def test_a_step_within_the_budget_is_one_forward_pass(tmp_path):
    args = config(tmp_path, per_device_train_batch_size=4)
    trainer: Any = RankingTrainer(gpt2(), args, ragged_groups(8), processing_class=TOKENIZER)
    losses, passes = trainer.losses, []
    trainer.losses = lambda model, rows: passes.append(len(rows)) or losses(model, rows)
    trainer.train()
    assert passes == [4, 4]


def test_what_fits_a_step_is_looked_for_among_the_next_clusters_of_four_steps():
    def steps(pairs: int) -> list[list[int]]:
        clusters = ["one", *(f"pair {i // 2}" for i in range(2 * pairs)), "also one"]
        return list(StepBatches(2 * pairs + 2, 2, clusters=clusters))

    assert steps(7)[:2] == [[0, 15], [1, 2]]
    assert steps(8)[:2] == [[0, 1], [2, 17]]


def test_clusters_share_a_step_and_every_prompt_is_still_dealt_once():
    clusters = [f"base {index // 2}" for index in range(22)] + ["alone", "alone too"]
    for seed in range(20):
        steps = list(StepBatches(24, 4, seed=seed, clusters=clusters))
        assert sorted(index for step in steps for index in step) == list(range(24))
        assert [len(step) for step in steps] == [4] * 6
        for pair in range(11):
            assert sum(bool({2 * pair, 2 * pair + 1} & set(step)) for step in steps) == 1
    assert steps != list(StepBatches(24, 4, seed=seed + 1, clusters=clusters))
    # A cluster that is longer than a step is cut, and nothing is lost.
    cut = list(StepBatches(5, 2, seed=0, clusters=["one"] * 5))
    assert sorted(index for step in cut for index in step) == list(range(5))


def test_group_by_cluster_puts_both_sides_of_a_request_into_one_step(tmp_path):
    rows = [{**row, "cluster": f"request {i // 2}"} for i, row in enumerate(ragged_groups(8))]
    args = config(tmp_path, per_device_train_batch_size=2,
                  train_sampling_strategy="group_by_cluster")  # fmt: skip
    trainer = RankingTrainer(gpt2(), args, rows, processing_class=TOKENIZER)
    steps = [[row.cluster for row in batch.groups] for batch in trainer.get_train_dataloader()]
    assert all(one == other for one, other in steps)
    assert sorted(one for one, _ in steps) == [f"request {i}" for i in range(4)]
    with pytest.raises(UserError, match="group_by_cluster"):
        config(tmp_path, train_sampling_strategy="group_by_length")


def test_evaluate_means_over_prompts(tmp_path):
    rows, other = ragged_groups(7), ragged_groups(3, seed=5)
    trainer = RankingTrainer(
        gpt2(), config(tmp_path, per_device_eval_batch_size=4, max_batch_tokens=60),
        rows, processing_class=TOKENIZER, eval_dataset=rows,
    )  # fmt: skip
    result = trainer.evaluate()
    assert result["eval_loss"] == pytest.approx(rrhf_by_hand(gpt2(), rows).item(), rel=1e-9)
    assert result["eval_loss"] == pytest.approx(
        result["eval_rank_loss"] + result["eval_sft_loss"], rel=1e-9
    )
    loss = trainer.evaluate(other)["eval_loss"]
    assert loss == pytest.approx(rrhf_by_hand(gpt2(), other).item(), rel=1e-9)
    named = trainer.evaluate({"b": other, "a": rows})
    assert named["eval_b_loss"] == pytest.approx(loss, rel=1e-9)
    assert named["eval_a_loss"] == pytest.approx(result["eval_loss"], rel=1e-9)


def test_several_evaluation_sets_and_the_best_checkpoint(tmp_path):
    rows = ragged_groups(6)
    args = config(
        tmp_path, num_train_epochs=2, eval_strategy="epoch", save_strategy="epoch",
        per_device_train_batch_size=3, load_best_model_at_end=True,
        metric_for_best_model="eval_seen_rank_accuracy", greater_is_better=True,
    )  # fmt: skip
    trainer = trained(gpt2(), rows, args, eval_dataset={"seen": rows, "fresh": ragged_groups(4, 9)})
    assert trainer.state.best_metric == max(logged(trainer, "eval_seen_rank_accuracy"))
    assert len(logged(trainer, "eval_fresh_loss")) == 2


def test_the_policy_learns_the_ranking(tmp_path):
    rows = ragged_groups(6, seed=2)
    for row in rows:
        for place, response in enumerate(row["responses"]):
            response["score"] = -float(place)
    args = config(tmp_path, optim="adamw_torch_fused", learning_rate=3e-3, num_train_epochs=30,
                  per_device_train_batch_size=6)  # fmt: skip
    trainer = RankingTrainer(build_model("qwen3"), args, rows, processing_class=TOKENIZER,
                             eval_dataset=rows)  # fmt: skip
    before = trainer.evaluate()["eval_rank_accuracy"]
    trainer.train()
    assert before < 0.7
    assert trainer.evaluate()["eval_rank_accuracy"] > 0.95
    assert trainer.state.total_flos > 0


def test_a_training_of_one_step_learns(tmp_path):
    """A warm-up's first step has no learning rate, and of one step it would be the last too."""
    model, rows = build_model(), strictly_ranked(2)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    args = config(tmp_path, prompts_per_step=2, warmup_steps=0.1, num_train_epochs=1)
    trainer = trained(model, rows, args)
    assert trainer.state.global_step == 1
    assert any(not torch.equal(before[n], weight) for n, weight in model.named_parameters())
    steps = [args.get_warmup_steps(total) for total in (1, 2, 10, 11)]
    assert steps == [0, 1, 1, 2]
    assert RankingConfig(str(tmp_path), warmup_steps=5).get_warmup_steps(4) == 3


def test_dropout_is_off(tmp_path):
    model = gpt2()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    trainer = RankingTrainer(model, config(tmp_path), ragged_groups(2), processing_class=TOKENIZER)
    trainer.model.train()
    ids = torch.arange(3, 30)[None]
    assert_close(trainer.model(ids).logits, gpt2()(ids).logits)

    llama = build_model()
    llama.model.layers[0].self_attn.attention_dropout = 0.3
    disable_dropout(llama)
    assert llama.model.layers[0].self_attn.attention_dropout == 0.0


def test_token_counts_and_a_path_as_the_model(tmp_path, tiny_dir):
    rows = ragged_groups(3)
    args = config(tmp_path, include_num_input_tokens_seen=True, per_device_train_batch_size=3)
    trainer = RankingTrainer(str(tiny_dir), args, rows)
    trainer.train()
    prompts = sum(len(encode_prompt(TOKENIZER, row["messages"])) for row in rows)
    responses = sum(len(r["token_ids"]) for row in rows for r in row["responses"])
    assert logged(trainer, "num_input_tokens_seen")[-1] == prompts + responses
    layers = [p for name, p in trainer.model.named_parameters() if "embed_tokens" not in name]
    flops = 6 * sum(p.numel() for p in layers) * (prompts + responses)
    assert trainer.state.total_flos == flops


@dataclass(frozen=True)
class NotFiniteAbove:
    """Infinite loss, or gradient only, for prompts with a score above `score`."""

    score: float = 10.0
    infinite_loss: bool = True
    needs_reference: bool = False

    def __call__(self, candidates):
        losses = []
        for logp, scores in zip(candidates.logps[:, 0], candidates.scores, strict=True):
            if scores.max() <= self.score:
                losses.append(-logp / 100)
            elif self.infinite_loss:
                losses.append(logp * torch.inf)
            else:  # the square root of 0 has an infinite gradient
                losses.append((logp - logp.detach()).sqrt())
        return ObjectiveOutput(torch.stack(losses), {})


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_stops_where_it_is_not_finite_and_keeps_the_checkpoint(tmp_path, what):
    rows = ragged_groups(8)
    rows[5]["responses"][0]["score"] = 11.0
    args = config(tmp_path, per_device_train_batch_size=2, save_strategy="steps", save_steps=1,
                  save_total_limit=1)  # fmt: skip
    model = gpt2()
    trainer = RankingTrainer(model, args, rows, NotFiniteAbove(infinite_loss=what == "loss"),
                             processing_class=TOKENIZER)  # fmt: skip
    with pytest.raises(Diverged) as stopped:
        trainer.train()
    message = str(stopped.value)
    named = "p5:" if what == "loss" else "p4, p5:"
    assert f"The {what} is not finite at step 3, on the prompts {named}" in message
    assert message.endswith(f"continue from {tmp_path}/checkpoint-2.")
    assert all(p.isfinite().all() for p in model.parameters())
    saved = type(model).from_pretrained(tmp_path / "checkpoint-2")
    assert_close(saved.lm_head.weight.double(), model.lm_head.weight.detach())


def test_a_reduced_loss_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Reduced:
        needs_reference: bool = False

        def __call__(self, candidates):
            return ObjectiveOutput(candidates.logps.mean(), {})

    with pytest.raises(UserError, match=r"Reduced returned a loss of shape \(\) for 2 prompts"):
        trained(gpt2(), ragged_groups(2), config(tmp_path), objective=Reduced())


@pytest.mark.parametrize("name", sorted(path.stem for path in CONF.glob("objective/*.yaml")))
def test_every_objective_moves_every_matrix(tmp_path, name):
    objective = instantiate(OmegaConf.load(CONF / "objective" / f"{name}.yaml"))
    args = config(tmp_path, per_device_train_batch_size=4, learning_rate=0.05)
    trainer = trained(build_model(), strictly_ranked(8), args, objective=objective)
    assert len(logged(trainer)) == 2 and all(map(isfinite, logged(trainer)))
    before, after = build_model().state_dict(), weights(trainer)
    matrices = [name for name in after if after[name].dim() > 1]
    assert matrices and not [name for name in matrices if torch.equal(after[name], before[name])]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"layout": "sharde"}, "did you mean 'shared'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"max_batch_tokens": 0}, "max_batch_tokens is 0"),
        ({"prompts_per_step": 0}, "prompts_per_step is 0"),
        ({"train_sampling_strategy": "group_by_length"}, "is none of random, sequential"),
    ],
)
def test_settings_out_of_range(tmp_path, setting, message):
    with pytest.raises(UserError, match=message):
        config(tmp_path, **setting)


def test_defaults(tmp_path):
    args = RankingConfig(str(tmp_path))
    assert args.layout == "shared" and args.report_to == [] and not args.bf16
    assert args.optim == "adamw_torch_fused" and not args.remove_unused_columns
    assert args.use_cpu == (not torch.accelerator.is_available())
    assert RankingConfig(str(tmp_path), prompts_per_step=30).per_device_train_batch_size == 30
