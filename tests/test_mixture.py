"""Several sets as one: how much of each, which rows, and what an evaluation asks kept out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_rows import run_report
from test_migrate import DPO, carried
from tiny_run import composed

from rankdistill.errors import UserError
from rankdistill.prompts import load_prompts, source_identity
from rankdistill.prompts.similarity import Evaluated
from rankdistill.rank.existing import read_ranked
from rankdistill.rank.ranking import within_length_gap
from rankdistill.report import metrics_of
from rankdistill.report.html import html_report
from rankdistill.stages import settings
from rankdistill.stages.prompts import mixture_identity

SHARES = {"train": 0.6, "validation": 0.2, "heldout": 0.2}


def written(folder: Path, name: str, count: int) -> str:
    file = folder / f"{name}.jsonl"
    rows = ({"prompt": f"{name} {i}", "chosen": f"yes {i}", "rejected": "no"} for i in range(count))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def load(sets: Any, tokenizer: Any, **options: Any) -> tuple[list[Any], dict[str, int]]:
    given = {"max_prompt_tokens": 300, "splits": SHARES, "limit": {}, "seed": 0, **options}
    return load_prompts(sets, tokenizer, **given)


def of(prompts: list[Any], split: str) -> Counter[str]:
    return Counter(Path(p["set"]).stem for p in prompts if p["split"] == split)


def test_shares_and_numbers_are_exact_and_larger_draws_hold_the_smaller(tmp_path, tokenizer):
    a, b, c = (written(tmp_path, name, count) for name, count in (("a", 90), ("b", 60), ("c", 30)))
    alone = [load(path, tokenizer)[1] for path in (a, b, c)]
    prompts, counts = load({a: 0.5, b: 10, c: None}, tokenizer)
    assert of(prompts, "train") == {
        "a": round(alone[0]["train"] / 2), "b": 10, "c": alone[2]["train"],
    }  # fmt: skip
    share = 10 / alone[1]["train"]
    assert of(prompts, "heldout")["b"] == round(share * alone[1]["heldout"])
    assert counts[f"train of {b}"] == 10 and counts["read"] == 180
    more, _ = load({a: 0.5, b: 20, c: None}, tokenizer)
    assert {p["prompt_id"] for p in prompts} < {p["prompt_id"] for p in more}
    assert prompts == load({a: 0.5, b: 10, c: None}, tokenizer)[0]
    with pytest.raises(UserError, match=r"300 train prompts of .* are asked for, which has"):
        load({a: 300, b: None}, tokenizer)


def test_one_set_is_what_it_was_and_a_prompt_of_two_sets_is_of_the_first(tmp_path, tokenizer):
    a, b = written(tmp_path, "a", 30), written(tmp_path, "b", 5)
    Path(b).write_text(Path(b).read_text() + Path(a).read_text())
    alone, counts = load(a, tokenizer)
    assert (alone, counts) == load({a: None}, tokenizer)
    assert not any("set" in prompt for prompt in alone)
    assert mixture_identity({a: None}, source_identity) == source_identity(a)
    assert mixture_identity({a: 1.0}, source_identity) != source_identity(a)
    both, counts = load({a: None, b: None}, tokenizer)
    assert counts["duplicates"] == 30
    assert {p["prompt_id"] for p in both if p["set"] == a} == {p["prompt_id"] for p in alone}


def test_ranked_sets_are_mixed_alike(tmp_path, tokenizer):
    a, b = written(tmp_path, "a", 40), written(tmp_path, "b", 40)
    built = settings.build(composed("recipe=ranked_set", f"rank.path={{{a}: 8, {b}: 0.25}}"))
    limit = replace(built.prompts.limit, train=None, validation=None, heldout=None)
    prompts = replace(built.prompts, limit=limit)
    groups, counts = read_ranked(built.rank, prompts, tokenizer)
    of_b, _ = read_ranked(replace(built.rank, path=b), prompts, tokenizer)
    trained = sum(g["split"] == "train" for g in of_b)
    assert of(groups, "train") == {"a": 8, "b": round(trained / 4)}
    assert counts[f"train of {a}"] == 8 and "set" not in of_b[0]
    evaluated = Evaluated([a], 13)  # shorter than that: texts of two words are not compared
    assert read_ranked(built.rank, prompts, tokenizer, evaluated)[0] == groups


def test_what_an_evaluation_asks_is_kept_out_of_training(tmp_path, tokenizer):
    asked = "how many red apples does Mary have left after she eats three of them today"
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"q": [{"text": asked}], "short": "Name the largest ocean"}) + "\n")
    evaluated = Evaluated([str(test)], 8)
    rows = [f"Tell me {i}: {asked.upper()}" for i in range(9)]
    rows += [f"Name the largest ocean {i}" for i in range(9)]
    rows += [
        "name the LARGEST ocean!",
        "how many red apples does she eat",
        *(f"x{i}" for i in range(9)),
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    splits = {"train": 1.0, "validation": 0.0, "heldout": 0.0}
    prompts, counts = load(str(file), tokenizer, splits=splits, evaluated=evaluated)
    left = {p["messages"][0]["content"] for p in prompts}
    assert left == {*rows[9:18], *rows[19:]} and counts["contaminated"] == 10
    splits = {"train": 0.0, "validation": 0.0, "heldout": 1.0}
    assert len(load(str(file), tokenizer, splits=splits, evaluated=evaluated)[0]) == len(rows)


def test_a_cap_on_the_length_gap():
    def response(tokens: int, score: float) -> dict[str, Any]:
        return {"token_ids": [1] * tokens, "score": score}

    counts: Counter[str] = Counter()
    group: Any = {"responses": [response(50, 1.0), response(20, 3.0), response(31, 2.0)]}
    kept = within_length_gap(group, 11, counts)["responses"]
    assert [r.get("score") for r in kept] == [3.0, 2.0] and counts["beyond_length_gap"] == 1


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("prompts.path=[]", "give a set, a list of sets"),
        ("prompts.path=[a,a]", "names a set twice"),
        ("prompts.path={a: 1}", r"takes 1 of 'a': give a share such as 0.5 \(1.0 is all"),
        ("prompts.path={a: 1.5}", "takes 1.5 of 'a'"),
        ("rank.path={a: much}", "rank.path takes much of 'a'"),
        ("rank.max_length_gap=-1", "rank.max_length_gap is -1"),
        ("prompts.decontaminate.ngram=2", "ngram is 2; it must be at least 4"),
    ],
)
def test_refusals(override, told):
    with pytest.raises(UserError, match=told):
        settings.build(composed("recipe=likelihood", override))


def test_the_report_has_the_gain_of_each_set():
    report = run_report(prompts=20)
    assert metrics_of(report)["sets"] is None
    for groups in report.groups.values():
        for number, group in enumerate(groups):
            group["set"] = "first" if number < 5 else "second"
    metrics = metrics_of(report)
    found = metrics["sets"]
    assert [found[name]["prompts"] for name in ("first", "second")] == [5, 15]
    mean = sum(of["difference"]["mean"] * of["prompts"] for of in found.values()) / 20
    assert mean == pytest.approx(metrics["models"]["trained"]["score_difference"]["mean"])
    assert "By set of prompts" in html_report(metrics, "")


def test_a_mixer_is_carried_over_with_its_weights(tmp_path, capsys):
    more = "  some/preferences: 1.0\n  other/set: 0.25\n"
    text = DPO.replace("  some/preferences: 1.0\n", more)
    config, shown = carried(tmp_path, capsys, "config_full.yaml", text)
    assert dict(config.rank.path) == {
        "some/preferences:train_prefs": 1.0, "other/set:train_prefs": 0.25,
    }  # fmt: skip
    assert "dataset_mixer" not in shown
