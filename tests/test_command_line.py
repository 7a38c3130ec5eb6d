"""What a newcomer types first: the shape of a command, and what each slip is told."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module

import pytest
from huggingface_hub import constants
from hydra.errors import HydraException
from omegaconf import OmegaConf
from tiny_run import LIKELIHOOD, composed

from rankdistill.app import catalogue, command_line
from rankdistill.app.config_errors import explain
from rankdistill.app.synonyms import SYNONYMS
from rankdistill.errors import UserError
from rankdistill.models.locate import check_path, locate
from rankdistill.prompts.sources import check_source
from rankdistill.stages import settings
from rankdistill.stages.prompts import check_prompts
from rankdistill.store.written import check_run


def shape(*arguments: str) -> str:
    """What is said of a command before Hydra is imported."""
    with pytest.raises(UserError) as refused:
        command_line.refuse_no_recipe(command_line.ordered(arguments))
    return str(refused.value)


def told(*arguments: str) -> str:
    """What is said of a command that Hydra refuses."""
    with pytest.raises(HydraException) as refused:
        composed(*arguments)
    return explain(refused.value, arguments)


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("rrhf", "did you mean recipe=rrhf?"),
        ("rrfh", "did you mean recipe=rrhf?"),
        ("simpo", "did you mean recipe=simpo?"),
        ("vllm", "did you mean sample=vllm?"),
        ("plan recipe=rrhf", "a command of its own: python -m rankdistill.plan recipe=rrhf"),
        ("compare", "a command of its own: python -m rankdistill.compare"),
        ("help", "did you mean --help?"),
        ("recipe", "needs one of its options, such as recipe=tour or recipe=dpo"),
        ("nonsense", "the argument 'nonsense' is no KEY=VALUE"),
        ("recipe=rrhf --foo", "there is no option '--foo'"),
        ("recipe=rrhf --multi", "did you mean --multirun?"),
        ("recipe=rrhf --lr=1e-5", "written KEY=VALUE: did you mean 'train.learning_rate'?"),
        ("recipe=rrhf --config-dir", "--config-dir needs a value"),
        ("objective=pro", "python -m rankdistill recipe=none objective=pro"),
    ],
)
def test_a_slip_is_told_what_was_meant(typed, remedy):
    assert remedy in shape(*typed.split())


def test_two_folders_after_a_tools_name_are_part_of_its_command():
    assert "python -m rankdistill.compare a b" in shape("compare", "a", "b")


def test_flags_may_stand_anywhere():
    given = ["recipe=rrhf", "-m", "objective=pro,dpo", "-cd", "mine", "--info", "seed=0", "~base"]
    overrides = ["recipe=rrhf", "objective=pro,dpo", "seed=0", "~base"]
    flags = ["--multirun", "--config-dir", "mine", "--info=all"]
    assert command_line.ordered(given) == [*flags, *overrides]
    assert command_line.ordered(["--info", "defaults", "-c=job"]) == [
        "--info=defaults",
        "--cfg=job",
    ]
    completion = command_line.ordered(["recipe=rrhf", "--shell-completion", "install=bash"])
    assert completion == ["--shell-completion", "recipe=rrhf", "install=bash"]


@pytest.mark.parametrize(
    "arguments",
    [["recipe=none"], ["+recipe=mine"], ["recipe=null"], ["--cfg", "job"], ["-cn", "mine"]],
)
def test_what_names_a_recipe_or_runs_nothing_is_not_refused(arguments):
    command_line.refuse_no_recipe(command_line.ordered(arguments))


def test_recipe_none_is_the_defaults():
    assert composed("recipe=none") == composed()


@pytest.mark.parametrize(
    ("typed", "remedy"),
    [
        ("objective=pro,dpo", "python -m rankdistill -m recipe=rrhf objective=pro,dpo"),
        ("student=Qwen/Qwen2.5-0.5B-Instruct", "student.path=Qwen/Qwen2.5-0.5B-Instruct"),
        ("teacher=./models/mine", "teacher.path=./models/mine"),
        ("prompts=my.jsonl", "prompts.path=my.jsonl"),
        ("rank=ranked.jsonl", "rank.path=ranked.jsonl"),
        ("prompts=startr", "did you mean 'starter'?"),
        ("model=Qwen/Qwen3-0.6B", "did you mean 'student.path'?"),
        ("lr=1e-5", "did you mean 'train.learning_rate'?"),
        ("train.lr=1e-5", "did you mean 'train.learning_rate'?"),
        ("epochs=3", "did you mean 'train.epochs'?"),
        ("batch_size=8", "did you mean 'train.prompts_per_step'?"),
        ("output_dir=out", "did you mean name=NAME, which makes the folder runs/NAME"),
        ("hardware=a100", "it is the planner's: python -m rankdistill.plan"),
        ("plan.price=2", "it is the planner's: python -m rankdistill.plan"),
        ("nothing_like_it=1", "'student', 'teacher', 'train', 'warmup'"),
    ],
)
def test_what_hydra_refuses_is_told_what_was_meant(typed, remedy):
    assert remedy in told("recipe=rrhf", typed)


def test_every_synonym_is_of_a_key_that_is_there():
    config = composed("objective=dpo")
    keys = set(SYNONYMS.values()) - {"name"}
    missing = object()
    assert [k for k in keys if OmegaConf.select(config, k, default=missing) is missing] == []


def test_a_ranked_set_is_called_so_and_the_root_folder_suggests_nothing():
    with pytest.raises(UserError, match=r"There is no ranked set 'nope.jsonl'"):
        check_source("nope.jsonl", "ranked set")
    for path in ("/nope.jsonl", "/nope"):
        with pytest.raises(UserError) as refused:
            check_source("/nope.jsonl") if path.endswith("l") else locate(path)
        assert not {f"'/{name}'" for name in os.listdir("/")} & set(str(refused.value).split())


def test_a_model_that_is_not_there_is_told_without_making_anything(tmp_path, teacher):
    check_path(str(teacher))
    for path in ("bundled/smollm", str(tmp_path / "no.gguf"), str(tmp_path), "./nowhere"):
        with pytest.raises(UserError):
            check_path(path)
    assert list(tmp_path.iterdir()) == []


def test_words_that_stand_for_a_model_or_a_set_are_suggested(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"did you mean 'teacher'\?"):
        check_path("teacherr", ("teacher", "endpoint"))
    with pytest.raises(UserError, match=r"did you mean 'gsm8k'"):
        check_source("gsm9k", instead=("gsm8k", "math500"))


@pytest.mark.parametrize(
    ("key", "remedy"),
    [
        ("prompts.path=starrter", "did you mean 'starter'?"),
        ("rank.path=starrter", "give a file."),
        ("warmup.conversations=starrter", "give a file."),
        (
            "prompts.decontaminate.against=[ifeval]",
            "give a file of its rows in the place of 'ifeval' in prompts.decontaminate.against, or "
            "run once with a connection.",
        ),
    ],
)
def test_sets_of_prompts_are_suggested_where_prompts_are_meant(key, remedy, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = composed("recipe=rrhf", *LIKELIHOOD, "warmup=sft", key)
    with pytest.raises(UserError) as refused:
        check_prompts(settings.build(config))
    assert str(refused.value).endswith(f"reached (HF_HUB_OFFLINE is set): {remedy}")


def quick(code: str) -> subprocess.CompletedProcess[str]:
    """The command in a Python of its own, and whether it has imported torch."""
    told = "print('torch' in sys.modules or 'hydra' in sys.modules)"
    code = f"import sys; {code}\nfrom rankdistill.app.cli import main; main()\n{told}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")


def test_versions_of_what_the_results_depend_on():
    done = quick("sys.argv = ['rankdistill', '--version']")
    lines = done.stdout.splitlines()
    names = ["rankdistill", "torch", "transformers", "trl", "vllm", "python"]
    assert [line.split()[0] for line in lines[:-1]] == names and lines[-1] == "False"


@pytest.mark.parametrize("tool", ["chat", "compare", "export", "search", "serve"])
def test_a_folder_that_is_not_there_is_told_before_torch_is_imported(tool):
    code = (
        f"import sys\nfrom rankdistill.{tool}.__main__ import main\n"
        "print(main(['/nope']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout == "2 False\n"
    assert done.stderr == (
        "error: There is no run folder '/nope': give the folder of a finished run.\n"
    )


@pytest.mark.parametrize("tool", sorted({*catalogue.TOOLS} - {"accelerate"}))  # takes no options
def test_a_tool_says_a_wrong_option_in_a_sentence(tool, capsys):
    main = import_module(f"rankdistill.{tool}.__main__").main
    assert main(["--nope", "a", "b", "c", "d"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1, told


def test_a_folder_without_a_run_is_not_called_unfinished(tmp_path):
    with pytest.raises(UserError, match="There is no run in"):
        check_run(tmp_path)


def test_a_pipe_that_closes_is_no_traceback():
    command = f"{sys.executable} -m rankdistill --help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd="/")
    assert done.stderr == "" and done.stdout.startswith("usage")


def test_every_tool_is_named():
    import rankdistill

    folder = os.path.dirname(rankdistill.__file__)
    tools = {n for n in os.listdir(folder) if os.path.isfile(f"{folder}/{n}/__main__.py")}
    assert tools | {"accelerate"} == set(catalogue.TOOLS)
