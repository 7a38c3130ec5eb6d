"""The reward model: equal to transformers' own, on the promised scale, and judged by its gate."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from pathlib import Path
from statistics import fmean, pstdev
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ranking_trainer_data import EOS, config, logged, ragged_groups
from tiny_models import build_model, build_tokenizer
from torch.testing import assert_close
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bind
from rankdistill.models import encode_prompt
from rankdistill.models.model import Loading, Model
from rankdistill.stages.reward import ModelReward, read_in
from rankdistill.train.reward.gate import check_gate, gate_figures
from rankdistill.train.reward.model import (
    PADDING_TOKEN,
    SHIFT,
    Scale,
    load_reward_model,
    logits,
    rewards,
    save_reward_model,
    score_layer,
)
from rankdistill.train.reward.trainer import RewardLoss, RewardTrainer


@pytest.fixture
def folder(tmp_path):
    """Saves a tiny backbone of an architecture; its tokenizer pads with EOS, as SmolLM2's does."""

    def save(architecture: str = "llama", layers: int = 2):
        build_model(architecture, layers=layers).save_pretrained(tmp_path / "backbone")
        tokenizer = build_tokenizer()
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(tmp_path / "backbone")
        return str(tmp_path / "backbone")

    return save


def groups(count: int = 4) -> list[TokenGroup]:
    return [
        TokenGroup(
            encode_prompt(build_tokenizer(), row["messages"]),
            [response["token_ids"] for response in row["responses"]],
        )
        for row in ragged_groups(count)
    ]


