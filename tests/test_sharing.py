"""Rows that several processes make together, each of its own node, without a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from safetensors.torch import load_file
from tiny_models import build_model, build_tokenizer
from tiny_run import TINY, run_here

from rankdistill.distributed import workers
from rankdistill.store import Output, Partial, Shards, Store, sharing
from rankdistill.store.sharing import collect, share, was_shared

NAMES = [f"p{n}" for n in range(23)]
Step = Callable[[str], Any]


def make_with(step: Step) -> Callable[[Partial], dict]:
    def make(partial: Partial) -> dict:
        def rows(places: Sequence[int], left: Sequence[int]) -> Iterator[dict]:
            assert set(left) <= set(places)
            for place in left:
                step(NAMES[place])
                yield {"prompt_id": NAMES[place], "value": place * place}

        share(partial, NAMES, 4, rows)
        return {"rank": int(os.environ.get("RANK", 0))}

    return make


def process(rank: int, step: Step) -> Any:
    """A rank of a launch, which is forked."""

    def run() -> None:
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", TORCHELASTIC_RUN_ID="sharing")
        Store().output("sample", {}, make_with(step), every_rank=True)

    started = multiprocessing.get_context("fork").Process(target=run, daemon=True)
    started.start()
    return started


def whole(output: Output | None) -> bool:
    rows = [{"prompt_id": name, "value": n * n} for n, name in enumerate(NAMES)]
    return output is not None and output.rows() == rows


def noting(folder: Path, rank: int, seconds: float = 0.01) -> Step:
    def step(name: str) -> None:
        with open(folder / f"made-{rank}", "a") as file:
            file.write(f"{name}\n")
        time.sleep(seconds)

    return step


def unexpected(name: str) -> None:
    raise AssertionError(name)


def made_by(folder: Path, rank: int) -> list[str]:
    file = folder / f"made-{rank}"
    return file.read_text().split() if file.exists() else []


def test_two_processes_make_the_rows_of_one_output_in_order(tmp_path):
    both = [process(rank, noting(tmp_path, rank)) for rank in (0, 1)]
    for each in both:
        each.join(60)
    assert [each.exitcode for each in both] == [0, 0]
    [key] = os.listdir(Store().root / "outputs")
    output = Store().find(key)
    assert whole(output) and output is not None and output.manifest["counts"] == {"rank": 0}
    first, second = (made_by(tmp_path, rank) for rank in (0, 1))
    assert first and second and sorted(first + second) == sorted(NAMES)
    Store().output("sample", {}, make_with(unexpected))  # which tidies up
    assert not (Store().root / "partial" / key).exists()


def test_another_process_finishes_the_chunk_of_one_that_was_killed(tmp_path):
    def slow(name: str) -> None:
        noting(tmp_path, 1)(name)
        time.sleep(60 if len(made_by(tmp_path, 1)) == 3 else 0)

    first = process(0, noting(tmp_path, 0, 0.1))
    second = process(1, slow)
    until = time.monotonic() + 60
    while len(made_by(tmp_path, 1)) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    second.kill()
    first.join(60)
    [key] = os.listdir(Store().root / "outputs")
    assert first.exitcode == 0 and whole(Store().find(key))
    lost = made_by(tmp_path, 1)[-1]  # it was at work on this one
    assert sorted(made_by(tmp_path, 0) + made_by(tmp_path, 1)) == sorted([*NAMES, lost])


def test_one_process_goes_on_from_what_several_left_and_the_other_way_round(tmp_path):
    def dies(name: str) -> None:
        noting(tmp_path, 0, 0)(name)
        if name == NAMES[9]:
            os.kill(os.getpid(), signal.SIGKILL)

    killed = process(0, dies)
    killed.join(60)
    shared: list[bool] = []

    def alone(partial: Partial) -> dict:
        shared.append(was_shared(partial))
        return make_with(noting(tmp_path, 2, 0))(partial)

    assert whole(Store().output("sample", {}, alone)) and shared == [True]
    assert made_by(tmp_path, 2) == NAMES[9:]

    def stops(partial: Partial) -> dict:
        shards = partial.shards()
        shards.append([{"prompt_id": "p5", "value": 25}])
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        Store().output("score", {}, stops)
    assert whole(Store().output("score", {}, make_with(noting(tmp_path, 3, 0))))
    assert made_by(tmp_path, 3) == [name for name in NAMES if name != "p5"]


def test_rows_that_others_make_in_any_order_are_put_in_theirs(tmp_path):
    def make(partial: Partial) -> dict:
        def rows(chunks: Sequence[Any]) -> Iterator[dict]:
            for _, places in reversed(chunks):
                yield from ({"prompt_id": NAMES[n], "value": n * n} for n in places)

        collect(partial, NAMES, 4, rows)
        return {}

    assert whole(Store().output("sample", {}, make))


def test_a_step_that_misses_a_file_fails_also_in_a_process_that_helps(tmp_path):
    """Only the output's own folder may go: then the first process has published it."""
    helper = Partial(tmp_path, tmp_path, writable=False)
    (helper.scratch / "shared" / "claims").mkdir(parents=True)

    def rows(places: Sequence[int], left: Sequence[int]) -> Iterator[dict]:
        raise FileNotFoundError("no such template")

    with pytest.raises(FileNotFoundError, match="no such template"):
        share(helper, NAMES, 4, rows)


def test_a_process_that_helps_finds_nothing_to_do_once_the_output_is_made(tmp_path):
    helper = Partial(tmp_path / "published", tmp_path, writable=False)
    share(helper, NAMES, 4, lambda places, left: pytest.fail("it made rows"))


