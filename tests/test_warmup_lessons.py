"""Which responses are learned: thoughts, scores, and what came with the data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import build_model, build_tokenizer

from rankdistill.errors import UserError
from rankdistill.models import Rows, encode_response
from rankdistill.stages import lessons
from rankdistill.stages.run import Model, Run
from rankdistill.store import Store
from rankdistill.thoughts import answer_of
from rankdistill.warmup.lessons import (
    Lessons,
    asked,
    chosen,
    from_data,
    without_thoughts,
)
from rankdistill.warmup.sft import SFTWarmup


def response(tokenizer, text: str, finish: str = "stop", **more: Any) -> dict[str, Any]:
    ids = encode_response(tokenizer, text)
    ids = ids if finish == "stop" else ids[:-1]
    return {"text": text, "token_ids": ids, "finish_reason": finish, "source": "teacher", **more}


def group(*responses: Any, name: str = "p", split: str = "train") -> Any:
    messages = [{"role": "user", "content": name}]
    return {"prompt_id": name, "split": split, "messages": messages, "responses": list(responses)}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Four.", "Four."),
        ("<think>2 + 2\n= 4</think>\n\nFour.", "Four."),
        ("<think></think>Four.", "Four."),
        ("2 + 2 = 4</think>\n\nFour.", "Four."),
        ("<think>a</think>One <think>b</think>two.", "One two."),
        ("<think>I never got", ""),
        ("Four. <think>or five", "Four."),
        ("a < b and </b>", "a < b and </b>"),
    ],
)
def test_the_answer_is_what_was_not_thought(text, answer):
    assert answer_of(text) == answer


def test_only_responses_with_thoughts_are_tokenised_anew(tokenizer):
    sampled = {**response(tokenizer, "ab"), "token_ids": [5, 6, 2]}  # no tokenisation of "ab"
    thought = response(tokenizer, "<think>no</think>yes")
    cut = response(tokenizer, "<think>no</think>yes and", "length")
    lost = response(tokenizer, "<think>no", "length")
    found = without_thoughts(group(sampled, thought, cut, lost), tokenizer)["responses"]
    assert [r["text"] for r in found] == ["ab", "yes", "yes and", ""]
    assert found[0] == sampled
    assert found[1]["token_ids"] == encode_response(tokenizer, "yes")
    assert found[2]["token_ids"] == encode_response(tokenizer, "yes and")[:-1]
    assert found[3]["token_ids"] == []


def test_a_request_is_for_the_teacher_alone():
    messages: Any = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    assert asked(messages, None) == messages
    assert asked(messages, "Think.")[1] == {"role": "user", "content": "Q\n\nThink."}
    assert messages[1]["content"] == "Q"


def test_the_best_and_the_good_enough(tokenizer):
    a, b, c = (response(tokenizer, text) for text in "abc")
    nothing = {**response(tokenizer, "d"), "token_ids": []}
    groups = [group(a, b, c, nothing, name="p"), group(a, b, name="q")]
    scores = [[0.0, 2.0, 2.0, 9.0], [None, -1.0]]
    kept, counts = chosen(groups, scores, Lessons(keep="best"))
    assert [(g["prompt_id"], g["responses"]) for g in kept] == [("p", [b]), ("q", [b])]
    assert counts == {
        "written": 6, "empty": 1, "unscored": 1, "low_score": 0, "not_best": 2, "learned": 2,
    }  # fmt: skip
    kept, counts = chosen(groups, scores, Lessons(minimum_score=0.0))
    assert [(g["prompt_id"], g["responses"]) for g in kept] == [("p", [a, b, c])]
    assert counts["low_score"] == 1 and counts["learned"] == 3
    kept, counts = chosen(groups, None, Lessons())
    assert [len(g["responses"]) for g in kept] == [3, 2] and counts["empty"] == 1


def test_responses_that_came_with_the_prompts(tokenizer):
    prompt = {key: value for key, value in group(name="a").items() if key != "responses"}
    ranked = group(
        response(tokenizer, "bad", rank=1, score=0.1), response(tokenizer, "good", rank=0), name="b"
    )
    found = from_data([{**prompt, "response": "Yes."}, ranked, prompt], tokenizer)
    assert [(g["prompt_id"], [r["text"] for r in g["responses"]]) for g in found] == [
        ("a", ["Yes."]), ("b", ["good"]),
    ]  # fmt: skip
    assert found[0]["responses"][0]["token_ids"] == encode_response(tokenizer, "Yes.")
    assert set(found[1]["responses"][0]) == {"text", "token_ids", "finish_reason", "source"}


@pytest.fixture
def job(tmp_path, tokenizer, monkeypatch):
    """A run whose teacher says what it is told to, and a scorer that counts letters."""
    build_model(layers=1).save_pretrained(tmp_path / "model")
    build_tokenizer().save_pretrained(tmp_path / "model")
    model = Model(str(tmp_path / "model"), {"folder": "m"})
    run: Any = SimpleNamespace(
        settings=SimpleNamespace(warmup=None, prompts=SimpleNamespace(named="some.jsonl")),
        store=Store(tmp_path / "store"), records=[], teacher=model, start=model, folder=tmp_path,
        writing_teacher=model, teacher_tokens=model,
    )  # fmt: skip
    run.stage = lambda *args, **options: Run.stage(run, *args, **options)
    run.shown, run.said = [], {}

    def sample(run, model, prompts, source, count, **_):
        run.shown.append([prompt["messages"][-1]["content"] for prompt in prompts])
        rows = [
            {**p, "responses": [response(tokenizer, text) for text in run.said[p["prompt_id"]]]}
            for p in prompts
        ]
        return Rows(rows, f"sampled-{prompts.key}", model)

    def score(run, groups, what):
        rows = [
            {**g, "responses": [{**r, "score": float(len(r["text"]))} for r in g["responses"]]}
            for g in groups
        ]
        run.scored = [r["text"] for g in groups for r in g["responses"]]
        return Rows(rows, f"scored-{groups.key}", groups.writer)

    monkeypatch.setattr(lessons, "sample", sample)
    monkeypatch.setattr(lessons, "score", score)
    return run


def taught(run, warmup, *names):
    run.settings.warmup = warmup
    prompts = {
        split: [
            {
                key: value
                for key, value in group(name=name, split=split).items()
                if key != "responses"
            }
            for name in names
            if name.startswith(split[0])
        ]
        for split in ("train", "validation")
    }
    rows = [prompt for of_split in prompts.values() for prompt in of_split]
    by_split = {split: Rows(of_split, "prompts") for split, of_split in prompts.items()}
    return lessons.teach(run, Rows(rows, "prompts"), by_split)


def texts(groups):
    return {g["prompt_id"]: [r["text"] for r in g["responses"]] for g in groups}


def test_a_rationale_is_learned_where_the_answer_is_good(job):
    job.said = {
        "t1": ["<think>long thoughts</think>no", "<think>x</think>right"],
        "t2": ["<think>long thoughts</think>no", "<think>long thoughts"],
        "v1": ["<think>y</think>ok"],
    }
    options = {"responses_per_prompt": 2, "minimum_score": 4.0, "request": "Think."}
    found = taught(job, SFTWarmup(rationale=True, **options), "t1", "t2", "v1")
    assert texts(found.of_splits("train")) == {"t1": ["<think>x</think>right"]}
    assert texts(found.of_splits("validation")) == {"v1": ["<think>y</think>ok"]}
    assert job.scored == ["no", "right", "no"]  # thoughts are not shown to the scorer
    assert job.shown == [["t1\n\nThink.", "t2\n\nThink."], ["v1\n\nThink."]]
    assert found.rows[0]["messages"] == [{"role": "user", "content": "t1"}]
    counts = job.records[0].counts
    assert (counts["learned"], counts["low_score"], counts["empty"]) == (1, 2, 0)
    assert counts["unscored"] == 1

    found = taught(job, SFTWarmup(keep="best", responses_per_prompt=2), "t1", "v1")
    assert texts(found.of_splits("train")) == {"t1": ["right"]} and texts(
        found.of_splits("validation")
    ) == {"v1": ["ok"]}


def test_only_so_many_train_prompts_are_answered_and_learned(job):
    job.said = {name: [name] for name in ("t1", "t2", "t3", "v1", "v2")}
    found = taught(job, SFTWarmup(max_prompts=2), *job.said)
    assert job.shown == [["t1", "t2"], ["v1", "v2"]]
    assert list(texts(found.of_splits("train"))) == ["t1", "t2"]
    assert list(texts(found.of_splits("validation"))) == ["v1", "v2"]


def test_only_so_many_of_the_prompts_responses_are_learned(job):
    rows = [
        {**{k: v for k, v in group(name=name).items() if k != "responses"}, "response": name}
        for name in ("t1", "t2", "t3")
    ]
    job.settings.warmup = SFTWarmup(learn_from="data", max_prompts=2)
    found = lessons.teach(job, Rows(rows, "prompts"), {"train": Rows(rows, "prompts")})
    assert list(texts(found)) == ["t1", "t2"]
    job.settings.warmup = SFTWarmup(learn_from="data")
    whole = lessons.teach(job, Rows(rows, "prompts"), {"train": Rows(rows, "prompts")})
    assert list(texts(whole)) == ["t1", "t2", "t3"] and whole.key != found.key


def test_more_than_there_are_is_all_of_them():
    rows = Rows([{"n": 1}, {"n": 2}], "key")
    assert rows.at_most(2) is rows and rows.at_most(None) is rows
    assert rows.at_most(1).rows == [{"n": 1}] and rows.at_most(1).key != "key"


def test_nothing_to_learn_from_is_said(job):
    job.said = {"t1": ["no"]}
    with pytest.raises(UserError, match="minimum_score"):
        taught(job, SFTWarmup(minimum_score=9.0), "t1")
    with pytest.raises(UserError, match=r"'some.jsonl' has a response.*response_column"):
        taught(job, SFTWarmup(learn_from="data"), "t1")
    assert job.shown == [["t1"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rationale": True}, "only where a verifier agrees"),
        ({"keep": "bst"}, "did you mean 'best'"),
        ({"responses_per_prompt": 0}, "at least 1"),
        ({"max_prompts": 0}, "at least 1"),
        ({"learn_from": "teachr"}, "did you mean 'teacher'"),
        ({"eval_steps": 0.0}, "above 0"),
    ],
)
def test_values_out_of_range(change, message):
    with pytest.raises(UserError, match=message):
        SFTWarmup(**change)
