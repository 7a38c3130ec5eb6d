"""The command line as a person meets it: what is listed, and what is refused in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import forked
import pytest

from rankdistill.app import catalogue, start_page
from rankdistill.app.cli import main
from rankdistill.app.hydra_setup import point_name, run_name
from rankdistill.errors import UserError


def run(
    *arguments: str, cwd: Path | str = "/", **environment: str
) -> subprocess.CompletedProcess[str]:
    return forked.run("rankdistill", *arguments, cwd=cwd, **environment)


def refused(*arguments: str, cwd: Path | str = "/", **environment: str) -> str:
    """The one sentence on standard error; there is nothing else, and the exit code is 2."""
    done = run(*arguments, cwd=cwd, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


def test_no_arguments_says_where_to_begin_and_lists_all_there_is(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rankdistill"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert "recipe=tour" in lines[2] and "recipe=dpo" in lines[3]
    named = [line.split()[0] for line in lines if line.startswith("  ")]
    recipes = catalogue.recipes()
    assert sorted(named) == sorted([*(recipe.name for recipe in recipes), *catalogue.TOOLS])
    for recipe in recipes:
        assert recipe.needs, f"recipe {recipe.name} does not say what it needs"
        assert any(line.split() == [recipe.name, *recipe.what.split()] for line in lines)


@pytest.mark.parametrize("columns", [60, 120])
def test_the_start_and_a_comment_fit_a_terminal(capsys, monkeypatch, columns):
    monkeypatch.setattr(start_page, "columns", lambda: columns)
    monkeypatch.setattr(sys, "argv", ["rankdistill"])
    main()
    comments = [line for line in start_page.explain("train").splitlines() if line[0] == " "]
    lines = [*capsys.readouterr().out.splitlines(), *comments]
    assert [line for line in lines if len(line) > columns] == []


def test_what_a_recipe_says_of_itself(capsys, monkeypatch, tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\n# Mine.\nseed: 1\n")
    assert "arXiv:2304.05302" in start_page.asked_for(["--about", "recipe=rrhf"])
    own = start_page.asked_for(["--about", "--config-dir", str(tmp_path), "recipe=mine"])
    assert own == "mine\n\nMine.\nseed: 1"
    with pytest.raises(UserError, match=r"did you mean 'rrhf'"):
        start_page.asked_for(["--about", "recipe=rrhff"])
    with pytest.raises(UserError, match="needs a recipe"):
        start_page.asked_for(["--about"])


def test_help_lists_groups_and_imports_neither_torch_nor_hydra():
    code = (
        "import sys; sys.argv = ['rankdistill', '--help']\n"
        "from rankdistill.app.cli import main; main()\n"
        "print([m for m in ('torch', 'transformers', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert "objective: " in done.stdout and "recipe: " in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_cfg_job_works_from_any_directory(tmp_path):
    done = run("recipe=rrhf", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0 and "responses_per_prompt: 4" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("recipe=rrhff", "there is no recipe named 'rrhff': did you mean 'rrhf' or 'zephyr_rrhf'?"),
        ("objective=pr0", "did you mean 'pro'"),
        (
            "train.epochz=1",
            "'train' has no key 'epochz' (on the command line): did you mean 'epochs'?",
        ),
        ("train.epochs=x", "train.epochs takes a number, and 'x' is none: `python -m rankdistill "),
        ("seed=1.5", "seed takes a whole number, and '1.5' is none: `python -m rankdistill seed "),
        ("seed=null", "seed takes a value, and not null: `python -m rankdistill seed --explain`"),
        ("student.use_liger_kernel=maybe", "takes true or false, and 'maybe' is none"),
        ("train.layout=sharde", "expected one of [shared, packed, padded]"),
        ("trian=ranking", "did you mean 'train'"),
        ("objective.sft_wight=2", "did you mean 'sft_weight'?"),
        ("prompts.splits.heldut=1", "did you mean 'heldout'?"),
    ],
)
def test_a_wrong_name_or_type_is_one_sentence(argument, sentence):
    recipe = () if argument.startswith("recipe=") else ("recipe=none",)
    assert sentence in refused(*recipe, argument)


def test_a_refused_command_leaves_nothing(tmp_path):
    assert "nope.jsonl" in refused("recipe=likelihood", "prompts.path=nope.jsonl", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []
    told = refused("--config-dir", "nope", "recipe=likelihood", cwd=tmp_path)
    assert "for --config-dir: give the one with your files" in told


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (
            "train:\n  epochz: 3\n",
            "'train' has no key 'epochz' (in recipe/mine): did you mean 'epochs'?",
        ),
        ("train:\n  epochs: many\n", "train.epochs takes a number, and 'many' is none"),
        ("trian:\n  epochs: 3\n", "did you mean 'train'"),
    ],
)
def test_a_mistake_inside_a_recipe_is_refused_too(tmp_path, body, sentence):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(f"# @package _global_\n{body}")
    assert sentence in refused("--config-dir", str(tmp_path), "recipe=mine", "--cfg", "job")


def test_run_folders_are_named_by_the_command():
    assert run_name([]) == "defaults"
    assert run_name(["seed=1", "recipe=rrhf"]) == "rrhf,seed=1"
    assert run_name(["recipe=rrhf"]) == "rrhf"
    assert run_name(["recipe=rrhf", "seed=choice(1)"]) == "rrhf,seed=1"
    assert run_name(["seed=choice(1,2)"]) != run_name(["seed=1,2"])
    assert run_name(["recipe=rrhf", "seed=1", "name=mine"]) == "mine"
    assert run_name(["name=a/../b"]) != run_name(["name=a-..-b"]) and "/" not in run_name(
        ["name=a/b"]
    )
    assert run_name(["recipe=rrhf", "name=null"]).startswith("rrhf")
    assert point_name(["recipe=rrhf", "seed=1", "name=mine"]) == "rrhf,seed=1"
    a, b = run_name(["prompts.path=/a/b c"]), run_name(["prompts.path=/a/b_c"])
    assert a != b and "/" not in a and " " not in a
    assert len(run_name([f"train.epochs={'9' * 200}"])) < 90
