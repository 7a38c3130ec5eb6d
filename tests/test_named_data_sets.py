"""Each row of the table of public data sets in docs/ranked_sets.md, on small rows in its shape."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from test_prompts import load, write
from test_rank_existing import read
from test_rows_of_others import HI, assistant, system, user
from tiny_models import build_tokenizer

from rankdistill.warmup.conversations import Conversations

ROOT = Path(__file__).parents[1]
TOKENIZER = build_tokenizer()
HEADING = "## Public data sets by name"
CONVERSATION = [*HI, assistant("Yo"), user("Why?")]


def table() -> dict[str, list[str]]:
    """The arguments of each data set, by its name."""
    section = (ROOT / "docs/ranked_sets.md").read_text().partition(HEADING)[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line[:1] == "|"][2:]
    return {name: shlex.split(arguments.strip("`")) for name, _, arguments, _ in rows}


def pair(*, prompt: Any = None, **more: Any) -> dict[str, Any]:
    """Both sides whole conversations."""
    told = prompt or HI
    return {"chosen": [*told, assistant("a")], "rejected": [*told, assistant("b")], **more}


def message(name: str, parent: str | None, role: str, text: str, rank: Any = None, **more: Any):
    return {"message_id": name, "parent_id": parent, "role": role, "text": text, "rank": rank,
            "lang": "en", "deleted": False, **more}  # fmt: skip


STARS = {"correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 1}
Ranking = tuple[list[dict[str, str]], list[tuple[str, float]]]
RANKED: dict[str, tuple[list[dict[str, Any]], list[Ranking]]] = {
    "UltraFeedback": (
        [{"source": "x", "instruction": "Hi", "models": ["m", "n"], "completions": [
            {"response": "a", "model": "m", "overall_score": 1.0, "fine-grained_score": 4.5,
             "annotations": {"honesty": {"Rating": "4"}}, "critique": "Good."},
            {"response": "b", "model": "n", "overall_score": 9.0, "fine-grained_score": 2.0}]}],
        [(HI, [("a", 4.5), ("b", 2.0)])]),
    "UltraFeedback binarized": (
        [pair(prompt_id="x", score_chosen=8.5, score_rejected=7.0, messages=[*HI, assistant("a")])
         | {"prompt": "Hi"}],
        [(HI, [("a", 8.5), ("b", 7.0)])]),
    "UltraFeedback of TRL": ([pair(score_chosen=8.5, score_rejected=7.0)],
                             [(HI, [("a", 8.5), ("b", 7.0)])]),
    "HH-RLHF": (
        [{side: f"\n\nHuman: Hi\n\nAssistant: Yo\n\nHuman: Why?\n\nAssistant: {text}"
          for side, text in (("chosen", "a"), ("rejected", "b"))}],
        [(CONVERSATION, [("a", 1.0), ("b", 0.0)])]),
    "SHP": (
        [{"post_id": "p", "history": "Hi", "human_ref_A": "a", "human_ref_B": "b", "labels": 0,
          "score_A": 3, "score_B": 9, "seconds_difference": 1.0}],
        [(HI, [("a", 0.0), ("b", 1.0)])]),
    "HelpSteer2": (
        [{"prompt": "Hi", "response": text, "helpfulness": stars, **STARS}
         for text, stars in (("a", 4), ("b", 1))],
        [(HI, [("a", 4.0), ("b", 1.0)])]),
    "HelpSteer3": (
        [{"domain": "general", "language": "english", "context": CONVERSATION, "response1": "a",
          "response2": "b", "overall_preference": -2, "individual_preference": [{"score": -2}]}],
        [(CONVERSATION, [("a", 1.0), ("b", 0.0)])]),
    "Nectar": (
        [{"prompt": "\n\nHuman: Hi\n\nAssistant: ", "turns": 1, "num_responses": 2, "source": ["x"],
          "answers": [{"answer": "a", "model": "m", "rank": 1.0},
                      {"answer": "b", "model": "n", "rank": 2.0}]}],
        [(HI, [("a", -1.0), ("b", -2.0)])]),
    "PKU-SafeRLHF": (
        [{"prompt": "Hi", "response_0": "a", "response_1": "b", "is_response_0_safe": True,
          "better_response_id": 1, "safer_response_id": 0}],
        [(HI, [("a", 0.0), ("b", 1.0)])]),
    "PKU-SafeRLHF, safety": (
        [{"prompt": "Hi", "response_0": "a", "response_1": "b", "is_response_0_safe": True,
          "better_response_id": 1, "safer_response_id": 0}],
        [(HI, [("a", 1.0), ("b", 0.0)])]),
    "Orca DPO pairs": (
        [{"system": "Be brief.", "question": "Hi", "chosen": "a", "rejected": "b"}],
        [([system("Be brief."), *HI], [("a", 1.0), ("b", 0.0)])]),
    "Orca DPO pairs of distilabel": (
        [{"system": "Be brief.", "input": "Hi", "chosen": "b", "rejected": "a",
          "rating": [6.0, 9.0], "generations": ["a", "b"], "order": ["rejected", "chosen"],
          "status": "swapped", "chosen_score": 9.0}],
        [([system("Be brief."), *HI], [("a", 6.0), ("b", 9.0)])]),
    "Capybara of distilabel": (
        [pair(prompt=CONVERSATION, rating_chosen=5.0, rating_rejected=3.0, original_response="a",
              conversation=[{"input": "Hi", "output": "Yo"}, {"input": "Why?", "output": "a"}],
              new_generations=["b"])],
        [(CONVERSATION, [("a", 5.0), ("b", 3.0)])]),
    "DPO mix": ([pair(dataset="x", chosen_rating=5.0, rejected_rating=4.0)],
                [(HI, [("a", 5.0), ("b", 4.0)])]),
    "OpenAssistant": (
        [message("1", None, "prompter", "Hi"), message("2", "1", "assistant", "Yo", 0.0),
         message("3", "1", "assistant", "Bah", 1.0), message("4", "2", "prompter", "Why?", 0.0),
         message("5", "2", "prompter", "So?", 1.0), message("6", "4", "assistant", "a", 0.0),
         message("7", "4", "assistant", "gone", 1.0, deleted=True),
         message("8", "4", "assistant", "unranked"), message("9", "4", "assistant", "b", 2.0)],
        [(HI, [("Yo", 0.0), ("Bah", -1.0)]), (CONVERSATION, [("a", 0.0), ("b", -2.0)])]),
    "WebGPT": (
        [{"question": {"dataset": "x", "id": "1", "full_text": "Hi"}, "answer_0": "a",
          "answer_1": "b", "score_0": 0.5, "score_1": -0.5,
          "quotes_0": {"title": [], "extract": []}, "tokens_0": {"prefix": []}}],
        [(HI, [("a", 0.5), ("b", -0.5)])]),
    "LLMBar": ([{"input": "Hi", "output_1": "a", "output_2": "b", "label": 2}],
               [(HI, [("a", 0.0), ("b", 1.0)])]),
    "JudgeBench": (
        [{"pair_id": "1", "source": "x", "question": "Hi", "response_A": "a", "response_B": "b",
          "response_model": "m", "label": "B>A"}],
        [(HI, [("a", 0.0), ("b", 1.0)])]),
    "RM-Bench": (
        [{"id": 1, "domain": "chat", "prompt": "Hi", "chosen": ["a", "A"], "rejected": ["b", "B"]}],
        [(HI, [("a", 1.0), ("A", 1.0), ("b", 0.0), ("B", 0.0)])]),
    "RewardBench": (
        [{"id": 1, "subset": "chat", "prompt": "Hi", "chosen": "a", "chosen_model": "m",
          "rejected": "b", "rejected_model": "n"}],
        [(HI, [("a", 1.0), ("b", 0.0)])]),
    "RRHF's data": ([{"query": "Hi", "responses": ["a", "b"], "scores": [0.5, 0.25]}],
                    [(HI, [("a", 0.5), ("b", 0.25)])]),
    "KTO mix": (
        [{"prompt": HI, "completion": [assistant(text)], "label": good}
         for text, good in (("a", True), ("b", False))],
        [(HI, [("a", 1.0), ("b", 0.0)])]),
}  # fmt: skip
READ: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "Dolly": ({"instruction": "When?", "context": "In 1999.", "response": "1999",
               "category": "closed_qa"}, [user("When?\n\nIn 1999.")]),
    "Alpaca": ({"instruction": "Sum", "input": "1, 2", "output": "3", "text": "Below is .."},
               [user("Sum\n\n1, 2")]),
    "GSM8K": ({"question": "Hi", "answer": "So 3.\n#### 3"}, HI),
    "ShareGPT": (
        {"id": "1", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt",
         "value": "Yo"}, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "a"}]},
        [*CONVERSATION, assistant("a")]),
    "UltraChat": (
        {"prompt": "Hi", "prompt_id": "x", "messages": [*CONVERSATION, assistant("a")]},
        [*CONVERSATION, assistant("a")]),
    "Capybara": (
        {"source": "x", "conversation": [{"input": "Hi", "output": "Yo"},
                                         {"input": "Why?", "output": "a"}]},
        [*CONVERSATION, assistant("a")]),
}  # fmt: skip
"""A row of a set without a ranking, and the prompt or the whole conversation."""


def test_the_table_and_these_rows_name_the_same_sets():
    assert sorted(table()) == sorted([*RANKED, *READ])


def arguments(name: str) -> dict[str, Any]:
    """The values that the table's arguments give, by their keys."""
    parsed = OverridesParser.create().parse_overrides(table()[name])
    return {override.key_or_group: override.value() for override in parsed}