def test_rows_that_nobody_made_are_no_output(tmp_path):
    with pytest.raises(RuntimeError, match="not every row was made"):
        collect(Partial(tmp_path, tmp_path), NAMES, 4, lambda chunks: [])


def test_rows_of_another_process_are_looked_for_again_where_it_merged_them(tmp_path, monkeypatch):
    looks: list[Path] = []
    merges = sharing._TRIES - 1

    def of_processes(folder: Path) -> list[Any]:
        looks.append(folder)
        if len(looks) <= merges:
            raise FileNotFoundError("a shard")
        return []

    monkeypatch.setattr(sharing, "_of_processes", of_processes)
    assert sharing._made(tmp_path) == set() and len(looks) == sharing._TRIES
    for folder, tries in ((tmp_path, sharing._TRIES), (tmp_path / "published", 1)):
        merges = sharing._TRIES
        looks.clear()
        with pytest.raises(FileNotFoundError):
            sharing._made(folder)
        assert len(looks) == tries


def test_rows_that_were_lost_with_the_power_are_made_again(tmp_path):
    made: list[str] = []

    def loses(partial: Partial) -> dict:
        folder = partial.scratch / "shared"
        for name in ("done", "claims"):
            (folder / name).mkdir(parents=True)
        for chunk in ("4-8", "12-16"):  # nothing of the first is left, one row of the second
            (folder / "done" / chunk).write_bytes(b"")
        Shards(folder / "rows-node-1-0").append([{"prompt_id": "p12", "value": 144}])
        return make_with(made.append)(partial)

    assert whole(Store().output("sample", {}, loses))
    assert sorted(made) == sorted({*NAMES} - {"p12"})


@pytest.mark.parametrize(
    ("launch", "gpus", "each", "expected"),
    [
        ({}, 0, 1, (1, True)),
        ({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1"}, 0, 1, (1, False)),
        ({"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "0"}, 0, 1, (2, True)),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "3"}, 8, 1, (16, True)),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "3"}, 8, 8, (2, False)),
        ({"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "LOCAL_RANK": "0"}, 8, 8, (2, True)),
    ],
)
def test_who_makes_rows(launch, gpus, each, expected):
    assert workers(launch, gpus, each) == expected


def tiny_arguments(folder: Path) -> list[str]:
    """Of a run whose teacher's choices differ from each other's."""
    model = build_model("llama", layers=3, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(folder / "teacher")
    build_tokenizer().save_pretrained(folder / "teacher")
    small = [part for part in TINY if not part.startswith("warmup.")]
    return [
        "recipe=rrhf", *small, "warmup=none", "prompts.limit.train=20", "eval=[quick]",
        "eval.quick.sharpening_control=false", "sample.transformers.batch_size=8",
        f"teacher.path={folder / 'teacher'}",
    ]  # fmt: skip


def assert_same_run(one: Store, two: Store) -> None:
    """Keys and tokens are equal, scores to 1e-4 nats, weights to 1e-6."""
    for stage in ("sample", "score", "rank", "train"):
        keys = [
            sorted(path.name for path in (store.root / "outputs").glob(f"{stage}-*"))
            for store in (one, two)
        ]
        assert keys[0] == keys[1] and keys[0]
        for key in keys[0]:
            ours, theirs = one.find(key), two.find(key)
            assert ours is not None and theirs is not None
            if stage == "sample":
                assert ours.rows() == theirs.rows()
            elif stage in ("score", "rank"):
                for a, b in zip(ours.rows(), theirs.rows(), strict=True):
                    scores = [[r["score"] for r in row["responses"]] for row in (a, b)]
                    assert scores[0] == pytest.approx(scores[1], abs=1e-4, nan_ok=True)
                    ranks = [[r.get("rank") for r in row["responses"]] for row in (a, b)]
                    assert ranks[0] == ranks[1]
            else:
                weights = load_file(theirs.path / "model" / "model.safetensors")
                for name, value in load_file(ours.path / "model" / "model.safetensors").items():
                    torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-6, msg=name)


def test_two_nodes_end_where_one_process_does(tmp_path, monkeypatch):
    """As on two machines with a common folder: both sample and score, both train."""
    arguments = tiny_arguments(tmp_path)
    both = forked.together(
        "rankdistill", *arguments, f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path, nodes=2,
        RANKDISTILL_HOME=str(tmp_path / "two"), CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert [done.returncode for done in both] == [0, 0], [done.stderr[-3000:] for done in both]
    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "one"))
    run_here(monkeypatch, tmp_path, *arguments)
    assert_same_run(Store(tmp_path / "one"), Store(tmp_path / "two"))


@pytest.mark.slow
def test_two_launchers_end_where_one_process_does(tmp_path, monkeypatch):
    """`torchrun --nnodes 2` twice, on loopback."""
    arguments = tiny_arguments(tmp_path)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    environment = {
        "RANKDISTILL_HOME": str(tmp_path / "two"), "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    launchers = [
        forked.Forked(
            "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", f"--node_rank={node}",
            "--master_addr=127.0.0.1", f"--master_port={port}", "-m", "rankdistill", *arguments,
            f"hydra.run.dir={tmp_path / 'run'}", cwd=tmp_path, **environment,
        )
        for node in (0, 1)
    ]  # fmt: skip
    both = [launcher.wait(900) for launcher in launchers]
    assert [done.returncode for done in both] == [0, 0], [done.stderr[-3000:] for done in both]
    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "one"))
    run_here(monkeypatch, tmp_path, *arguments)
    assert_same_run(Store(tmp_path / "one"), Store(tmp_path / "two"))
