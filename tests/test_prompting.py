"""Better prompts: the same demands, asked in another way, with examples that keep to theirs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from demand_prompts import demands, drawn, of_split

from rankdistill.evaluate import prompting
from rankdistill.evaluate.prompting import (
    PROMPTINGS,
    SYSTEM,
    prompted,
    repeated,
    with_examples,
    with_system,
)
from rankdistill.prompts.demands import demand, kinds
from rankdistill.score.verifier.instructions import follows

PLAIN: Any = {
    "prompt_id": "own", "split": "heldout",
    "messages": [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."},
                 {"role": "user", "content": "What is tea? Be brief."}],
}  # fmt: skip


@pytest.mark.parametrize("name", ["system", "repeated", "examples"])
def test_each_way_asks_for_the_same(name):
    assert list(PROMPTINGS) == ["system", "repeated", "examples"]
    for prompt in [*of_split(drawn(0), "heldout"), PLAIN]:
        before = json.dumps(prompt)
        other = prompted(prompt, name)
        assert other["messages"] != prompt["messages"]
        assert {key: value for key, value in other.items() if key != "messages"} == {
            key: value for key, value in prompt.items() if key != "messages"
        }
        assert other["messages"][-1]["role"] == "user"
        assert other["messages"][-1]["content"].startswith(prompt["messages"][-1]["content"])
        assert json.dumps(prompt) == before, "the prompt itself was changed"


def test_a_system_turn_stands_first():
    assert with_system(PLAIN) == [{"role": "system", "content": SYSTEM}, *PLAIN["messages"]]


def test_every_demand_is_said_twice():
    several = [prompt for prompt in drawn(0) if len(demands(prompt)) == 4]
    assert len(several) > 20
    for prompt in several:
        said = repeated(prompt)[-1]["content"]
        text = prompt["messages"][-1]["content"]
        again = said.removeprefix(text)
        assert again == "\n\nRemember: " + " ".join(one.text for one in demands(prompt))
        assert all(said.count(one.text) == 2 for one in demands(prompt))


def test_a_request_without_demands_is_said_twice_as_a_whole():
    said = repeated(PLAIN)
    assert said[:-1] == PLAIN["messages"][:-1]
    request = "What is tea? Be brief."
    assert said[-1]["content"] == f"{request}\n\nRemember: {request}"


def test_two_examples_of_other_kinds():
    examples = {request: (kind, answer) for kind, request, answer in prompting._EXAMPLES}
    for prompt in [*drawn(0), PLAIN]:
        turns = with_examples(prompt)
        shown, own = turns[: -len(prompt["messages"])], turns[-len(prompt["messages"]) :]
        assert own == prompt["messages"]
        assert [turn["role"] for turn in shown] == ["user", "assistant"] * 2
        asked = {one.kind for one in demands(prompt)} if "columns" in prompt else set()
        requests = [turn["content"] for turn in shown[::2]]
        assert len(set(requests)) == 2
        for request, answer in zip(requests, shown[1::2], strict=True):
            kind, right = examples[request]
            assert kind not in asked and answer["content"] == right


def test_train_prompts_with_their_responses_are_examples_where_there_are_any():
    worked: Any = [
        {**PLAIN, "messages": [{"role": "user", "content": f"{n} + 1?"}], "response": f"{n + 1}"}
        for n in range(2)
    ]
    shown = [
        {"role": "user", "content": "0 + 1?"}, {"role": "assistant", "content": "1"},
        {"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"},
    ]  # fmt: skip
    assert prompted(PLAIN, "examples", worked) == {
        **PLAIN, "messages": [*shown, *PLAIN["messages"]]
    }  # fmt: skip
    for way in ("system", "repeated"):
        assert prompted(PLAIN, way, worked) == prompted(PLAIN, way)
    assert prompted(PLAIN, "examples", []) == prompted(PLAIN, "examples")


def test_a_prompt_of_four_kinds_leaves_two_examples():
    shown = [kind for kind, *_ in prompting._EXAMPLES]
    assert len(set(shown)) == len(shown) >= 4 + 2


@pytest.mark.parametrize(("name", "request_", "answer"), prompting._EXAMPLES)
def test_the_answers_of_the_examples_follow_their_demand(name, request_, answer):
    # The demand stands behind the request, word for word as a train prompt has it.
    first, second = kinds()[name].sides
    made = [
        demand(kinds()[name], side, False, wording, argument)
        for side in (first, second)
        for wording in range(len(side.known.texts))
        for argument in range(len(side.known.arguments))
    ]
    [asked] = [one for one in made if request_.endswith(f" {one.text}")]
    assert follows(answer, asked.rule, asked.arguments)
    assert not follows(answer, asked.opposite_rule, asked.opposite_arguments)