@pytest.mark.parametrize("name", RANKED)
def test_a_ranked_set_is_read_as_the_table_says(name, tmp_path, capsys):
    rows, expected = RANKED[name]
    given = arguments(name)
    assert given.pop("rank.path")
    groups, _ = read(tmp_path, rows, **{key.partition(".")[2]: v for key, v in given.items()})
    told = {
        tuple((m["role"], m["content"]) for m in group["messages"]): {
            (response["text"], response["score"]) for response in group["responses"]
        }
        for group in groups
    }
    assert told == {
        tuple((m["role"], m["content"]) for m in messages): set(scores)
        for messages, scores in expected
    }
    assert capsys.readouterr().out == ""  # nothing is left out, and nothing is not read


@pytest.mark.parametrize("name", READ)
def test_other_sets_are_read_as_the_table_says(name, tmp_path, capsys):
    row, expected = READ[name]
    given = arguments(name)
    path = write(tmp_path, [row])
    if "warmup.conversations" in given:
        [group], _ = Conversations(str(path), 500, None, 0).read(TOKENIZER, set())
        [response] = group["responses"]
        whole = TOKENIZER.apply_chat_template(expected, tokenize=False)
        prompt = TOKENIZER.apply_chat_template(
            expected[:1], tokenize=False, add_generation_prompt=True
        )
        assert TOKENIZER.decode(response["token_ids"]) == whole.removeprefix(prompt).rstrip("\n")
        turns = [
            TOKENIZER.decode(response["token_ids"][slice(*span)]) for span in response["turns"]
        ]
        assert turns == ["Yo<|im_end|>", "a<|im_end|>"]
    else:
        assert given.pop("prompts.path")
        options = {key.removeprefix("prompts."): value for key, value in given.items()}
        [prompt], _ = load(path, TOKENIZER, **options)
        assert prompt["messages"] == expected
        for kept in options.get("keep", []):
            assert json.loads(prompt["columns"])[kept] == row[kept]
    assert capsys.readouterr().out == ""


def test_every_set_that_is_named_elsewhere_is_in_the_table():
    key = r"(?:rank\.path|prompts\.path|warmup\.conversations)=([\w-]+/[\w.:/-]+)"
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md")]
    named = {name for page in pages for name in re.findall(key, page.read_text())}
    for file in ROOT.glob("recipes/*.yaml"):
        recipe = yaml.safe_load(file.read_text())
        for group, name in (("rank", "path"), ("prompts", "path"), ("warmup", "conversations")):
            path = (recipe.get(group) or {}).get(name)
            named.update(path if isinstance(path, dict | list) else [path])  # several sets
    assert {"openbmb/UltraFeedback", "HuggingFaceH4/ultrachat_200k:train_sft"} <= named
    hub = {
        name for name in named if name and "/" in name and not name.endswith((".json", ".jsonl"))
    }
    assert not {name for name in hub if name.partition(":")[0] not in str(table())}
