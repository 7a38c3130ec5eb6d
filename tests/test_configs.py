"""Every shipped YAML is composed, every plug-in is built, every key has a comment above it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tiny_run import composed

from rankdistill.app import catalogue
from rankdistill.errors import UserError
from rankdistill.stages import settings
from rankdistill.stages.comparison import judged_by_own_teacher

ROOT = Path(__file__).parents[1]
OPTIONS = {
    group: names for group, names in catalogue.groups().items() if group not in ("recipe", "eval")
}


@pytest.mark.parametrize(
    ("recipe", "suite"),
    [(recipe, "quick") for recipe in catalogue.recipe_files()]
    + [(recipe, "ranked") for recipe in ("dpo", "ppo", "on_policy", "ranked_set", "zephyr")],
)
def test_every_recipe_with_the_built_in_suites(recipe, suite):
    # The suite `ranked` is for an existing set, which leaves nothing to repeat in rounds.
    given = ["rank.path=a.jsonl", "rounds=1"] if suite == "ranked" else []
    given += ["base=a"] if recipe == "evaluate" and suite == "quick" else []
    built = settings.build(composed(f"recipe={recipe}", f"eval=[{suite}]", *given))
    assert getattr(built, suite).version >= 1


OTHERS = sorted({*catalogue.suite_files()} - {"quick", "ranked", "verified"})


@pytest.mark.parametrize("suite", OTHERS)
def test_every_other_suite(suite):
    for recipe in ("rrhf", "evaluate"):
        built = settings.build(composed(f"recipe={recipe}", f"eval=[{suite}]"))
        assert built.suites[suite].version >= 1 and built.suites[suite].name == suite


def test_verified_answers_are_those_of_the_built_in_figures():
    built = settings.build(composed("recipe=rrhf", "eval=[quick,verified]"))
    assert built.verified is not None and built.verified.version >= 1
    with pytest.raises(UserError, match=r"give eval=\[quick,verified\]"):
        settings.build(composed("recipe=rrhf", "eval=[verified]"))


@pytest.mark.parametrize(
    ("overrides", "own"),
    [
        (["recipe=likelihood"], True),
        (["recipe=likelihood", "rounds=0"], False),
        (["recipe=likelihood", "score=reward_model", "score.model=TEACHER"], True),
        (["recipe=likelihood", "score=judge", "score.endpoint=http://a/v1", "score.model=b"], True),
        (["recipe=likelihood", "score@eval.judge=reward_model", "eval.judge.model=TEACHER"], False),
        (["recipe=ranked_set", "rank.path=a.jsonl", "eval=[quick]"], False),
        (["recipe=rrhf"], False),
        (["recipe=evaluate", "base=a"], False),
    ],
)
def test_its_own_teacher_is_a_model_that_ranked_and_judges(overrides, own, teacher):
    given = [override.replace("TEACHER", str(teacher)) for override in overrides]
    assert judged_by_own_teacher(settings.build(composed(*given))) is own


@pytest.mark.parametrize("number", range(max(map(len, OPTIONS.values()))))
def test_every_option_of_every_group(number):
    """One composition has an option of each."""
    chosen = {group: names[number] for group, names in OPTIONS.items() if number < len(names)}
    config = composed(*(f"{group}={name}" for group, name in chosen.items()))
    for group in chosen:
        if "_target_" in config[group]:
            instantiate(OmegaConf.to_container(config[group], enum_to_str=True))


def test_a_recipe_wins_over_the_defaults_and_the_command_line_over_both():
    assert composed("recipe=dpo").objective._target_.endswith("DPO")
    assert composed("recipe=dpo", "objective=ipo").objective._target_.endswith("IPO")
    assert composed("recipe=rrhf").student.keep_layers == 28
    assert composed("recipe=rrhf", "student.keep_layers=8").student.keep_layers == 8


@pytest.mark.parametrize("recipe", list(catalogue.recipe_files()))
def test_recipes_never_set_keys_inside_the_objective(recipe):
    node = OmegaConf.create(catalogue.recipe_files()[recipe].read_text())
    assert "objective" not in node
    comments = catalogue.recipe_files()[recipe].read_text()
    for part in ("Needs:", "Source:", "Command:"):
        assert part in comments


def uncommented(path: Path) -> list[str]:
    """Keys of a YAML file without a comment line above them; the defaults list has its own head."""
    lines = path.read_text().splitlines()
    found, inside_defaults = [], False
    for i, line in enumerate(lines):
        if re.match(r"defaults:", line):
            inside_defaults = True
            continue
        if inside_defaults and (line.startswith(" ") or not line.strip()):
            continue
        inside_defaults = False
        key = re.match(r"\s*([\w]+):", line)
        if key and key[1] != "_target_" and not lines[i - 1].strip().startswith("#"):
            found.append(key[1])
    return found


@pytest.mark.parametrize(
    "path",
    sorted(
        [
            ROOT / "conf" / "optimiser.yaml",
            *(ROOT / "conf").glob("*/*.yaml"),
            *(ROOT / "eval").glob("*.yaml"),
        ]
    ),
    ids=str,
)
def test_a_comment_above_every_key(path):
    assert uncommented(path) == []


def test_suites_keep_their_own_place():
    assert composed("eval=[quick]").eval.quick.responses_per_prompt == 2
