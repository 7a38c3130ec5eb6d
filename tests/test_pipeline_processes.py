"""Two processes of torchrun run the whole pipeline, and end where one does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import build_model, build_tokenizer
from tiny_run import TINY

from rankdistill import distributed
from rankdistill.app.cli import main
from rankdistill.errors import UserError

TESTS = Path(__file__).parent
# Seven responses in steps of four, seven groups in steps of three: in the last step of each, one of
# the processes has less than the other, or nothing.
SWEEP = [
    "-m", "recipe=rrhf", *TINY, "warmup=logits", "objective=dpo", "prompts.limit.train=7",
    "warmup.responses_per_step=4", "warmup.epochs=2", "warmup.max_batch_tokens=80",
    "train.epochs=2", "train.max_batch_tokens=120", "eval.quick.sharpening_control=false",
    "hydra.sweep.dir=sweep",
]  # fmt: skip


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    environment = {
        "RANKDISTILL_HOME": str(folder / "home"),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(TESTS.parent),
    }
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone",
         "-m", "rankdistill", *arguments],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture
def lively(tmp_path) -> Path:
    """A teacher whose choices differ from each other's, so that there is something to learn."""
    model = build_model("llama", layers=3, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(tmp_path / "teacher")
    build_tokenizer().save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


def outputs(home: Path, stage: str) -> dict[str, Path]:
    return {folder.name: folder for folder in sorted((home / "outputs").glob(f"{stage}-*"))}


def curves(folder: Path) -> dict[str, list[float]]:
    history = json.loads((folder / "history.json").read_text())
    names = ("loss", "grad_norm", "eval_loss", "rank_accuracy")
    return {name: [row[name] for row in history if name in row] for name in names}


def test_two_processes_end_where_one_does(monkeypatch, tmp_path, lively):
    arguments = [*SWEEP, f"teacher.path={lively}"]
    (tmp_path / "two").mkdir()
    place = {"RANKDISTILL_HOME": str(tmp_path / "two" / "home"), "CUDA_VISIBLE_DEVICES": ""}
    both = forked.together("rankdistill", *arguments, cwd=tmp_path / "two", **place)
    said = "".join(done.stderr for done in both)
    assert [done.returncode for done in both] == [0, 0], said[-3000:]
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path / "one")
    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "one" / "home"))
    monkeypatch.setattr(sys, "argv", ["rankdistill", *arguments])
    main()
    for stage in ("warmup", "train"):
        ours, theirs = (outputs(tmp_path / name / "home", stage) for name in ("one", "two"))
        assert ours.keys() == theirs.keys() and len(ours) == 1
        for key, folder in ours.items():
            other = curves(theirs[key])
            for name, values in curves(folder).items():
                assert values == pytest.approx(other[name], abs=1e-5), (key, name)
            assert len(other["loss"]) == {"warmup": 4, "train": 6}[stage]
            weights = load_file(theirs[key] / "model" / "model.safetensors")
            for name, value in load_file(folder / "model" / "model.safetensors").items():
                torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6, msg=name)
    # Only the main process speaks.
    out = "".join(done.stdout for done in both)
    # Of samples that a warm-up begins with, the line says `sample:`.
    headings = re.findall(r"^(?:\d+/\d+| +) +(warmup|train) ++(?!sample:)", out, re.MULTILINE)
    assert headings.count("warmup") == headings.count("train") == 1
    assert "error" not in said and "Warning" not in said, said


@pytest.mark.slow
def test_a_mistake_in_a_stage_of_the_main_process_ends_both(tmp_path, teacher):
    """The other one, which waits for the stage, neither waits on nor says it again."""
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    done = torchrun(
        tmp_path, "recipe=rrhf", *TINY, f"teacher.path={teacher}", "prompts.path=prompts.jsonl"
    )
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "line 2" in said[0], done.stderr
    assert "exitcode  : 2 " in done.stderr and done.returncode == 1  # torchrun's own


def test_another_process_speaks_if_the_main_one_does_not_end_it(monkeypatch, capsys):
    waited: list[float] = []
    monkeypatch.setattr("rankdistill.distributed.time.sleep", waited.append)
    distributed.say_mistake("The disk is full.")
    monkeypatch.setenv("RANK", "3")
    distributed.say_mistake("The disk is full.")
    assert (
        capsys.readouterr().err == "error: The disk is full.\nerror: (rank 3) The disk is full.\n"
    )
    assert waited == [distributed.PATIENCE_SECONDS]


ACCELERATE = {"ACCELERATE_MIXED_PRECISION": "no"}
FSDP = {**ACCELERATE, "ACCELERATE_USE_FSDP": "true"}
TWO = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "accelerator", "said"),
    [
        ({}, False, None),
        (TWO, False, None),
        (ACCELERATE, False, None),
        ({**ACCELERATE, "MASTER_PORT": "29500"}, False, "asked for several processes and started"),
        ({**ACCELERATE, **TWO}, False, None),
        ({**FSDP, **TWO}, False, "every process trains the whole model"),
        ({**FSDP, **TWO}, True, None),
        (FSDP, True, "nothing is sharded"),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, True, None),
    ],
)
def test_what_the_launcher_did_not_give(environment, accelerator, said):
    lines = distributed.remarks(environment, accelerator)
    assert len(lines) == (said is not None) and all(said in line for line in lines)


def test_processes_that_know_nothing_of_each_other_are_refused():
    with pytest.raises(UserError, match="torchrun --nproc_per_node 4"):
        distributed.remarks({"OMPI_COMM_WORLD_SIZE": "4"}, False)


def test_accelerate_is_as_the_remarks_take_it_to_be(tmp_path):
    """What `accelerate launch` sets for two processes on a CPU, of which it starts one."""
    code = "import os, json; print(json.dumps(dict(os.environ)))"
    (tmp_path / "shows.py").write_text(code)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "shows.py")], capture_output=True, text=True, timeout=120
    )
    shown = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(shown) == 1, done.stdout + done.stderr
    assert len(distributed.remarks(shown[0], False)) == 1
