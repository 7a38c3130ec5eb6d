"""Pair accuracy of a policy and of a reward model, against a plain forward pass."""

from __future__ import annotations

import json
from statistics import fmean

import torch
from suite_rows import PAIRS, write
from test_score_reward_model import reward_model
from tiny_run import run_here
from transformers import AutoModelForCausalLM

from rankdistill.models import encode_prompt, encode_response, load_tokenizer


def logps(model, tokenizer, pair: dict, side: str) -> torch.Tensor:
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": pair["prompt"]}])
    response = encode_response(tokenizer, pair[side])
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        rows = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return rows.gather(1, ids[0, len(prompt) :, None])[:, 0]


def over_subsets(right: list[bool]) -> float:
    by_subset = {p["subset"]: [] for p in PAIRS}
    for pair, value in zip(PAIRS, right, strict=True):
        by_subset[pair["subset"]].append(float(value))
    return fmean(map(fmean, by_subset.values()))


def test_accuracies_are_those_of_a_plain_forward_pass(monkeypatch, tmp_path, tiny_dir, capsys):
    long, empty = ({**PAIRS[0], "chosen": text} for text in ("x" * 400, ""))
    file = write(tmp_path / "pairs.jsonl", [*PAIRS, long, empty])
    judge, judge_tokenizer = reward_model(tmp_path / "reward", pad="own")
    folder = run_here(
        monkeypatch, tmp_path, "recipe=evaluate", f"teacher.path={tiny_dir}",
        f"eval.pairs.path={file}", f"eval.pairs.reward_model={tmp_path / 'reward'}",
        "eval.pairs.max_tokens=300",
    )  # fmt: skip
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("left out 1 row of") == 1 and "line 6 of" in told
    models = json.loads((folder / "metrics.json").read_text())["suites"]["pairs"]["models"]
    assert list(models) == ["trained", "reward_model"]
    figures = models["trained"]["figures"]
    assert models["trained"]["counts"] == {"pairs": 4, "set_aside": 1}

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_dir), load_tokenizer(str(tiny_dir))
    sides = [[logps(model, tokenizer, p, s) for s in ("chosen", "rejected")] for p in PAIRS]
    expected = {
        "mean": over_subsets([bool(a.mean() > b.mean()) for a, b in sides]),
        "sum": over_subsets([bool(a.sum() > b.sum()) for a, b in sides]),
    }
    assert {key: figures[key]["mean"] for key in expected} == expected
    assert figures["sum/easy"]["items"] == 2 and 0 < expected["sum"] < 1

    def reward(pair: dict, side: str) -> float:
        turns = [{"role": "user", "content": pair["prompt"]},
                 {"role": "assistant", "content": pair[side]}]  # fmt: skip
        ids = judge_tokenizer(
            judge_tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False
        )["input_ids"]
        with torch.no_grad():
            hidden = judge.model(torch.tensor([ids])).last_hidden_state
            return float(judge.score(hidden[0, -1]))

    right = [reward(pair, "chosen") > reward(pair, "rejected") for pair in PAIRS]
    assert models["reward_model"]["figures"]["reward"]["mean"] == over_subsets(right)
