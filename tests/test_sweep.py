"""Sweeps: what is checked before the first point, told of each, shared and resumed."""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

import forked
import pytest
from folders import full_disk
from tiny_run import TINY

from rankdistill.app import cli
from rankdistill.app.cli import Job, main, sentence
from rankdistill.errors import UserError
from rankdistill.stages import pipeline

FAST = [*TINY, "eval.quick.sharpening_control=false", "hydra.sweep.dir=sweep"]


def swept(monkeypatch, folder: Path, *arguments: str) -> int:
    """The exit code of a sweep in this process; its points are in `sweep/`."""
    monkeypatch.chdir(folder)
    named = any(argument.startswith("recipe=") for argument in arguments)
    recipe = [] if named else ["recipe=none"]
    monkeypatch.setattr(sys, "argv", ["rankdistill", "-m", *recipe, *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def refused(monkeypatch, capsys, folder: Path, *arguments: str) -> str:
    """The one sentence of a sweep of which no point ran."""
    monkeypatch.setattr(pipeline, "run", lambda config, **_: pytest.fail("a point ran"))
    assert swept(monkeypatch, folder, *arguments) == 2
    said = capsys.readouterr()
    lines = said.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), lines
    assert "sweep" not in said.out
    return lines[0]


def points(folder: Path) -> dict[str, Path]:
    """The points' folders by the recipe in their overrides."""
    found = {}
    for path in (folder / "sweep").glob("*/.hydra/overrides.yaml"):
        recipe = next(line for line in path.read_text().splitlines() if "recipe=" in line)
        found[recipe.partition("=")[2]] = path.parents[1]
    return found


def stages(folder: Path) -> list[dict]:
    return json.loads((folder / "metrics.json").read_text())["stages"]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("recipe=rrhf,nope", "recipe=nope: there is no recipe named 'nope'"),
        ("objective=dpo,pr0", "did you mean 'pro'"),
        ("train.epochz=1,2", "did you mean 'epochs'?"),
        ("sample.temperature=1,0", "sample.temperature=0: sample.temperature is 0.0"),
        ("+objective.sft_wight=1,2", "did you mean 'sft_weight'?"),
        ("prompts.path=starter,nope.jsonl", "nope.jsonl"),
        ("train.epochz=2", "did you mean 'epochs'?"),
        ("recipe=rrhf,dpo contrasts=[dpo-rrhf,dpo-pro]", "no objective 'pro' for the contrast"),
        ("objective=rrhf,dpo contrasts=[dpo-plackett_luce]", "no objective 'plackett_luce'"),
        ("recipe=rrhf,dpo contrasts=dpo-rrhf", "contrasts takes a list"),
        # Below what only one of the points has.
        ("recipe=rrhf,likelihood prompts.instructions.kinds=[words]", "instructions is null"),
    ],
)
def test_a_mistake_in_any_point_is_told_before_the_first(
    monkeypatch, capsys, tmp_path, argument, said
):
    assert said in refused(monkeypatch, capsys, tmp_path, *argument.split(" "))


def test_so_is_one_with_another_sweeper(monkeypatch, capsys, tmp_path):
    said = refused(monkeypatch, capsys, tmp_path, "recipe=rrhf,nope", "hydra/sweeper=optuna")
    assert "recipe=nope: there is no recipe named 'nope'" in said


def test_a_key_that_only_the_options_of_the_sweep_have(monkeypatch, tmp_path):
    """Hydra alone looks for the key in the default objective, which has none of that name."""
    ran = []
    monkeypatch.setattr(pipeline, "run", lambda config, **_: ran.append(config.objective))
    given = ["objective=dpo,simpo", "objective.beta=0.3", "hydra.sweep.dir=sweep"]
    swept(monkeypatch, tmp_path, *given)
    assert {objective.beta for objective in ran} == {0.3}
    targets = {objective["_target_"].rpartition(".")[2] for objective in ran}
    assert targets == {"DPO", "SimPO"}
    monkeypatch.setattr(pipeline, "run", lambda config, **_: ran.append(config.prompts))
    below = "prompts.instructions.kinds=[words]"  # null without a recipe
    swept(monkeypatch, tmp_path, "recipe=rrhf,best_of_n", below, "hydra.sweep.dir=b")
    assert [prompts.instructions.kinds for prompts in ran[2:]] == [["words"]] * 2


