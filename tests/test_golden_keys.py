"""The keys of every output of six recipes, as they were recorded: whatever changes one is told.

A key that changes has every user of the recipe make the output again; one that stays though the
output changes has them keep a wrong one. Where a change is meant, this records it:

    pytest tests/test_golden_keys.py --regenerate-golden
"""

from __future__ import annotations

from pathlib import Path

import golden_keys
import pytest
from golden_keys import Made, changes, made_in
from recipe_files import conversations, ranked_set, search
from tiny_run import run_here, shrunk

from rankdistill.store import Store, key_of

OWN_FILES = {
    "ranked_set": ranked_set,
    "zephyr": lambda folder: ranked_set(folder) + conversations(folder),
    "reranker": search,
}


@pytest.mark.parametrize("recipe", ["rrhf", "dpo", "ppo", "ranked_set", "zephyr", "reranker"])
def test_keys(recipe, monkeypatch, tmp_path: Path, teacher, shared_home, pytestconfig):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    files = OWN_FILES[recipe](tmp_path) if recipe in OWN_FILES else []
    folder = run_here(
        monkeypatch, tmp_path, f"recipe={recipe}", *shrunk(recipe), *files,
        f"teacher.path={teacher}",
    )  # fmt: skip
    found = made_in(folder, Store(shared_home), teacher)
    if pytestconfig.getoption("--regenerate-golden"):
        golden_keys.write(recipe, found)
    told = "\n  ".join(changes(golden_keys.read()[recipe], found))
    assert not told, (
        f"recipe={recipe} makes other outputs than before:\n  {told}\nIf this is meant, run "
        "`pytest tests/test_golden_keys.py --regenerate-golden`."
    )


def run_of(splits: float, layout: str, *, rounds: int = 1) -> list[Made]:
    """Prompts, and a training on them in each round."""

    def made(stage: str, **identity) -> Made:
        return Made(key_of(stage, identity), identity)

    outputs = [made("prompts", code=1, splits={"train": splits})]
    for _ in range(rounds):
        outputs.append(made("train", made_from=outputs[-1].key, layout=layout))
    return outputs


def test_what_changed_is_told_once_and_what_follows_is_counted():
    before = run_of(0.5, "shared")
    assert changes(before, run_of(0.5, "shared")) == []
    assert changes(before, run_of(0.5, "packed")) == ["train: layout: shared -> packed"]
    other_prompts = ["prompts: splits.train: 0.5 -> 0.6", "1 other outputs are made from these"]
    assert changes(before, run_of(0.6, "shared")) == other_prompts
    [told] = changes(before, run_of(0.5, "shared", rounds=2))
    assert told.startswith("new: train of ") and before[1].key in told
    [told] = changes(run_of(0.5, "shared", rounds=2), before)
    assert told.startswith("gone: train of ")


def test_an_output_made_from_another_one_is_told():
    first, second = run_of(0.5, "shared", rounds=2)[1:]
    identity = {"model": first.key}
    before = [first, second, Made(key_of("sample", identity), identity)]
    identity = {"model": second.key}
    after = [first, second, Made(key_of("sample", identity), identity)]
    assert changes(before, after) == [f"sample: model: {first.key} -> {second.key}"]
