"""The likelihood scorer, with and without a contrast, against the model called by itself."""

from __future__ import annotations

import pytest
import torch
from conftest import build_model, build_tokenizer

from rankdistill.models import encode_prompt
from rankdistill.score import Judge
from rankdistill.score.likelihood import Likelihood


def judge(path) -> Judge:
    return Judge(str(path), "float32", "sdpa", False, "shared", str(path))


@pytest.fixture
def groups(tokenizer):
    def response(text: str) -> dict:
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return {"text": text, "token_ids": ids, "finish_reason": "stop", "source": "student"}

    rows = [("Name a prime.", ["Seven.", "No"]), ("And another one?", ["11", "13!", "Seven."])]
    return [
        {
            "prompt_id": prompt,
            "split": "train",
            "messages": [{"role": "user", "content": prompt}],
            "responses": [response(text) for text in texts],
        }
        for prompt, texts in rows
    ]


def expected(model, messages, ids) -> float:
    prompt = encode_prompt(build_tokenizer(), messages)
    with torch.no_grad():
        logps = model(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
    return sum(float(logps[len(prompt) - 1 + k, token]) for k, token in enumerate(ids))


@pytest.fixture
def reference(tmp_path):
    build_model("llama", seed=7).save_pretrained(tmp_path / "reference")
    build_tokenizer().save_pretrained(tmp_path / "reference")
    return tmp_path / "reference"


@pytest.mark.parametrize("contrast", [None, "unconditional", "reference"])
@pytest.mark.parametrize("per_token", [False, True])
def test_against_the_model_itself(groups, tiny_dir, reference, contrast, per_token):
    scorer = Likelihood(
        per_token=per_token,
        max_batch_tokens=300,
        contrast=str(reference) if contrast == "reference" else contrast,
    )
    found = [row for part in scorer(groups, judge(tiny_dir), 0) for row in part]
    teacher, other = build_model("llama"), build_model("llama", seed=7)
    for group, row in zip(groups, found, strict=True):
        for response, value in zip(group["responses"], row, strict=True):
            ids = response["token_ids"]
            want = expected(teacher, group["messages"], ids)
            if contrast == "unconditional":
                want -= expected(teacher, [{"role": "user", "content": ""}], ids)
            elif contrast == "reference":
                want -= expected(other, group["messages"], ids)
            assert value == pytest.approx(want / (len(ids) if per_token else 1), abs=2e-4)


def test_a_continued_call_gives_the_rest(groups, tiny_dir):
    scorer = Likelihood(per_token=True, max_batch_tokens=1, contrast="unconditional")
    whole = [row for part in scorer(groups, judge(tiny_dir), 0) for row in part]
    rest = [row for part in scorer(groups, judge(tiny_dir), 1) for row in part]
    assert rest == whole[1:]


def test_the_contrast_is_part_of_the_identity(reference):
    plain = Likelihood(per_token=True, max_batch_tokens=1)
    identities = [
        plain.identity,
        Likelihood(per_token=True, max_batch_tokens=1, contrast="unconditional").identity,
        Likelihood(per_token=True, max_batch_tokens=1, contrast=str(reference)).identity,
    ]
    assert "contrast" not in identities[0]
    assert len({str(identity) for identity in identities}) == 3
