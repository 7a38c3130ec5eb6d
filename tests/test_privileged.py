"""A teacher that is shown more than the student: what it reads, and what is learned of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from fake_endpoint import FakeEndpoint
from tiny_models import build_model
from tiny_run import TINY, composed, run_here

from rankdistill.errors import UserError
from rankdistill.forward import bind
from rankdistill.models import encode_prompt
from rankdistill.prompts.privileged import TeachersView
from rankdistill.stages import settings
from rankdistill.store import Store
from rankdistill.warmup.rows import token_rows
from rankdistill.warmup.teachers import Divergence, LiveTeacher
from rankdistill.warmup.trainer import mean_divergence

USER: Any = [{"role": "user", "content": "1 + 1 {best}?"}]


def test_what_the_teacher_is_shown():
    row = {
        "prompt_id": "p", "messages": USER, "response": "Two.", "columns": '{"rubric": ["a", "b"]}',
        "responses": [{"text": "bad", "score": 1.0}, {"text": "good {prompt}", "score": 2.0}],
    }  # fmt: skip
    view = TeachersView.of("{prompt} | {response} | {best} | {rubric}", "Be brief.")
    assert view is not None and view.placeholders == ["response", "best", "rubric"]
    system, last = view.messages(row)
    assert system == {"role": "system", "content": "Be brief."}
    # What is put in is never searched for placeholders.
    assert last["content"] == '1 + 1 {best}? | Two. | good {prompt} | ["a", "b"]'
    before: Any = [{"role": "system", "content": "old"}, *USER]
    only = TeachersView.of(None, "new")
    assert only is not None and only.messages({"messages": before}) == [
        {"role": "system", "content": "new"}, *USER,
    ]  # fmt: skip
    assert TeachersView.of(None, None) is None
    with pytest.raises(UserError, match=r"shows \{response\}, which the prompt q does not have"):
        view.messages({"prompt_id": "q", "messages": USER})


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["teacher.prompt_template=Hello"], r"has no \{prompt\}"),
        (["teacher.prompt_template=nowhere.md"], "can't be read"),
        (
            ['teacher.prompt_template="{prompt} {anwser}"', "prompts.keep=[answer]"],
            "did you mean 'answer'",
        ),
        (
            ['teacher.prompt_template="{prompt} {best}"'],
            "there is none when the teacher is asked: give rank.path",
        ),
        (
            ["rank.path=a.jsonl", "eval=[quick]", 'teacher.prompt_template="{prompt} {best}"'],
            "would see while it scores",
        ),
    ],
)
def test_refusals(overrides, told):
    with pytest.raises(UserError, match=told):
        settings.build(composed("recipe=likelihood", *overrides))


@pytest.mark.parametrize("layout", ["shared", "padded"])
def test_distributions_are_those_behind_the_teachers_own_prompt(layout, tokenizer):
    """KL of the teacher with its prompt and the student with the plain one, by hand."""
    student, teacher = (build_model(layers=1, seed=seed).double().eval() for seed in (0, 1))
    shown = [{"role": "user", "content": "1 + 1? A right answer: 2"}]
    responses = [{"text": t, "token_ids": ids} for t, ids in (("a", [7, 9, 2]), ("b", [11, 5]))]
    groups: Any = [
        {"prompt_id": "p", "messages": USER, "responses": responses, "teacher_messages": shown},
        {"prompt_id": "q", "messages": USER, "responses": responses[:1]},
    ]
    expected, tokens = 0.0, 0
    for group in groups:
        for response in group["responses"]:
            ids = response["token_ids"]
            logps = []
            for model, name in ((teacher, "teacher_messages"), (student, "messages")):
                prompt = encode_prompt(tokenizer, group.get(name) or group["messages"])
                with torch.no_grad():
                    logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
                logps.append(logits.double().log_softmax(-1))
            p, q = logps
            expected += float((p.exp() * (p - q)).sum())
            tokens += len(ids)
    rows = token_rows(groups, tokenizer)
    live = LiveTeacher(bind(teacher, layout), Divergence("forward_kl", 1.0))
    found = mean_divergence(bind(student, layout), live, rows)
    assert found == pytest.approx(expected / tokens, rel=1e-4)
    assert rows[0].tokens.prompt != rows[0].for_teacher.prompt
    assert rows[2].tokens is rows[2].for_teacher


def test_a_run_whose_teacher_writes_and_scores_with_the_answer(monkeypatch, tmp_path, teacher):
    file = tmp_path / "sums.jsonl"
    sums = ({"prompt": f"What is {n} + 1?", "answer": n + 1} for n in range(40))
    file.write_text("".join(json.dumps(row) + "\n" for row in sums))
    with FakeEndpoint(lambda question: ("Fine.",)) as server:
        folder = run_here(
            monkeypatch, tmp_path, "recipe=likelihood", *TINY, "prompts.keep=[answer]",
            f"prompts.path={file}", f"teacher.path={teacher}", "rounds=0", "warmup=sft",
            "warmup.responses_per_step=3", 'teacher.prompt_template="{prompt} It is {answer}."',
            f"sample.endpoint.urls=[{server.url}]", "sample.endpoint.model=judge-1",
        )  # fmt: skip
        asked = [question for question in server.requests if "What is" in question]
    assert asked and all("+ 1? It is " in question for question in asked)
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    store = Store()
    made = {s["key"]: store.find(s["key"]) for s in stages if s["stage"] in ("sample", "score")}
    for found in made.values():
        assert found is not None
        identity = found.manifest["identity"]
        if found.stage == "score":
            assert identity["teacher_sees"]["template"] == "{prompt} It is {answer}."
        # The rows keep what the student is asked.
        assert all("It is" not in row["messages"][-1]["content"] for row in found.rows())
