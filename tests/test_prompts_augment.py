"""Prompts that a teacher writes: what is asked, what is kept, what composes with them."""

from __future__ import annotations

import json
import random

import pytest
from tiny_run import TINY, run_here

from rankdistill.prompts.augment import REASONS, Filter, Language, requests, text_of, written
from rankdistill.prompts.similarity import NearDuplicates, rouge_l, words
from rankdistill.schema import AugmentConfig
from rankdistill.stages.prompts import new_prompts

SEEDS = [
    "Name three rivers in South America and one fact about each of them.",
    "Write a short poem about the sea in winter for a child.",
    "Explain how to tie a bow tie to somebody who has never done it.",
    "What is the capital of France, and since when has it been the capital?",
    "Give me five ideas for a healthy breakfast that take ten minutes.",
]


def prompt(text, split="train"):
    return {"prompt_id": text, "split": split, "messages": [{"role": "user", "content": text}]}


def common(a, b):
    """Longest common subsequence by the textbook's table."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    return table[-1][-1]


def test_rouge_l_against_the_textbook():
    generator = random.Random(0)
    for _ in range(200):
        a, b = ([generator.choice("abcde") for _ in range(generator.randint(1, 80))] for _ in "ab")
        assert rouge_l(a, b) == pytest.approx(2 * common(a, b) / (len(a) + len(b)), abs=1e-12)
    assert rouge_l([], ["a"]) == 0.0 and rouge_l(["a"], ["a"]) == 1.0


def test_near_duplicates_are_those_of_all_pairs():
    """MinHash may only leave out pairs that ROUGE-L would not call duplicates."""
    generator = random.Random(1)
    texts = [" ".join(generator.choices("abcdefghij", k=12)) for _ in range(60)]
    for text in list(texts):
        changed = text.split()
        for _ in range(generator.randint(0, 5)):
            changed[generator.randrange(12)] = "x"
        texts.append(" ".join(changed))
    found, expected = [], []
    index = NearDuplicates(0.7)
    for number, text in enumerate(texts):
        found.append(index.has_one_like(text))
        expected.append(any(rouge_l(words(text), words(t)) >= 0.7 for t in texts[:number]))
        index.add(text)
    assert found == expected and 20 < sum(expected) < 100


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("Write a poem about the mountains.", True),
        ("Explain why the sky is blue to a child who has never asked about it before.", True),
        ("Напиши стихи про море.", False),
        ("写一首关于大海的诗。", False),
        ("Schreibe bitte ein Gedicht über die Berge, das sich reimt, und lies es dann vor.", False),
        ("12 + 34 = ?", False),
        ("Translate 'море' for me please, and say it.", True),
    ],
)
def test_the_language_is_that_of_the_seeds(text, same):
    assert Language(SEEDS * 2).has(text) is same


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("Name three rivers.", "Name three rivers."),
        ("Task 5: Name three rivers.\n\nAnswer: Nile", "Name three rivers."),
        ("**Rewritten task:** Name three\nrivers.", "Name three\nrivers."),
        ('"Name three rivers."', "Name three rivers."),
        ("", ""),
        ("New task 2 - : Sing", "Sing"),
    ],
)
def test_the_new_prompt_in_a_response(response, text):
    assert written(response) == text


def test_requests_show_prompts_of_the_train_split_only():
    made = requests([prompt(text) for text in SEEDS], 10, 0.3, seed=0)
    assert [request.kind for request in made].count("evolve") == 3
    for request in made:
        [message] = request.messages
        shown = [text for text in SEEDS if text in message["content"]]
        assert len(shown) == (1 if request.kind == "evolve" else 4)
    assert made == requests([prompt(text) for text in SEEDS], 10, 0.3, seed=0)
    assert made != requests([prompt(text) for text in SEEDS], 10, 0.3, seed=1)
    assert len(requests([prompt(SEEDS[0])], 2, 0.0, seed=0)) == 2


def test_why_prompts_are_dropped():
    deciding = Filter(
        [prompt(text, split) for text, split in zip(SEEDS, ["train", "heldout"] * 3, strict=False)],
        rouge_l=0.7, least_words=3, most_words=20,
    )  # fmt: skip
    for text, reason in [
        ("", "empty"),
        ("Sing now.", "too_short"),
        ("word " * 21, "too_long"),
        ("Rewrite the given prompt about the sea.", "about_the_task"),
        ("Напиши стихи про море.", "other_language"),
        ("Write a short poem about the sea in winter for my child.", "near_duplicate"),  # held out
        ("Describe a mountain to a person who cannot see.", None),
        ("Describe a mountain to a person who cannot see it.", "near_duplicate"),  # of the new one
    ]:
        assert deciding.refuses(text) == reason, text


def test_counts_add_up_and_unfinished_prompts_are_dropped():
    def answer(number, text, finish="stop"):
        response = {"text": text, "finish_reason": finish}
        return {"prompt_id": f"evolve-{number}", "responses": [response]}

    answers = [
        answer(0, "Describe a mountain to a person who cannot see."),
        answer(1, "Describe a mountain to a person who cannot see."),
        answer(2, "List the planets by their size and", "length"),
        answer(3, "List the planets by their size.\n\nHere is", "length"),
        answer(4, "Tell me a story about the long way home from school."),
    ]
    settings = AugmentConfig(5, 1.0, 0.7, 3, 50)
    kept, counts = new_prompts(
        [prompt(text) for text in SEEDS], answers, settings, lambda p: "story" not in text_of(p)
    )
    assert [text_of(p) for p in kept] == [
        "Describe a mountain to a person who cannot see.", "List the planets by their size.",
    ]  # fmt: skip
    assert all(p["origin"] == "evolve" and p["split"] == "train" for p in kept)
    assert set(counts) == set(REASONS) and sum(counts.values()) + len(kept) == 5
    assert (counts["cut"], counts["near_duplicate"], counts["too_long"]) == (1, 1, 1)


def test_a_recipe_on_augmented_prompts(monkeypatch, tmp_path, teacher):
    """A tiny teacher writes noise, so all may be dropped: it is asked, and it is counted."""
    tiny = [argument for argument in TINY if not argument.startswith("warmup.")]
    folder = run_here(
        monkeypatch, tmp_path, "recipe=rrhf", *tiny, f"teacher.path={teacher}", "prompts=augmented",
        "prompts.augment.requests=8", "prompts.max_prompt_tokens=100", "warmup=none",
        "eval.quick.sharpening_control=false",
    )  # fmt: skip
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    counts = [stage["counts"] for stage in stages if stage["stage"] == "prompts"][1]
    assert counts["asked"] == 8
    assert sum(counts[reason] for reason in REASONS) + counts["kept"] == 8
    assert counts["train"] == 6 + counts["kept"] and counts["heldout"] == 4
