"""Tools, calls of them and their answers: carried from a row to tokens, scores and the report."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trl
from test_imported_answers import of_template
from test_prompts import load, write
from test_rank_existing import read

from rankdistill.errors import UserError
from rankdistill.models import Model, encode_answers, encode_prompt, load_tokenizer, recoded
from rankdistill.prompts import prompt_id
from rankdistill.prompts.formats import conversation, response_in
from rankdistill.prompts.privileged import TeachersView
from rankdistill.rank.write import trl as trl_rows
from rankdistill.rank.write import ultrafeedback
from rankdistill.sample.endpoint import _read
from rankdistill.score.judge.prompts import Frame
from rankdistill.stages.prompts import read_set
from rankdistill.store.columns import Columns, file
from rankdistill.tool_calls import as_told, calls_in, with_calls
from rankdistill.train.groups import ranked_group
from rankdistill.warmup.conversations import Conversations, rows_of

FOLDER = Path(trl.__file__).parent / "chat_templates"
PARAMETERS = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}}
TOOLS = [
    {"type": "function",
     "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS}},
]  # fmt: skip
CALL = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
ASK = [{"role": "user", "content": "What is 2 + 3?"}]
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "5", "name": "add"}
SAID = {"role": "assistant", "content": "It is 5."}
WHOLE = [*ASK, CALLED, RESULT, SAID]
TEXT = '<tool_call>\n{"name": "add", "arguments": {"a": 2, "b": 3}}\n</tool_call>'
WITH_WORDS = ("qwen3", "qwen2_5", "llama3_1", "gptoss", "nemotron_3_nano", "glm4moe")


@pytest.fixture(params=WITH_WORDS)
def tokenizer(request, tmp_path) -> Any:
    return load_tokenizer(of_template(FOLDER / f"{request.param}.jinja", tmp_path))


@pytest.fixture
def qwen(tmp_path) -> Any:
    return load_tokenizer(of_template(FOLDER / "qwen3.jinja", tmp_path / "qwen"))


def own_text(tokenizer: Any, turns: Any, *, prompt: bool = False) -> str:
    """What transformers writes, which has arguments as objects."""
    calls = [{**CALL, "function": {"name": "add", "arguments": {"a": 2, "b": 3}}}]
    turns = [{**t, "tool_calls": calls} if t.get("tool_calls") else t for t in turns]
    return tokenizer.apply_chat_template(
        turns, tools=TOOLS, tokenize=False, add_generation_prompt=prompt
    )


ROWS = [
    {"messages": WHOLE, "tools": TOOLS},
    {"messages": WHOLE, "tools": json.dumps([TOOLS[0]["function"]])},
    {"messages": [ASK[0], {"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": "add", "arguments": {"a": 2, "b": 3, "c": None}}}]}, RESULT, SAID],
     "tools": [{**TOOLS[0], "strict": None}]},
    {"messages": [ASK[0], {"role": "assistant", "content": None,
                           "function_call": CALL["function"]}, RESULT, SAID],
     "functions": [TOOLS[0]["function"]]},
    {"conversations": [
        {"from": "human", "value": "What is 2 + 3?"},
        {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 3}}'},
        {"from": "observation", "value": "5"}, {"from": "gpt", "value": "It is 5."}],
     "tools": json.dumps(TOOLS)},
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=["OpenAI", "text", "nulls", "functions", "ShareGPT"])
def test_rows_of_every_form_are_the_same_conversation(row, qwen):
    asked = conversation(row, "line 1")
    text = qwen.decode(encode_prompt(qwen, asked))
    assert text == own_text(qwen, WHOLE[:-1], prompt=True)
    assert response_in(row) == "It is 5."
    without = conversation({**row, "tools": None, "functions": None}, "line 1")
    assert prompt_id(asked) != prompt_id(without)
    assert prompt_id(asked) == prompt_id(conversation(ROWS[0], "line 1"))


def test_prompts_and_answers_are_the_templates_own(tokenizer):
    asked = [{**ASK[0], "tools": json.dumps(TOOLS)}]
    assert tokenizer.decode(encode_prompt(tokenizer, asked)) == own_text(
        tokenizer, ASK, prompt=True
    )
    behind = [*asked, CALLED, RESULT]
    assert tokenizer.decode(encode_prompt(tokenizer, behind)) == own_text(
        tokenizer, WHOLE[:-1], prompt=True
    )
    prompt, [call] = encode_answers(tokenizer, asked, [TEXT])
    whole = own_text(tokenizer, [*ASK, CALLED])
    written = tokenizer.decode([*prompt, *call])
    assert whole.startswith(written) or whole + tokenizer.eos_token == written
    assert "add" in tokenizer.decode(call)


def test_only_the_assistants_tokens_are_learned(qwen, tmp_path):
    asked = [{**ASK[0], "tools": json.dumps(TOOLS)}, CALLED, RESULT, SAID]
    rows = rows_of(qwen, asked)  # type: ignore[arg-type]
    learned = [
        qwen.decode(row.rest[start:end]).replace("<think>\n\n</think>\n\n", "")
        for row in rows
        for start, end in row.turns
    ]
    assert learned == [f"{TEXT}<|im_end|>", "It is 5.<|im_end|>"]
    path = write(tmp_path, [ROWS[0]])
    groups, counts = Conversations(path, 2000, None, 0).read(qwen, set())
    assert counts["conversations"] == 1 and "unnamed_tool" not in counts
    assert sum(len(g["responses"][0]["turns"]) for g in groups) == 2  # type: ignore[typeddict-item]


def test_a_prompt_file_and_a_ranked_set_carry_them(qwen, tmp_path):
    path = write(tmp_path, [ROWS[0], {"messages": ASK}])
    prompts, counts = load(path, qwen, max_prompt_tokens=2000)
    assert counts["read"] == 2 and len(prompts) == 2
    stored = tmp_path / "rows.arrow"
    stored.write_bytes(file(prompts))
    assert list(Columns(stored)) == prompts  # as stages hand them on
    carried = next(p for p in prompts if len(p["messages"]) == 3)
    assert json.loads(carried["messages"][0]["tools"]) == TOOLS  # type: ignore[typeddict-item]
    pair = {
        "prompt": ASK, "tools": TOOLS, "chosen": [CALLED],
        "rejected": [{"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]}],
    }  # fmt: skip
    [ranked], _ = read(tmp_path, [pair], tokenizer=qwen, max_prompt_tokens=2000)
    assert [r["text"] for r in ranked["responses"]] == [TEXT, f"Let me see.\n{TEXT}"]
    [out] = trl_rows(ranked, "best_worst")
    assert json.loads(out["tools"]) == TOOLS and "tools" not in out["prompt"][0]
    [again], _ = read(tmp_path, [out], tokenizer=qwen, max_prompt_tokens=2000)
    assert again["messages"] == ranked["messages"]
    assert [r["token_ids"] for r in again["responses"]] == [
        r["token_ids"] for r in ranked["responses"]
    ]
    with pytest.raises(UserError, match="has tools, for which UltraFeedback"):
        list(ultrafeedback(ranked, "best_worst"))


def test_a_group_of_the_trainers_brings_its_tools(qwen):
    called = {**CALLED, "tool_calls": [{"function": {"name": "add"}}]}
    row = {"messages": [*ASK, called, RESULT], "tools": TOOLS,
           "responses": [{"text": "a", "score": 1}, {"text": "b", "score": 0}]}  # fmt: skip
    prompt = qwen.decode(list(ranked_group(row, 0, qwen).tokens.prompt))
    assert "Adds." in prompt and '{"name": "add", "arguments": {}}' in prompt


def test_a_teacher_of_another_template_reads_a_call_in_its_own_way(qwen, tmp_path):
    llama = of_template(FOLDER / "llama3_1.jinja", tmp_path / "llama")
    response = {"text": TEXT, "token_ids": [7], "finish_reason": "stop", "source": "student"}
    asked = [{**ASK[0], "tools": json.dumps(TOOLS)}]
    one: Any = {"prompt_id": "p", "split": "train", "messages": asked, "responses": [response]}
    reader = Model(llama, {"model": "reader"})
    [told] = recoded([one], Model(qwen.name_or_path, {"model": "writer"}), reader)
    text = reader.tokenizer().decode(told["responses"][0]["token_ids"])
    assert '"name": "add"' in text and "<tool_call>" not in text


def test_judges_readers_and_a_teacher_that_sees_more_have_them():
    asked = [{**ASK[0], "tools": json.dumps(TOOLS)}, CALLED, RESULT]
    [question] = Frame("{conversation}").ask(asked)
    assert "Adds." in question["content"] and TEXT in question["content"]
    told = as_told(asked)
    assert [turn["role"] for turn in told] == ["tools", "user", "assistant", "tool"]
    assert told[2]["content"] == TEXT
    assert as_told(ASK) == ASK
    view = TeachersView("{prompt} Be right.", "Be brief.")
    seen: Any = view.messages({"messages": asked[:1], "prompt_id": "p"})
    assert seen[0]["role"] == "system" and json.loads(seen[0]["tools"]) == TOOLS


@pytest.mark.parametrize(("left_out", "times"), [(0, 1), (1, 2)])
def test_a_set_whose_tools_an_earlier_version_left_out_is_read_anew(left_out, times):
    asked: list[Any] = []

    def stage(stage: str, what: str, identity: Any, make: Any) -> Any:
        asked.append(identity)
        counts = {"read": 2} if "tools" in identity else {"read": 2, "tool_calls": left_out}
        return SimpleNamespace(manifest={"counts": counts})

    run: Any = SimpleNamespace(stage=stage)
    read_set(run, "prompts", "a set", {"code": 2}, lambda _: {})
    assert asked == [{"code": 2}, {"code": 2, "tools": 1}][:times]


def test_calls_in_a_text():
    assert calls_in(f"So.\n{TEXT}\n{TEXT}") == ("So.", [CALL, CALL])
    for odd in ("<tool_call>\n{no}\n</tool_call>", '<tool_call>{"name": 1}</tool_call>', "2 + 3"):
        assert calls_in(odd) == (odd, [])
    assert with_calls({"content": "So.", "tool_calls": [CALL]}) == f"So.\n{TEXT}"


def test_what_a_served_teacher_calls_is_its_text():
    message = {"content": None, "tool_calls": [{"id": "1", **CALL}]}
    answer = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    assert _read(answer) == {"text": TEXT, "finish_reason": "stop"}
