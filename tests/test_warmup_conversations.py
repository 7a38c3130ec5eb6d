"""Conversations of their own: which are taken, and that the assistant's turns alone are learned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import build_tokenizer
from warmup_runs import warm_up

from rankdistill.errors import UserError
from rankdistill.models import load_model, load_tokenizer
from rankdistill.prompts import prompt_id
from rankdistill.rows import Message
from rankdistill.warmup.conversations import Conversations, rows_of
from rankdistill.warmup.rows import token_rows
from rankdistill.warmup.sft import SFTWarmup

# As Qwen3's does with thoughts: an earlier answer is written differently once others follow.
REWRITING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}({{ m['content'] }})"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def turns(*texts: str) -> list[Message]:
    """A conversation that a user begins."""
    roles = ("user", "assistant")
    return [Message(role=roles[i % 2], content=text) for i, text in enumerate(texts)]


def learned_texts(tokenizer, row) -> list[str]:
    return [tokenizer.decode(row.rest[start:end]) for start, end in row.turns]


def test_one_row_holds_every_turn_of_the_assistant(tokenizer):
    messages = turns("Hi", "Hello!", "And?", "More.", "Thanks")
    [row] = rows_of(tokenizer, messages)
    assert learned_texts(tokenizer, row) == ["Hello!<|im_end|>", "More.<|im_end|>"]
    # The whole row is what the template writes of the conversation up to its last answer.
    text = tokenizer.apply_chat_template(messages[:4], tokenize=False)
    assert tokenizer.decode(row.prompt + row.rest) == text.removesuffix("\n")
    assert row.messages == messages[:1]


def test_a_template_that_rewrites_earlier_turns_gives_a_row_a_turn():
    tokenizer = build_tokenizer()
    tokenizer.chat_template = REWRITING
    rows = rows_of(tokenizer, turns("Hi", "Hello!", "And?", "More."))
    assert [learned_texts(tokenizer, row) for row in rows] == [
        ["Hello!<|im_end|>"], ["More.<|im_end|>"],
    ]  # fmt: skip
    assert "(Hello!)" in tokenizer.decode(rows[1].prompt)


def test_nothing_that_answers_nobody_is_learned(tokenizer):
    greeting = [Message(role="assistant", content="Welcome."), *turns("Hi", "Hello!", "", " ")]
    [row] = rows_of(tokenizer, greeting)
    assert learned_texts(tokenizer, row) == ["Hello!<|im_end|>"]


def test_a_cut_ends_without_eos_and_with_an_answer(tokenizer):
    [row] = rows_of(tokenizer, turns("Hi", "Hello!", "And?", "More."))
    first = len(row.prompt) + row.turns[0][1]
    assert row.cut(len(row.prompt) + len(row.rest)) is row
    within = row.cut(first + 5)  # in the middle of the second question
    assert within is not None and within.turns == row.turns[:1]
    assert len(within.prompt + within.rest) == first
    middle = row.cut(first - 3)
    assert middle is not None and learned_texts(tokenizer, middle) == ["Hell"]
    assert middle.is_cut and middle.group("a", "train")["responses"][0]["finish_reason"] == "length"
    assert row.cut(len(row.prompt)) is None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Twenty conversations in several formats, one of them twice, one without an answer."""
    rows: list[dict[str, Any]] = [
        {"messages": turns(f"Question {i}", f"Answer {i}", "Why?", "So.")} for i in range(16)
    ]
    rows += [{"instruction": f"Do {i}", "input": "", "output": f"Done {i}"} for i in range(3)]
    rows += [{"conversations": [{"from": "human", "value": "A"}, {"from": "gpt", "value": "B"}]}]
    rows += [rows[0], {"prompt": "Nobody answers."}]
    path = tmp_path / "conversations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(file: Path, tokenizer, held_out=frozenset(), **options):
    chosen = {"max_tokens": 400, "train": None, "validation": 4, **options}
    return Conversations(str(file), **chosen).read(tokenizer, held_out)


def test_which_are_taken(file, tokenizer):
    groups, counts = read(file, tokenizer)
    assert counts == {
        "read": 22, "duplicates": 1, "held_out": 0, "without_answer": 1, "too_long": 0, "cut": 0,
        "conversations": 20,
    }  # fmt: skip
    assert [g["split"] for g in groups] == ["validation"] * 4 + ["train"] * 16
    fewer, _ = read(file, tokenizer, train=3)
    assert fewer == groups[:7]
    # What has no answer within the limit takes nobody's place.
    short, counts = read(file, tokenizer, validation=0, max_tokens=25)
    assert counts["too_long"] == 16 and counts["conversations"] == len(short) == 4
    assert read(file, tokenizer, validation=0, max_tokens=25, train=3)[0] == short[:3]


def test_no_conversation_answers_a_held_out_prompt(file, tokenizer):
    second = prompt_id(turns("Question 3", "Answer 3", "Why?"))
    held_out = {prompt_id(turns("Question 7")), second, prompt_id(turns("Do 1"))}
    groups, counts = read(file, tokenizer, held_out)
    assert counts["held_out"] == 3 and counts["conversations"] == 17
    first = [g["messages"][0]["content"] for g in groups]
    assert not {"Question 7", "Question 3", "Do 1"} & set(first) and "Question 8" in first


def test_the_loss_is_over_the_assistants_tokens(file, tiny_dir, tmp_path):
    tokenizer, model = load_tokenizer(str(tiny_dir)), load_model(str(tiny_dir))
    groups, _ = read(file, tokenizer, train=4, validation=0)
    warmup = SFTWarmup(responses_per_step=4, epochs=1.0, warmup_ratio=0.0)
    figures = warm_up(warmup, tiny_dir, "", groups, tmp_path / "model")
    logps: list[float] = []
    for row in token_rows(groups, tokenizer):
        ids = torch.tensor([[*row.tokens.prompt, *row.response]])
        with torch.no_grad():
            found = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        start = len(row.tokens.prompt) - 1
        for begin, end in row.turns or ():
            logps += found[start + begin : start + end].tolist()
    assert (
        figures["tokens"] == len(logps) < sum(len(g["responses"][0]["token_ids"]) for g in groups)
    )
    assert figures["history"][0]["loss"] == pytest.approx(-sum(logps) / len(logps), abs=1e-4)


def test_values_out_of_range():
    with pytest.raises(UserError, match="max_conversation_tokens is 0; it must be at least 1"):
        SFTWarmup(max_conversation_tokens=0)


def test_no_conversation_at_all_is_no_warm_up():
    assert SFTWarmup(conversations="a.jsonl", train_conversations=0).lessons is None
    assert SFTWarmup(conversations="a.jsonl").lessons is not None
