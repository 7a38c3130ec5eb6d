"""Reward models: pooling at the last real token, their own template, ours with a shift."""

from __future__ import annotations

import math

import pytest
import torch
from judge_data import NOBODY, group, judged, scorer, values
from tiny_models import EXTRA, LLAMA_LIKE, SPECIAL, build_tokenizer
from transformers import AutoConfig, AutoModelForSequenceClassification

from rankdistill.errors import UserError
from rankdistill.models import encode_prompt, encode_response

GROUPS = [group("p", "a", "a longer response", "x" * 60), group("q", "b", "c")]


def reward_model(folder, architecture="llama", *, labels=1, shift=None, pad="eos"):
    """A saved random reward model whose padding token is its EOS, unless told otherwise."""
    own = {"intermediate_size": 64} if architecture == "bert" else LLAMA_LIKE
    config = AutoConfig.for_model(
        architecture, vocab_size=len(SPECIAL) + 256, hidden_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_labels=labels, eos_token_id=2,
        pad_token_id={"eos": 2, "own": 0, "none": None}[pad], **own,
        **EXTRA.get(architecture, {}),
    )  # fmt: skip
    if shift is not None:
        config.rankdistill_shift = shift
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer = build_tokenizer()
    if pad == "eos":
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def made(folder, **changes):
    return scorer("reward_model", model=str(folder), precision="float32", **changes)


def by_hand(model, ids) -> float:
    """The head on the last hidden state of one sequence, unpadded."""
    with torch.no_grad():
        hidden = model.model(torch.tensor([ids])).last_hidden_state
        return float(model.score(hidden[0, -1]))


@pytest.mark.parametrize("pad", ["eos", "own", "none"])
@pytest.mark.parametrize("max_batch_tokens", [1, 8192])
def test_the_last_real_token_is_pooled_whatever_pads(tmp_path, pad, max_batch_tokens):
    model, tokenizer = reward_model(tmp_path, pad=pad)
    found = values(
        judged(made(tmp_path, max_batch_tokens=max_batch_tokens), GROUPS), "reward_model"
    )
    for g, row in zip(GROUPS, found, strict=True):
        for response, value in zip(g["responses"], row, strict=True):
            turns = [*g["messages"], {"role": "assistant", "content": response["text"]}]
            told = tokenizer.apply_chat_template(turns, tokenize=False)
            ids = tokenizer(told, add_special_tokens=False)["input_ids"]
            assert value == pytest.approx(by_hand(model, ids), abs=1e-5)


def test_ours_ends_at_eos_and_has_its_shift_added(tmp_path):
    model, tokenizer = reward_model(tmp_path, shift=-1.25, pad="own")
    found = values(judged(made(tmp_path), GROUPS), "reward_model")
    for g, row in zip(GROUPS, found, strict=True):
        for response, value in zip(g["responses"], row, strict=True):
            ids = encode_prompt(tokenizer, g["messages"])
            ids += encode_response(tokenizer, response["text"])
            assert ids[-1] == tokenizer.eos_token_id
            assert value == pytest.approx(by_hand(model, ids) - 1.25, abs=1e-5)


def test_an_encoder_classifies_by_its_own_token(tmp_path):
    model, tokenizer = reward_model(tmp_path, "bert", pad="own")
    found = values(judged(made(tmp_path, max_batch_tokens=8192), GROUPS[:1]), "reward_model")[0]
    for response, value in zip(GROUPS[0]["responses"], found, strict=True):
        turns = [*GROUPS[0]["messages"], {"role": "assistant", "content": response["text"]}]
        told = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = torch.tensor([tokenizer(told, add_special_tokens=False)["input_ids"]])
        with torch.no_grad():
            assert value == pytest.approx(float(model(ids).logits), abs=1e-5)


def test_what_is_too_long_has_no_value_and_is_counted(tmp_path):
    from collections import Counter

    reward_model(tmp_path)
    counts: Counter[str] = Counter()
    found = values(judged(made(tmp_path, max_tokens=60), GROUPS, counts=counts), "reward_model")
    assert [math.isnan(value) for value in found[0]] == [False, False, True]
    assert counts["too_long"] == 1


def test_more_labels_and_no_model_are_refused(tmp_path):
    reward_model(tmp_path, labels=3)
    with pytest.raises(UserError, match="has 3 labels, and a reward is one number"):
        made(tmp_path).check(NOBODY)
    with pytest.raises(UserError, match="There is no model folder"):
        made(tmp_path / "missing").check(NOBODY)


def test_the_content_of_the_model_is_its_identity(tmp_path):
    reward_model(tmp_path / "a")
    reward_model(tmp_path / "b", shift=1.0)
    assert made(tmp_path / "a").identity != made(tmp_path / "b").identity
    assert made(tmp_path / "a", max_batch_tokens=1).identity == made(tmp_path / "a").identity
