"""PPO wins where it has to, and only there; what it logs; how it ends when something is wrong."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from ppo_task import WANTED, config, policy, prompts, share_of_wanted, trainer
from tiny_models import build_model

from rankdistill.errors import Diverged, UserError
from rankdistill.models import Loading
from rankdistill.sample.agreement import Gap
from rankdistill.sample.transformers import TransformersSampler
from rankdistill.sample.vllm import VLLMSampler
from rankdistill.train.ppo.losses import KLController
from rankdistill.train.ppo.rollout import check_agreement
from rankdistill.train.reward.model import load_reward_model

ITERATIONS = 18


def scores(run: Any) -> list[float]:
    return [row["score"] for row in run.history]


def wins(run: Any) -> bool:
    end = run.history[-3:]
    return (
        scores(run)[0] < 0.3
        and fmean(row["score"] for row in end) > 0.8
        and max(row["kl"] for row in run.history) < 2.0
        and all(row.get("explained_variance", 1.0) > 0.5 for row in end)
    )


def test_a_training_of_another_precision_may_have_come_before(tmp_path):
    AcceleratorState._reset_state()
    Accelerator(mixed_precision="bf16", cpu=True)
    assert trainer(tmp_path, epochs=1).accelerator.mixed_precision == "no"


@pytest.fixture(scope="module")
def with_critic(tmp_path_factory):
    run = trainer(tmp_path_factory.mktemp("critic"), epochs=ITERATIONS)
    run.train()
    return run


def test_wins_where_it_has_to(with_critic):
    assert wins(with_critic), with_critic.history[-1]


def test_a_zeroed_critic_is_worse(with_critic, tmp_path):
    """Its values stay 0, so how easy a prompt is goes into the advantages as noise."""
    run = trainer(tmp_path, epochs=ITERATIONS, value_weight=0.0)
    run.train()
    assert fmean(scores(run)[-3:]) < fmean(scores(with_critic)[-3:]) - 0.2
    assert all(row["explained_variance"] == 0 for row in run.history)


def test_group_advantages_win_without_a_critic(tmp_path):
    run = trainer(tmp_path, epochs=ITERATIONS, advantage="group")
    run.train()
    assert wins(run) and "explained_variance" not in run.history[0]
    assert run.accelerator.unwrap_model(run.model).critic is None


def test_falls_with_the_reward_turned_round(tmp_path):
    def turned(groups):
        return [[-score for score in row] for row in share_of_wanted(groups)]

    run = trainer(tmp_path, turned, epochs=10)
    run.train()
    assert -fmean(scores(run)[-3:]) < 0.6 * -scores(run)[0]


@pytest.mark.slow
@pytest.mark.parametrize("advantage", ["gae", "group"])
def test_four_of_five_seeds_win(tmp_path, advantage):
    runs = [
        trainer(tmp_path / str(seed), epochs=ITERATIONS, seed=seed, advantage=advantage)
        for seed in range(5)
    ]
    for run in runs:
        run.train()
    assert sum(map(wins, runs)) >= 4, [scores(run)[-1] for run in runs]


def test_the_first_ratio_is_one_and_the_figures_are_those_of_the_rollout(with_critic):
    first = with_critic.history[0]
    assert all(row["first_ratio_error"] < 1e-4 for row in with_critic.history)
    assert first["kl"] == pytest.approx(0.0, abs=1e-6)  # the policy is the reference
    assert first["entropy"] == pytest.approx(math.log(259), abs=0.1)  # it is nearly uniform
    assert first["score"] == pytest.approx(len(WANTED) / 259, abs=0.05)
    assert all(row["kl_k3"] >= 0 and row["sampler_gap"] < 1e-4 for row in with_critic.history)
    assert [row["step"] for row in with_critic.history] == [4.0 * (i + 1) for i in range(18)]
    assert with_critic.history[-1]["kl"] == pytest.approx(with_critic.history[-1]["kl_k3"], rel=0.5)


def test_a_separate_critic_leaves_the_policy_alone(tmp_path):
    build_model("llama", layers=2, seed=5).save_pretrained(tmp_path / "backbone")
    critic = load_reward_model(str(tmp_path / "backbone"), new_head=True)
    before = {name: p.detach().clone() for name, p in critic.named_parameters()}
    run = trainer(tmp_path, epochs=2, critic=critic)
    run.train()
    changed = [n for n, p in critic.named_parameters() if not torch.equal(p, before[n])]
    assert "score.weight" in changed and len(changed) > 10
    assert not hasattr(run.policy, "critic")


def test_layouts_budgets_and_minibatches_split_alike(tmp_path):
    """The weights after an iteration do not depend on how its steps are computed."""
    ends = []
    for name, options in {
        "shared": {}, "packed": {"layout": "packed"}, "padded": {"layout": "padded"},
        "token by token": {"max_batch_tokens": 1}, "recomputed": {"gradient_checkpointing": True},
    }.items():  # fmt: skip
        run = trainer(tmp_path / name, epochs=1, learning_rate=1e-3, **options)
        run.train()
        ends.append({n: p.detach() for n, p in run.policy.named_parameters()})
    for other in ends[1:]:
        for name, weight in other.items():
            torch.testing.assert_close(weight, ends[0][name], rtol=0, atol=2e-4)


def test_temperature_is_the_samplers_everywhere(tmp_path):
    """At temperature 2 the old log-probabilities are those of softmax(logits / 2)."""
    run = trainer(tmp_path, epochs=1, sampling={"temperature": 2.0})
    episode = run.rollouts(0)[0]
    ids = torch.tensor([[*episode.tokens.prompt, *episode.tokens.responses[0]]])
    with torch.no_grad():
        logits = run.policy(ids).logits[0, len(episode.tokens.prompt) - 1 : -1] / 2.0
    wanted = logits.log_softmax(-1).gather(1, ids[0, len(episode.tokens.prompt) :, None])[:, 0]
    assert episode.logps[0] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert episode.reference_logps[0] == pytest.approx(wanted.tolist(), abs=1e-5)
    run.train()
    assert run.history[0]["first_ratio_error"] < 1e-4 and run.history[0]["sampler_gap"] < 1e-4


def test_bootstrapping_takes_the_value_after_the_last_token(tmp_path):
    run = trainer(tmp_path, epochs=1, cut="bootstrap", sampling={"max_response_tokens": 3})
    critic = run.accelerator.unwrap_model(run.model).critic
    torch.nn.init.normal_(critic.weight)
    episode = run.rollouts(0)[0]
    ids = torch.tensor([[*episode.tokens.prompt, *episode.tokens.responses[0]]])
    with torch.no_grad():
        values = critic(run.policy.model(ids).last_hidden_state)[0, :, 0]
    start = len(episode.tokens.prompt) - 1
    assert episode.values[0] == pytest.approx(values[start:-1].tolist(), abs=1e-5)
    assert episode.next_values[0] == pytest.approx(values[-1].item(), abs=1e-5)


def test_stops_updating_beyond_stop_kl(tmp_path):
    run = trainer(tmp_path, epochs=1, stop_kl=1e-6, learning_rate=1e-2, ppo_epochs=3)
    run.train()
    assert run.history[0]["updates"] == 1  # the first step has moved it, the second says so


def test_kl_controller_steers_to_its_target():
    steered = KLController(0.1, target=6.0, horizon=1000)
    steered.update(kl=6.0, responses=100)
    assert steered.coefficient == pytest.approx(0.1)
    steered.update(kl=60.0, responses=100)  # far off: 20 % in a horizon
    assert steered.coefficient == pytest.approx(0.1 * 1.02)
    steered.update(kl=5.4, responses=500)
    assert steered.coefficient == pytest.approx(0.1 * 1.02 * 0.95)
    fixed = KLController(0.1)
    fixed.update(60.0, 1000)
    assert fixed.coefficient == 0.1


def test_kl_penalty_holds_the_policy(tmp_path):
    ends = []
    for coefficient in (0.0, 1.0):
        run = trainer(tmp_path / str(coefficient), epochs=5, kl_coef=coefficient)
        run.train()
        ends.append(run.history[-1]["kl"])
    assert ends[1] < 0.5 * ends[0]


def refused(run: Any, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        run.train(**options)
    return str(error.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number(tmp_path, value):
    def broken(groups):
        rows = share_of_wanted(groups)
        return [
            [value, *row[1:]] if group["prompt_id"] == "p3" else row
            for group, row in zip(groups, rows, strict=True)
        ]

    said = refused(trainer(tmp_path, broken, epochs=1))
    assert "prompts p3 is not a finite number in iteration 1" in said


def test_equal_rewards_and_cut_responses_are_said_once(tmp_path, capsys):
    def equal(groups):
        return [[0.5] * len(group["responses"]) for group in groups]

    run = trainer(tmp_path, equal, epochs=3, sampling={"max_response_tokens": 1})
    run.train()
    out = capsys.readouterr().out
    assert out.count("have the reward 0.5") == 1 and out.count("were cut at 1 tokens") == 1
    assert all(math.isfinite(value) for row in run.history for value in row.values())
    grouped = trainer(tmp_path, equal, epochs=1, advantage="group", kl_coef=0.0)
    start = {n: p.detach().clone() for n, p in grouped.policy.named_parameters()}
    grouped.train()
    for name, weight in grouped.policy.named_parameters():  # nothing to learn: nothing is learnt
        assert torch.equal(weight, start[name]), name


class EndsAtOnce(TransformersSampler):
    """Every response is its EOS alone."""

    name = "ends at once"

    def sample(self, model, requests, options, source, *, done=()):
        for name, responses in super().sample(model, requests, options, source, done=done):
            yield (
                name,
                [{**r, "token_ids": [2], "text": "", "finish_reason": "stop"} for r in responses],
            )


def test_empty_responses(tmp_path):
    run = trainer(tmp_path, epochs=2, sampler=EndsAtOnce())
    run.train()
    assert run.history[0]["response_tokens"] == 1.0 and run.history[0]["cut_share"] == 0.0
    assert all(math.isfinite(value) for row in run.history for value in row.values())


def test_a_kl_that_blows_up_stops_the_run(tmp_path):
    run = trainer(tmp_path, epochs=9, learning_rate=0.3, max_kl=0.5, save_steps=1)
    with pytest.raises(Diverged) as stopped:
        run.train()
    said = str(stopped.value)
    assert "nats per token from the reference in iteration" in said and "train.max_kl=0.5" in said
    assert str(tmp_path / "checkpoint-") in said


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    run = trainer(tmp_path, epochs=1, learning_rate=1e-3)
    critic = run.accelerator.unwrap_model(run.model).critic
    torch.nn.init.constant_(critic.bias, math.nan)
    start = {n: p.detach().clone() for n, p in run.policy.named_parameters()}
    said = refused(run)
    assert "The loss is not finite in iteration 1, on the prompts p" in said
    for name, weight in run.policy.named_parameters():
        assert torch.equal(weight, start[name]), name


class Stale(TransformersSampler):
    """Never takes new weights."""

    name = "stale"

    def _load(self, model):
        return super()._load(model) if self._loaded is None else self._loaded[1]


def test_a_sampler_that_writes_with_other_weights_is_found_out(tmp_path):
    said = refused(trainer(tmp_path, epochs=9, learning_rate=0.1, sampler=Stale()))
    assert "the sampler 'stale' and the trainer differ by" in said
    assert "take sample=transformers" in said


def test_how_far_a_sampler_may_be_off_is_a_matter_of_precision(tmp_path):
    def said(gap, dtype, **options):
        sampler, options = VLLMSampler(dtype=dtype), config(tmp_path, **options)
        with pytest.raises(UserError) as error:
            check_agreement(gap, sampler, Loading(), options, 2)
        return str(error.value)

    rounding, bf16 = Gap(0.03, 0.2), {"mixed_precision": "bf16"}
    check_agreement(rounding, VLLMSampler(dtype="bfloat16"), Loading(), config(tmp_path, **bf16), 0)
    check_agreement(rounding, VLLMSampler(dtype="float32"), Loading(), config(tmp_path, **bf16), 0)
    exact = said(rounding, "float32")
    assert "In iteration 3 the sampler 'vllm' and the trainer differ by 0.030 nats" in exact
    assert "above 0.01 or 6 times that (computed in float32)" in exact
    assert "responses: take sample=transformers, which" in exact
    tail = said(Gap(0.03, 0.9), "float32", **bf16)
    assert "0.900 at the 99th percentile, above 0.1 or 6 times that" in tail
    assert "(computed in float32 and bfloat16)" in tail
    assert "sample in bfloat16 as well (sample.vllm.dtype), or take" in tail
    assert "above 0.02 or" in said(rounding, "bfloat16", sampler_tolerance=0.02, **bf16)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampling": {"top_p": 0.9}}, "top_p=1"),
        ({"sampling": {"top_k": 5}}, "top_k=0"),
        ({"sampling": {"temperature": 0.0}}, "temperature above 0"),
        ({"sampling": {"responses_per_prompt": 1}, "advantage": "group"}, "at least 2"),
        ({"advantage": "group", "cut": "bootstrap"}, "train.cut=terminal"),
        ({"advantage": "gea"}, "did you mean 'gae'"),
        ({"clip": 0.0}, "train.clip"),
        ({"lam": 1.5}, "train.lam"),
        ({"ppo_epochs": 0}, "train.ppo_epochs"),
        ({"stop_kl": -1.0}, "train.stop_kl"),
        ({"sampler_tolerance": 0.0}, "train.sampler_tolerance"),
    ],
)
def test_options_that_are_refused(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        config(tmp_path, **options)


def test_shards_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match=r"^PPO needs the whole model .* \(DeepSpeed\): start it"):
        trainer(tmp_path)


def test_no_prompt(tmp_path):
    with pytest.raises(UserError, match="at least one prompt"):
        trainer(tmp_path, prompts=[], policy=policy())


def test_passes_over_the_prompts(tmp_path):
    run = trainer(tmp_path, epochs=1.5, prompts_per_rollout=3, prompts=prompts(8))
    chosen = [run.rollouts._chosen(i) for i in range(len(run.rollouts))]
    assert len(chosen) == 4 and sorted(chosen[0] + chosen[1] + chosen[2]) == list(range(8))


def test_both_sides_of_a_request_in_one_rollout(tmp_path):
    rows = [{**row, "cluster": f"request {i % 4}"} for i, row in enumerate(prompts(8))]
    run = trainer(
        tmp_path, prompts_per_rollout=2, prompts=rows, sampling_strategy="group_by_cluster"
    )
    assert {tuple(sorted(run.rollouts._chosen(i))) for i in range(4)} == {
        (0, 4), (1, 5), (2, 6), (3, 7)
    }  # fmt: skip
