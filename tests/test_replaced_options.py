"""Options of the command line in place of a recipe's, and what the recipe set for its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from tiny_run import TINY, refusal, run_here

from rankdistill.app.cli import Job, main
from rankdistill.app.hydra_setup import opened, register
from rankdistill.errors import UserError
from rankdistill.plan.compose import composed
from rankdistill.stages import pipeline
from rankdistill.stages.values import leave_out


@pytest.mark.parametrize(
    ("recipe", "option", "group", "name"),
    [
        ("problems", "warmup=none", "warmup", "NoWarmup"),
        ("zephyr", "warmup=logits", "warmup", "LogitsWarmup"),
        ("served_teacher", "score=likelihood", "scorer", "Likelihood"),
        ("ppo", "train=ranking", "train", "TrainOptions"),
    ],
)
def test_a_recipe_takes_another_option(recipe, option, group, name):
    settings, _, _ = composed([f"recipe={recipe}", option])
    assert name in type(getattr(settings, group)).__name__


def test_what_both_options_have_stays_and_so_does_what_is_given():
    settings, _, _ = composed(["recipe=problems", "warmup=sft", "warmup.epochs=3"])
    warmup = settings.warmup
    assert type(warmup).__name__ == "SFTWarmup"
    assert (warmup.learning_rate, warmup.epochs) == (2e-4, 3.0)  # type: ignore[attr-defined]


def test_an_option_of_ones_own_without_a_schema_keeps_all():
    config = OmegaConf.create({"warmup": {"_target_": "mine.Own", "steps": 3}, "score": None})
    assert leave_out(config, ["warmup=own", "score=null"]) == []
    assert config.warmup.steps == 3


@pytest.mark.parametrize(
    ("recipe", "words"),
    [("problems", ["warmup=none", "warmup.epochs=3"]), ("zephyr", ["warmup=none", "+warmup.x=1"])],
)
def test_a_key_that_the_command_line_gives_is_refused(recipe, words):
    with pytest.raises(UserError, match="'warmup' has no key"):
        composed([f"recipe={recipe}", *words])


def own_recipe(folder: Path, **warmup: object) -> None:
    (folder / "conf" / "recipe").mkdir(parents=True)
    body = yaml.safe_dump({"warmup": warmup})
    defaults = "defaults:\n  - override /warmup: logits\n"
    (folder / "conf/recipe/mine.yaml").write_text(f"# @package _global_\n{defaults}{body}")


def test_a_run_says_what_it_leaves_out(monkeypatch, tmp_path, teacher, capsys):
    own_recipe(tmp_path, epochs=2.0, temperature=3.0)
    small = [word for word in TINY if not word.startswith("warmup.")]
    folder = run_here(
        monkeypatch, tmp_path, "--config-dir", "conf", "recipe=mine", "warmup=none", *small,
        f"teacher.path={teacher}", "eval.quick.sharpening_control=false",
    )  # fmt: skip
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "warmup=none has no use for warmup.epochs, warmup.temperature, which the recipe sets: "
        "left out." in said
    )
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert set(config["warmup"]) == {"_target_"}


def test_a_sweep_takes_the_recipe_s_option_and_others(monkeypatch, tmp_path, teacher):
    own_recipe(tmp_path, temperature=3.0)
    seen: list[dict] = []
    monkeypatch.setattr(pipeline, "run", lambda config, **_: seen.append(dict(config.warmup)))
    monkeypatch.chdir(tmp_path)
    small = [word for word in TINY if not word.startswith("warmup.")]
    words = ["--config-dir", "conf", "recipe=mine", "warmup=none,logits", *small]
    monkeypatch.setattr(
        sys, "argv", ["rankdistill", "-m", *words, f"teacher.path={teacher}", "hydra.sweep.dir=s"]
    )
    with pytest.raises(SystemExit):  # no point has a report
        main()
    none, logits = seen
    assert none["temperature"] == logits["temperature"] == 3.0  # a run leaves it out itself
    assert none["_target_"] != logits["_target_"]


def test_a_mistake_without_another_option_is_told_as_ever(monkeypatch, tmp_path, capsys):
    own_recipe(tmp_path, temprature=3.0)
    said = refusal(monkeypatch, capsys, tmp_path, "--config-dir", "conf", "recipe=mine")
    assert "'warmup' has no key 'temprature' (in recipe/mine): did you mean 'temperature'" in said
    # What was opened for one command is closed for the next.
    with pytest.raises(UserError, match=r"no key 'epochs' \(on the command line\)"):
        composed(["recipe=rrhf", "warmup=none", "warmup.epochs=3"])


def test_a_launcher_s_worker_opens_what_the_command_line_did():
    register({"warmup"})
    build, arguments = Job().__reduce__()
    register()
    build(*arguments)
    assert opened() == {"warmup"}
    register()
    assert not opened()
