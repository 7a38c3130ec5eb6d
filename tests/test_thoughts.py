"""Thoughts: kept apart from the answer in scores, figures and pages, and trained on as written."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trl
from judge_data import NOBODY, group, judged, scorer, values
from test_imported_answers import ASK, of_template
from test_models_tokenizer import saved
from test_score_reward_model import reward_model
from tiny_models import build_model, build_tokenizer, model_in
from tiny_run import SMALL, run_here
from tokenizers import AddedToken

from rankdistill.evaluate.model_figures import thought_figures
from rankdistill.evaluate.verified import demand_rows
from rankdistill.models import (
    Model,
    Thoughts,
    encode_answers,
    encode_prompt,
    load_tokenizer,
    recoded,
    token_group,
)
from rankdistill.rank.combine import debiased
from rankdistill.report.answers import shown
from rankdistill.rows import answer_tokens
from rankdistill.score import Scorer, score_groups
from rankdistill.score.judge.verdicts import Reply, duel_form, rating_form
from rankdistill.store import Store
from rankdistill.thoughts import answer_of, has_no_answer, thought_counts, thought_of
from rankdistill.train.groups import ranked_group
from rankdistill.warmup.conversations import rows_of
from rankdistill.warmup.lessons import without_thoughts

FOLDER = Path(trl.__file__).parent / "chat_templates"
TEMPLATES = {
    "qwen3": "<think>\n2 + 2\n</think>\n\nIt is 4.",
    "deepseek_r1_distill": "2 + 2\n</think>\n\nIt is 4.",
    "nemotron_3_nano": "2 + 2\n</think>\nIt is 4.",
    "gptoss": "<|channel|>analysis<|message|>2 + 2<|end|><|start|>assistant<|channel|>final"
    "<|message|>It is 4.",
}
"""What a model with the template writes behind the prompt, up to the end of its turn."""
CUT = {
    "qwen3": "<think>\n2 + ", "deepseek_r1_distill": "2 + ", "nemotron_3_nano": "2 + ",
    "gptoss": "<|channel|>analysis<|message|>2 + ",
}  # fmt: skip
KEEPS = ("qwen3", "nemotron_3_nano", "gptoss")
"""Those whose template writes the last turn's thought; DeepSeek's leaves it out."""
THOUGHT = "<think>\n2 + 2\n</think>\n\nIt is 4."


@pytest.fixture(params=TEMPLATES)
def written(request, tmp_path) -> tuple[str, Any]:
    return request.param, load_tokenizer(of_template(FOLDER / f"{request.param}.jinja", tmp_path))


def sampled(tokenizer: Any, text: str, *, ended: bool = True) -> Any:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*ids, tokenizer.eos_token_id] if ended else ids
    finish = "stop" if ended else "length"
    raw = tokenizer.decode(ids, skip_special_tokens=True)
    return {"text": raw, "token_ids": ids, "finish_reason": finish, "source": "student"}


def conversation(tokenizer: Any, **turn: str) -> str:
    turns = [*ASK, {"role": "assistant", **turn}]
    return tokenizer.apply_chat_template(turns, tokenize=False)


def test_a_sampled_response_is_taken_apart(written):
    name, tokenizer = written
    prompt, thoughts = encode_prompt(tokenizer, ASK), Thoughts.of(tokenizer)
    response = sampled(tokenizer, TEMPLATES[name])
    found = thoughts.apart(prompt, response)
    assert (thought_of(found["text"]), answer_of(found["text"])) == ("2 + 2", "It is 4.")
    assert found["token_ids"] == response["token_ids"]
    answer = found["token_ids"][found.get("thought_tokens", 0) :]
    assert tokenizer.decode(answer, skip_special_tokens=True).strip() == "It is 4."
    assert answer_tokens(found) == len(answer)
    cut = thoughts.apart(prompt, sampled(tokenizer, CUT[name], ended=False))
    assert has_no_answer(cut["text"]) and thought_of(cut["text"]) == "2 +"
    assert answer_tokens(cut) == 0
    assert thoughts.identity == {"thoughts": 1}
    # An import of the text is what was sampled: the model trains on the whole.
    asked, [ids] = encode_answers(tokenizer, ASK, [found["text"]])
    assert (asked, ids) == (prompt, response["token_ids"])
    if name in KEEPS:
        whole = conversation(
            tokenizer, content="It is 4.", reasoning_content="2 + 2", thinking="2 + 2"
        )
        assert whole.startswith(tokenizer.decode([*asked, *ids]))


def test_gpt_oss_answers_without_a_thought(tmp_path):
    tokenizer = load_tokenizer(of_template(FOLDER / "gptoss.jinja", tmp_path))
    text = "<|channel|>final<|message|>It is 4."
    found = Thoughts.of(tokenizer).apart([], sampled(tokenizer, text))
    assert found["text"] == "It is 4."  # it was finalIt is 4.
    call = " to=functions.add<|channel|>commentary json<|message|>{}"
    assert answer_of(Thoughts.of(tokenizer).apart([], sampled(tokenizer, call))["text"])


@pytest.mark.parametrize("text", ["It is 4.", THOUGHT])
def test_every_route_writes_the_templates_own_conversation(written, text, tmp_path):
    name, tokenizer = written
    turn = {"content": "It is 4."}
    if text == THOUGHT:
        turn |= {"reasoning_content": "2 + 2", "thinking": "2 + 2"}
        whole = tokenizer.decode(encode_prompt(tokenizer, ASK)) + TEMPLATES[name]
        if name in KEEPS:
            assert conversation(tokenizer, **turn).startswith(whole)
    else:
        whole = conversation(tokenizer, **turn).rpartition("It is 4.")[0] + "It is 4."
    whole += tokenizer.eos_token

    def text_of(prompt: Any, ids: Any) -> str:
        return tokenizer.decode([*prompt, *ids])

    row = {"prompt": ASK[0]["content"], "chosen": text, "rejected": text.replace("4", "5")}
    ranked = ranked_group(row, 0, tokenizer).tokens
    assert text_of(ranked.prompt, ranked.responses[0]) == whole
    writer = Model(saved(tmp_path / "writer"), {"model": "writer"})
    reader = Model(tokenizer.name_or_path, {"model": "reader"})
    response = {"text": text, "token_ids": [7], "finish_reason": "stop", "source": "student"}
    one: Any = {"prompt_id": "p", "split": "train", "messages": ASK, "responses": [response]}
    [read] = recoded([one], writer, reader)
    tokens = token_group(read, tokenizer)
    assert text_of(tokens.prompt, tokens.responses[0]) == whole
    assert bool(read["responses"][0].get("thought_tokens")) == (text == THOUGHT)
    [told] = rows_of(tokenizer, [*ASK, {"role": "assistant", "content": text}])  # type: ignore
    assert text_of(told.prompt, told.rest) == whole
    trained, _ = reward_model(tmp_path / "reward", shift=0.0)
    made = scorer("reward_model", model=str(tmp_path / "reward"))
    assert tokenizer.decode(made._encode(trained, tokenizer, one, text)) == whole


def test_answers_without_their_thoughts_stand_behind_no_open_thought(tmp_path):
    tokenizer = load_tokenizer(of_template(FOLDER / "deepseek_r1_distill.jinja", tmp_path))
    response = {"text": THOUGHT, "token_ids": [7], "finish_reason": "stop", "source": "teacher"}
    one: Any = {"prompt_id": "p", "split": "train", "messages": ASK, "responses": [response]}
    tokens = token_group(without_thoughts(one, tokenizer), tokenizer)
    text = tokenizer.decode([*tokens.prompt, *tokens.responses[0]])
    assert "think" not in text and text.endswith(f"It is 4.{tokenizer.eos_token}")


def test_a_template_that_closes_the_thought_has_none(tmp_path):
    folder = of_template(FOLDER / "qwen3.jinja", tmp_path)
    model = model_in(folder)
    assert model.thoughts_identity == {"thoughts": 1}
    quiet = model.tokenizer()
    quiet.chat_template = "{% set enable_thinking = false %}" + str(quiet.chat_template)
    assert Thoughts.of(quiet).identity == {}
    assert model_in(saved(tmp_path / "plain")).thoughts_identity == {}


@dataclass(frozen=True)
class Remembering(Scorer):
    """Keeps what it is shown."""

    seen: list[str]
    verifies = True

    @property
    def name(self) -> str:
        return "remembering"

    @property
    def identity(self) -> dict[str, Any]:
        return {}

    def __call__(self, groups, access, done):
        for one in groups[done:]:
            texts = [response["text"] for response in one["responses"]]
            self.seen.extend(texts)
            yield [[1.0] * len(texts)]


def test_scorers_are_shown_answers_and_a_lost_answer_is_not_right():
    rows: Any = [group("p", THOUGHT, "Five.", "<think>\n2 +"), group("q", "a", "b")]
    remembering, counts = Remembering([]), Counter()
    parts = list(score_groups(remembering, rows, NOBODY, counts=counts))
    assert remembering.seen == ["It is 4.", "Five.", "", "a", "b"]
    scored: Any = [one for part in parts for one in part]
    assert values(scored, "remembering") == [[1.0, 1.0, 0.0], [1.0, 1.0]]
    assert scored[0]["responses"][0]["text"] == THOUGHT  # and keep what they thought
    assert counts == {"thoughts_without_answer": 1}
    # A rule on the form that nothing at all follows too, and a number that was only thought.
    no_comma = scorer("verifier", rule="regex", pattern="^[^,]*$")
    assert values(judged(no_comma, rows), "verifier")[0] == [1.0, 1.0, 0.0]
    two = scorer("verifier", rule="regex", pattern="2")
    assert values(judged(two, rows), "verifier")[0] == [0.0, 0.0, 0.0]


def test_demands_and_figures_are_of_the_answer():
    columns = json.dumps({"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]})
    one: Any = {
        **group("p", "<think>\na, b\n</think>\n\nc", "a, b", "<think>\na"),
        "columns": columns,
    }
    for response, thought in zip(one["responses"], (1, 0, 2), strict=True):
        response |= {"score": 1.0} | ({"thought_tokens": thought} if thought else {})
    assert [row.followed for row in demand_rows([one], "trained", [], "ifeval")] == [1.0, 0.0, 0.0]
    assert thought_figures(one["responses"]) == (1.0, pytest.approx(1 / 3))
    assert thought_figures(one["responses"][1:2]) == (None, None)
    assert thought_counts(one["responses"]) == {"thoughts": 2, "thoughts_without_answer": 1}
    found = shown(one["responses"][0])
    assert (found["text"], found["thought"], found["thought_tokens"]) == ("c", "a, b", 1)
    assert "thought" not in shown(one["responses"][1])


def test_the_length_that_a_score_follows_is_the_answers():
    one: Any = group("p", "a", "b", "c")
    for response, tokens, thought in zip(one["responses"], (9, 5, 4), (8, 3, 1), strict=True):
        response |= {"token_ids": [1] * tokens, "thought_tokens": thought}
        response["score"] = float(tokens - thought)
    _, slope = debiased([one])
    assert slope == pytest.approx(1.0)  # of all tokens it would be below 0


@pytest.mark.parametrize(
    "text",
    [
        '<think>Good, {"rating": "one"}?</think>{"rating": "nine"}',
        'I would say so.</think>\n\n{"rating": "nine"}',
        'I would say so.</think>\n```json\n{"rating": "nine"}\n```',
    ],
)
def test_a_judge_may_begin_inside_a_thought(text):
    assert rating_form(expected=False, explain=False).read(Reply(text)) == 9.0


def test_a_judges_reasons_may_quote_the_marks():
    reasons = json.dumps({"reasons": "No </think> is in B, <think> is.", "better": "first"})
    form = duel_form(explain=True)
    assert form.read(Reply(reasons)) == form.read(Reply(f"Hm.</think>{reasons}")) == (0, 1)
    assert form.read(Reply("<think>first")) is None


OPENING = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
    "{% for call in m.tool_calls or [] %}{{ call.function | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def test_a_thinking_student_with_tools_from_sampling_to_the_report(monkeypatch, tmp_path, capsys):
    folder, tokenizer = tmp_path / "student", build_tokenizer()
    tokenizer.add_tokens([AddedToken("</think>", special=False, normalized=False)])
    tokenizer.chat_template = OPENING
    # Of random weights each of 260 tokens is about as likely: some responses close their thought.
    model = build_model()
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    call = {"function": {"name": "add", "arguments": {"a": 2}}}
    rows = [
        {"messages": [{"role": "user", "content": f"What is {i} + 2?"},
                      {"role": "assistant", "content": None, "tool_calls": [call]},
                      {"role": "tool", "content": f"{i + 2}"}], "tools": [{"name": "add"}]}
        for i in range(40)
    ]  # fmt: skip
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = [given for given in SMALL if not given.startswith("warmup.")]
    ran = run_here(
        monkeypatch, tmp_path, "recipe=rrhf", *small, "prompts.path=prompts.jsonl",
        "score=verifier",
        "score.rule=regex", "score.pattern='[a-m]'", "sample.responses_per_prompt=6",
        "sample.max_response_tokens=160", "sample.temperature=1.0", "rank.select=all",
        "eval=[quick]", "warmup=none", "rounds=1", "eval.quick.sharpening_control=false",
        f"student.path={folder}", f"teacher.path={folder}",
    )  # fmt: skip
    assert (
        "ended before their thought did and have no answer: raise sample" in capsys.readouterr().out
    )
    store = Store(tmp_path / "home")
    counts: dict[str, Any] = {}
    for manifest in store.root.rglob("manifest.json"):
        stage = json.loads(manifest.read_text())
        counts.setdefault(stage["stage"], []).append(stage["counts"])
    assert all(found["thoughts"] == found["responses"] for found in counts["sample"])
    lost = sum(found["thoughts_without_answer"] for found in counts["sample"])
    assert 0 < lost < sum(found["responses"] for found in counts["sample"])
    metrics = json.loads((ran / "metrics.json").read_text())
    trained = metrics["models"]["trained"]
    assert trained["thought_tokens"] + trained["answer_tokens"] == pytest.approx(
        trained["response_tokens"]
    )
    assert trained["thought_only"] > 0
    report = (ran / "report.md").read_text()
    assert "of them thought" in report and "*tools*" in report
    assert '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>' in report
    rows = [json.loads(line) for line in (ran / "answers.jsonl").read_text().splitlines()]
    answers = [a for row in rows for by in row["responses"].values() for a in by]
    for answer in answers:
        assert answer["score"] == any("a" <= letter <= "m" for letter in answer["text"])
    assert {answer["score"] for answer in answers} == {0.0, 1.0}
    assert all("think>" not in answer["text"] for answer in answers)