def by_transformers(path, rows: list[TokenGroup]) -> list[list[float]]:
    """All responses in one padded batch through the saved model, plus the shift."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    texts = [[*row.prompt, *response] for row in rows for response in row.responses]
    batch = tokenizer.pad({"input_ids": texts}, return_tensors="pt", padding_side="right")
    with torch.no_grad():
        flat = iter((model(**batch).logits[:, 0] + getattr(model.config, SHIFT)).tolist())
    return [[next(flat) for _ in row.responses] for row in rows]


@pytest.mark.parametrize("layout", ["shared", "packed", "padded"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2", "gemma2"])
def test_saved_model_gives_transformers_the_same_rewards(tmp_path, folder, architecture, layout):
    torch.manual_seed(0)
    model = bind(load_reward_model(folder(architecture), new_head=True), layout)
    rows = groups()
    raw = [value for row in rewards(model, rows) for value in row]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "backbone")
    save_reward_model(model, tokenizer, Scale.of(raw), tmp_path / "saved")
    ours = rewards(bind(load_reward_model(str(tmp_path / "saved")), layout), rows)
    theirs = by_transformers(tmp_path / "saved", rows)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=1e-4)
    flat = [value for row in ours for value in row]
    assert fmean(flat) == pytest.approx(0.0, abs=1e-5)
    assert pstdev(flat) == pytest.approx(1.0, abs=1e-5)
    # The order and the relative gaps are those of the raw logits.
    scale = Scale.of(raw)
    assert flat == pytest.approx([(x - scale.mean) / scale.std for x in raw], abs=1e-4)


@pytest.mark.slow
@pytest.mark.vllm
def test_saved_model_gives_vllms_pooling_the_same_rewards(tmp_path):
    torch.manual_seed(0)
    build_model("llama", heads=1).save_pretrained(tmp_path / "backbone")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path / "backbone")
    model = bind(load_reward_model(str(tmp_path / "backbone"), new_head=True))
    rows = groups()
    raw = [value for row in rewards(model, rows) for value in row]
    save_reward_model(model, tokenizer, Scale.of(raw), tmp_path / "saved")
    ids = [[*row.prompt, *response] for row in rows for response in row.responses]
    pooling = subprocess.run(
        [sys.executable, Path(__file__).parent / "vllm_pooling.py", tmp_path / "saved"],
        input=json.dumps(ids), capture_output=True, text=True,
    )  # fmt: skip
    assert pooling.returncode == 0, pooling.stderr[-3000:]
    logits_of_vllm = json.loads(pooling.stdout.splitlines()[-1])
    scale = Scale.of(raw)
    expected = [(value - scale.mean) / scale.std for value in raw]
    found = [logit - scale.mean / scale.std for logit in logits_of_vllm]
    assert found == pytest.approx(expected, abs=1e-4)
    assert json.loads((tmp_path / "saved" / "config.json").read_text())[SHIFT] == pytest.approx(
        -scale.mean / scale.std
    )


def test_a_response_that_ends_with_eos_is_read_at_its_eos(folder):
    model = bind(load_reward_model(folder(), new_head=True))
    prompt, text = [5, 6, 7], [11, 12, 13]
    whole, cut, other = rewards(model, [TokenGroup(prompt, [[*text, EOS], text, [*text, 14]])])[0]
    assert len({whole, cut, other}) == 3


def test_padding_token_is_added_where_there_is_no_other(tmp_path, folder):
    path = folder()
    model = load_reward_model(path, new_head=True)
    backend = build_tokenizer().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>")
    save_reward_model(model, tokenizer, Scale(0.0, 1.0), tmp_path / "saved")
    saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").pad_token == PADDING_TOKEN
    assert saved.config.pad_token_id == 259
    assert saved.get_input_embeddings().num_embeddings >= 260


def test_new_head_has_the_stated_spread(folder):
    layer = score_layer(load_reward_model(folder(), new_head=True))
    spread = [
        score_layer(load_reward_model(folder(), new_head=True)).weight.std().item()
        for _ in range(4)
    ]
    assert fmean(spread) == pytest.approx((layer.in_features + 1) ** -0.5, rel=0.25)


def test_a_frozen_one_is_read_in_its_precision_and_rewards_in_float32(folder):
    path = folder()

    def read(precision: str) -> tuple[Any, list[float]]:
        layout, own = SimpleNamespace(name="shared"), SimpleNamespace(max_batch_tokens=64)
        settings = SimpleNamespace(seed=0, train=SimpleNamespace(layout=layout), reward=own)
        model = Model(path, {}, Loading(precision))
        made = ModelReward(SimpleNamespace(settings=settings), model, model, new_head=True)  # type: ignore[arg-type]
        rows: Any = [
            {"messages": [{"role": "user", "content": "abc"}],
             "responses": [{"token_ids": [5, 9, 30 + k]} for k in range(8)]}
        ]  # fmt: skip
        return made._loaded, made(rows)[0]

    model, found = read("bfloat16")
    exact = read("float32")[1]
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert score_layer(model).weight.dtype == torch.float32
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}
    assert found == pytest.approx(exact, abs=0.05)
    rounded = torch.tensor(found).bfloat16().tolist()
    assert sum(a != b for a, b in zip(found, rounded, strict=True)) > 4
    assert read_in(Model(path, {}, Loading("bfloat16"))) == {"rewards_in": "bfloat16"}
    assert read_in(Model(path, {}, Loading("float32"))) == {}


def test_equal_and_not_finite_rewards_are_refused():
    with pytest.raises(UserError, match="same reward"):
        Scale.of([0.25, 0.25, 0.25])
    with pytest.raises(UserError, match="not finite"):
        Scale.of([0.25, math.nan])


def lower_case_groups(count: int, seed: int):
    """Groups whose score is the share of `a` in the response, which a tiny model can learn."""
    draw = random.Random(seed)
    rows = ragged_groups(count, seed)
    a = build_tokenizer().convert_tokens_to_ids("a")
    for row in rows:
        for response in row["responses"]:
            share = draw.choice([0.0, 0.3, 0.6, 1.0])
            body = [a if draw.random() < share else draw.randrange(130, 250) for _ in range(8)]
            response["token_ids"] = [*body, EOS]
            response["score"] = body.count(a) / 8
        row["responses"] = list({tuple(r["token_ids"]): r for r in row["responses"]}.values())
    return [row for row in rows if len({r["score"] for r in row["responses"]}) > 1]


@pytest.mark.parametrize("loss", ["pairs", "plackett_luce"])
def test_learns_a_rule_and_orders_new_groups(tmp_path, folder, loss):
    model = load_reward_model(folder(), new_head=True)
    args = config(
        tmp_path / "out", optim="adamw_torch", learning_rate=3e-3, num_train_epochs=8,
        prompts_per_step=8, max_grad_norm=1.0,
    )  # fmt: skip
    trainer = RewardTrainer(
        model, args, lower_case_groups(48, 1), build_tokenizer(), RewardLoss(loss=loss)
    )
    trainer.train()
    losses, accuracies = logged(trainer), logged(trainer, "pair_accuracy")
    assert fmean(losses[-4:]) < 0.5 * losses[0] and fmean(accuracies[-4:]) > 0.9
    assert len(accuracies) == len(losses)
    held_out = lower_case_groups(16, 2)
    tokens = [
        TokenGroup(encode_prompt(build_tokenizer(), g["messages"]), [r["token_ids"] for r in rs])
        for g in held_out
        if (rs := g["responses"])
    ]
    figures = gate_figures(
        rewards(model, tokens),
        [[-round(8 * r["score"]) for r in g["responses"]] for g in held_out],
        [[len(r["token_ids"]) for r in g["responses"]] for g in held_out],
        seed=0,
    )
    assert figures.accuracy.low > 0.8
    assert figures.longer_wins.mean == 0.5  # all are of one length
    assert figures.like_length_pairs == figures.pairs
    check_gate(figures.row(), 0.8)


def test_the_token_that_is_read_behind_a_response_counts_in_the_limit(tmp_path, folder):
    model, tokenizer = load_reward_model(folder(), new_head=True), build_tokenizer()
    rows = ragged_groups_with_pairs(4)
    lengths = [
        len(encode_prompt(tokenizer, row["messages"]))
        + max(len(response["token_ids"]) for response in row["responses"])
        for row in rows
    ]
    for limit in (max(lengths) + 1, max(lengths)):
        args = config(tmp_path / str(limit), max_length=limit)
        kept: Any = RewardTrainer(model, args, rows, tokenizer).train_dataset
        assert len(kept) == sum(length < limit for length in lengths)


def test_a_process_without_rows_computes_a_gradient_of_zeros(tmp_path, folder):
    """The others wait for it."""
    model = load_reward_model(folder(), new_head=True)
    rows, args = ragged_groups_with_pairs(1), config(tmp_path / "out")
    loss = RewardTrainer(model, args, rows, build_tokenizer()).losses(model, [])
    loss.sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert not loss.any() and all(g is not None and not g.any() for g in gradients)


def test_a_step_is_the_same_however_it_is_split(tmp_path, folder):
    """Token budgets and accumulation change no weight."""
    path, weights = folder(), []
    for budget, accumulation in ((4096, 1), (30, 1), (60, 2)):
        torch.manual_seed(0)
        model = load_reward_model(path, new_head=True).double()
        args = config(
            tmp_path / f"out{budget}", prompts_per_step=4, max_batch_tokens=budget,
            gradient_accumulation_steps=accumulation,
        )  # fmt: skip
        RewardTrainer(model, args, ragged_groups_with_pairs(8), build_tokenizer()).train()
        weights.append({name: p.detach() for name, p in model.named_parameters()})
    for other in weights[1:]:
        assert_close(other, weights[0], rtol=0, atol=1e-6)


def ragged_groups_with_pairs(count: int):
    return [g for g in ragged_groups(count * 2) if len({r["score"] for r in g["responses"]}) > 1][
        :count
    ]


def test_logits_have_the_gradient_of_separate_forwards(folder):
    model = bind(load_reward_model(folder(), new_head=True).double())
    rows = groups(3)
    values, mask = logits(model, rows)
    values[mask].square().sum().backward()
    grouped = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for row in rows:
        for response in row.responses:
            text = torch.tensor([[*row.prompt, *response]])
            hidden = model.model(text).last_hidden_state[0, -1]
            model.score(hidden).square().sum().backward()
    separate = {name: p.grad for name, p in model.named_parameters()}
    assert_close(grouped, separate, rtol=1e-4, atol=1e-5)


def test_gate_by_hand():
    figures = gate_figures(
        rewards=[[2.0, 1.0, 0.0], [0.0, 1.0]],
        ranks=[[0, 1, 1], [0, 1]],
        lengths=[[10, 10, 20], [30, 5]],
        seed=0,
    )
    # First prompt: 0 > 1 and 0 > 2, both right; lengths 10 = 10 (half) and 10 < 20 (wrong).
    # Second prompt: the first is better, and got less: wrong; it is the longer one: right.
    assert (figures.prompts, figures.pairs) == (2, 3)
    assert figures.accuracy.mean == 0.5
    assert figures.longer_wins.mean == pytest.approx((0.25 + 1.0) / 2)
    assert figures.beyond_length.mean == pytest.approx((0.75 - 1.0) / 2)
    assert figures.like_length_pairs == 1 and figures.like_length.mean == 1.0
    assert sum(b.pairs for b in figures.calibration) == 3
    p1, p2 = (1 / (1 + math.exp(-gap)) for gap in (1.0, 2.0))
    # |stated - observed|: gap 1 was right once and wrong once, gap 2 right.
    assert figures.calibration_error == pytest.approx((2 * abs(p1 - 0.5) + (1 - p2)) / 3)
    json.dumps(figures.row(), allow_nan=False)
    with pytest.raises(UserError, match=r"orders 50\.0% of 3 held-out pairs.*longer wins"):
        check_gate(figures.row(), 0.6)


def test_gate_without_a_pair():
    with pytest.raises(UserError, match="validation"):
        gate_figures([[1.0, 2.0]], [[0, 0]], [[1, 1]], seed=0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"loss": "hinge"}, "reward.loss"),
        ({"margin": -1.0}, "reward.margin"),
        ({"margin": 1.0, "loss": "plackett_luce"}, "no margin"),
        ({"centering": -0.1}, "reward.centering"),
    ],
)
def test_options_out_of_range(options, sentence):
    with pytest.raises(UserError, match=sentence):
        RewardLoss(**options)
