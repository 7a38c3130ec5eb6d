"""A model's figures from its responses, on tiny models."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import build_model

from rankdistill.evaluate.model_figures import ModelFigures
from rankdistill.evaluate.students import HeldOut, evaluate_model, prompt_scores
from rankdistill.evaluate.tokens import (
    KnownRows,
    entropy_and_divergence,
    mean_entropy,
    policy_values,
)
from rankdistill.forward import TokenGroup, bind, collate
from rankdistill.models import encode_prompt, encode_response
from rankdistill.rows import Group
from rankdistill.statistics import tau_b

TEXTS = {
    "a": ("Say hello", ["hello", "hi there", "good day"]),
    "b": ("Count", ["one two", "one", "three three three three"]),
}


def groups(tokenizer, scores: dict[str, list[float | None]]) -> list[Group]:
    rows: list[Group] = []
    for prompt_id, (prompt, texts) in TEXTS.items():
        responses = [
            {
                "text": text,
                "token_ids": encode_response(tokenizer, text),
                "finish_reason": "length" if text == "good day" else "stop",
                "source": "student",
            }
            | ({} if score is None else {"score": score})
            for text, score in zip(texts, scores[prompt_id], strict=True)
        ]
        messages = [{"role": "user", "content": prompt}]
        rows.append(
            {
                "prompt_id": prompt_id,
                "split": "heldout",
                "messages": messages,
                "responses": responses,
            }  # type: ignore[typeddict-item]
        )
    return rows


SCORES: dict[str, list[float | None]] = {"a": [-1.0, -2.0, -3.0], "b": [-4.0, None, -6.0]}


def model(seed: int):
    built = build_model(seed=seed).double()
    with torch.no_grad():
        built.get_output_embeddings().weight.mul_(25.0)
    return built


@pytest.fixture
def held_out(tokenizer) -> HeldOut:
    rows = groups(tokenizer, SCORES)
    return HeldOut(
        tokenizer=tokenizer,
        ranked=rows,
        baseline=model(0),
        teacher=model(1),
        teacher_groups=rows,
        temperature=1.0,
        max_batch_tokens=40,
    )


def as_batch(tokenizer, rows: list[Group]):
    return collate(
        [
            TokenGroup(
                encode_prompt(tokenizer, g["messages"]), [r["token_ids"] for r in g["responses"]]
            )
            for g in rows
        ]
    )


def test_figures_of_a_model(tokenizer, held_out):
    policy, rows = model(2), groups(tokenizer, SCORES)
    found = evaluate_model("trained", policy, rows, held_out, label="new")
    batch = as_batch(tokenizer, rows)
    lengths = [len(r["token_ids"]) for g in rows for r in g["responses"]]
    assert (found.name, found.label, found.temperature) == ("trained", "new", 1.0)
    assert found.per_prompt["b"].scores == [-4.0, -6.0]
    assert found.per_prompt["b"].mean == -5.0
    assert found.unscored == 1
    assert found.entropy == pytest.approx(mean_entropy(policy, [batch]))
    # Each by the other way there is to come to it.
    baseline = KnownRows(policy, [batch]).divergence_to(held_out.baseline)
    _, teacher = entropy_and_divergence(held_out.teacher, policy, [batch])
    assert found.kl_to_baseline == pytest.approx(baseline)
    assert found.kl_to_teacher == pytest.approx(teacher)
    assert found.response_tokens == sum(lengths) / len(lengths)
    assert found.cut_share == 1 / 6
    assert found.parameters == sum(p.numel() for p in policy.parameters())
    values = policy_values(policy, [batch])
    assert found.kendall_tau == [
        tau_b(values[0], [-1.0, -2.0, -3.0]),
        tau_b([values[1][0], values[1][2]], [-4.0, -6.0]),
    ]
    assert found.ordered_pairs == 3 + 1


def test_the_baseline_has_no_distance_from_itself_but_a_sharpened_one_has(tokenizer, held_out):
    rows = groups(tokenizer, SCORES)
    itself = evaluate_model("warmed_up", held_out.baseline, rows, held_out)
    sharpened = evaluate_model("sharp", held_out.baseline, rows, held_out, temperature=0.5)
    assert itself.kl_to_baseline is None
    assert sharpened.kl_to_baseline is not None and sharpened.kl_to_baseline > 0.0
    assert sharpened.entropy is not None and itself.entropy is not None
    assert sharpened.entropy < itself.entropy
    assert (
        sharpened.kendall_tau == itself.kendall_tau
    )  # the ranking is the model's, not the sampler's


def test_the_teacher_has_no_distance_from_itself(tokenizer, held_out):
    rows = groups(tokenizer, SCORES)
    found = evaluate_model("teacher", held_out.teacher, rows, held_out)
    assert found.kl_to_teacher is None
    assert found.kl_to_baseline is not None


def test_another_tokenizer_leaves_out_what_needs_common_tokens(tokenizer, held_out):
    rows = groups(tokenizer, SCORES)
    found = evaluate_model("other", model(3), rows, held_out, tokenizer=tokenizer)
    assert (found.kl_to_baseline, found.kl_to_teacher, found.kendall_tau) == (None, None, [])
    assert found.entropy is not None
    assert found.per_prompt["a"].scores == [-1.0, -2.0, -3.0]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_layout_changes_no_figure(tokenizer, held_out, layout):
    rows = groups(tokenizer, SCORES)
    shared = evaluate_model("trained", model(2), rows, held_out).row()
    other = replace(held_out, layout=layout, max_batch_tokens=10_000)
    found = evaluate_model("trained", model(2), rows, other).row()
    for key in ("entropy", "kl_to_baseline", "kl_to_teacher", "kendall_tau"):
        assert found[key] == pytest.approx(shared[key], abs=1e-6)


def test_figures_survive_storage(tokenizer, held_out):
    found = evaluate_model("trained", model(2), groups(tokenizer, SCORES), held_out)
    assert ModelFigures.from_row(json.loads(json.dumps(found.row()))) == found


def test_prompts_without_a_score_are_left_out(tokenizer):
    rows = groups(tokenizer, {"a": [None] * 3, "b": [1.0, 2.0, 3.0]})
    assert list(prompt_scores(rows)) == ["b"]


def test_no_response_is_said(held_out):
    with pytest.raises(ValueError, match="'x' has no response"):
        evaluate_model("x", model(2), [], held_out)


def test_the_model_is_still_itself_afterwards(tokenizer, held_out):
    policy = model(2)
    ids = torch.tensor([[5, 6, 7]])
    before = policy(input_ids=ids).logits
    evaluate_model("trained", policy, groups(tokenizer, SCORES), held_out)
    torch.testing.assert_close(policy(input_ids=ids).logits, before, rtol=0, atol=0)
    assert bind(policy) is policy