def test_contrasts_are_of_the_points_by_recipe_objective_and_label(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(pipeline, "run", lambda config, **_: ran.append(config.contrasts))
    given = ["recipe=dpo,best_of_n", "rank.placebo=false,true", "hydra.sweep.dir=sweep"]
    names = "contrasts=[dpo-best_of_n,dpo_placebo-before,dpo-control]"
    swept(monkeypatch, tmp_path, *given, names)
    assert len(ran) == 4 and len(ran[0]) == 3
    swept(monkeypatch, tmp_path, "objective=dpo,plackett_luce", "hydra.sweep.dir=b",
          "contrasts=[dpo-plackett_luce]")  # fmt: skip
    assert list(ran[4]) == ["dpo-plackett_luce"]


def test_a_plug_in_that_is_not_installed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("rankdistill.app.sweep.find_spec", lambda name: None)
    said = refused(monkeypatch, capsys, tmp_path, "seed=0,1", "hydra/launcher=joblib")
    assert "needs the package hydra-joblib-launcher: pip install 'rankdistill[joblib]'" in said


def test_a_failed_point_is_told_and_the_others_run(monkeypatch, capsys, tmp_path):
    fails: dict[int, Exception] = {1: UserError("No\nspace."), 2: MemoryError("too\nmuch")}

    def run(config, **_):
        if config.seed in fails:
            raise fails[config.seed]
        folder = Path("sweep") / f"seed={config.seed}"
        made = [{"reused": config.seed == 3}]
        (folder / "metrics.json").write_text(json.dumps({"stages": made}))

    monkeypatch.setattr(pipeline, "run", run)
    command = ["seed=0,1,2,3", "hydra.sweep.dir=sweep"]
    assert swept(monkeypatch, tmp_path, *command) == 2
    told = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in told if line and line[0] in ("ok", "reused", "failed")] == [
        ["ok", "seed=0"],
        ["failed", "seed=1: No space."],
        ["failed", "seed=2: MemoryError: too"],
        ["reused", "seed=3"],
    ]
    failure = tmp_path / "sweep" / "seed=1" / "failure.txt"
    assert failure.read_text() == "No space.\n"

    fails.clear()
    assert swept(monkeypatch, tmp_path, "seed=1", *command[1:]) == 0
    assert not failure.exists()


def test_a_point_that_ended_without_a_word_is_no_success(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(pipeline, "run", lambda config, **_: None)
    assert swept(monkeypatch, tmp_path, "seed=0,1", "hydra.sweep.dir=sweep") == 2
    assert "failed  seed=1: it did not finish" in capsys.readouterr().out


def test_a_sweep_has_one_folder_named_by_its_command(monkeypatch, tmp_path):
    monkeypatch.setattr(pipeline, "run", lambda config, **_: None)
    swept(monkeypatch, tmp_path, "recipe=rrhf,dpo", "seed=1")
    (folder,) = (tmp_path / "multirun").iterdir()
    assert folder.name == "rrhf,dpo,seed=1"
    found = {path.name for path in folder.iterdir() if path.is_dir()}
    assert found == {"rrhf,seed=1", "dpo,seed=1"}


def test_a_sentence_of_any_failure():
    assert sentence(UserError("a\n b")) == "a b"
    assert sentence(ValueError("a\nb")) == "ValueError: a" and sentence(KeyError()) == "KeyError"


def test_a_worker_registers_what_the_command_line_did():
    import pickle

    from omegaconf import OmegaConf

    OmegaConf.clear_resolver("sweep_name")
    assert isinstance(pickle.loads(pickle.dumps(Job())), Job)
    assert OmegaConf.has_resolver("sweep_name")


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_parallel_points_share_and_a_killed_sweep_continues(
    monkeypatch, tmp_path, teacher, capsys, launcher
):
    """Killed while a student is trained; then what is missing, by joblib in two processes."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    arguments = ["recipe=rrhf,dpo", *FAST, f"teacher.path={teacher}"]
    store = Path(os.environ["RANKDISTILL_HOME"])

    def started(launcher: str) -> forked.Forked:
        more = [*arguments, f"hydra/launcher={launcher}"]
        return forked.Forked("rankdistill", "-m", *more, cwd=tmp_path)

    started(launcher).kill_at(store, "outputs/rank-*/manifest.json")
    before = {path.name for path in store.glob("outputs/*")}

    done = started(launcher).wait()
    assert done.returncode == 0, done.stderr
    assert "ok      recipe=rrhf" in done.stdout and "ok      recipe=dpo" in done.stdout
    # Hydra has told that #0 is RRHF; whose line is whose is seen though both write at once.
    for number, name in enumerate(("RRHF", "DPO")):
        label = f"#{number} +" if launcher == "joblib" else " *"
        assert re.search(rf"^{label}\d/\d train +{name}", done.stdout, re.MULTILINE), name
    found = points(tmp_path)
    records = [stage for name in ("rrhf", "dpo") for stage in stages(found[name])]
    # Nothing that was there before the kill is computed again, and nothing twice by both points.
    computed = Counter(stage["key"] for stage in records if not stage["reused"])
    assert set(computed.values()) == {1} and not before & set(computed)
    for stage in ("prompts", "student", "warmup", "rank"):
        assert len({record["key"] for record in records if record["stage"] == stage}) == 1, stage
    for what in ("train and validation", "9 prompts: "):  # what the student is trained on
        assert len({record["key"] for record in records if what in record["what"]}) == 1, what
    assert len({record["key"] for record in records if record["stage"] == "train"}) == 2

    # The finished sweep again, one point after the other: no model is loaded, nothing computed.
    for name in ("rankdistill.models.load.load_model", "rankdistill.models.model.load_model"):
        monkeypatch.setattr(name, lambda *args, **kwargs: pytest.fail("a model was loaded"))
    assert swept(monkeypatch, tmp_path, *arguments) == 0
    told = capsys.readouterr().out
    assert "reused  recipe=rrhf" in told and "reused  recipe=dpo" in told
    assert all(stage["reused"] for path in found.values() for stage in stages(path))


def test_a_failure_that_cannot_be_written_down_is_told_and_ends_no_sweep(
    tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise UserError("No space for the store")

    monkeypatch.setattr(cli, "_run", full)
    with full_disk(0):
        assert cli._point({}, tmp_path, verbose=False) is None
    assert "No space for the store" in capsys.readouterr().err and not list(tmp_path.iterdir())
