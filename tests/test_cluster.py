"""Sampling and scoring on a Ray cluster of two nodes that are processes of this machine."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from rankdistill.cluster.ray import rows_of
from rankdistill.errors import EngineDied, UserError
from rankdistill.schema import ClusterConfig
from rankdistill.store import Store
from rankdistill.store.sharing import collect

ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")

TWO = ClusterConfig(address="auto", min=1, max=2, cores=1, gpus=None)


@dataclass(frozen=True)
class Scripted:
    """Rows of a chunk of names; each that is made is a line in a file."""

    folder: str
    seconds: float = 0.0
    wrong: str = ""
    engine: bool = False
    """Whether a child process makes them, which a test may kill."""
    replicas: int = 1
    """That there have to be before the second chunk is made."""

    def opened(self) -> Any:
        Path(self.folder, f"replica-{os.getpid()}").touch()
        child = subprocess.Popen(["sleep", "60"]) if self.engine else None
        if child is not None:
            Path(self.folder, f"engine-{child.pid}").touch()

        def make(chunk: Any) -> Iterator[dict]:
            until = time.monotonic() + 120
            while self._is_alone() and time.monotonic() < until:
                time.sleep(0.1)
            for name in chunk:
                if name == self.wrong:
                    raise UserError(f"'{name}' does not fit: make it shorter.")
                if child is not None and child.poll() is not None:
                    raise EngineDied("The engine was killed.")
                time.sleep(self.seconds)
                with open(Path(self.folder, "made"), "a") as file:
                    file.write(f"{name}\n")
                yield {"prompt_id": name, "value": len(name)}

        return make

    def _is_alone(self) -> bool:
        there = len(list(Path(self.folder).glob("replica-*")))
        return there < self.replicas and Path(self.folder, "made").exists()


@pytest.fixture(scope="module")
def cluster():
    Cluster = pytest.importorskip("ray.cluster_utils").Cluster
    with pytest.MonkeyPatch.context() as set_here:
        set_here.setenv("RAY_DISABLE_IMPORT_WARNING", "1")
        # Of its own accord Ray lets all else on the machine go first, and starts workers that wait.
        set_here.setenv("RAY_worker_niceness", "0")
        set_here.setenv("RAY_prestart_worker_first_driver", "false")
        path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:]])
        set_here.setenv("PYTHONPATH", path)
        head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True}
        made = Cluster(initialize_head=True, head_node_args=head | NODE)
        made.add_node(num_cpus=1, **NODE)
        ray.init(made.address, log_to_driver=False, logging_level="error")
        yield made
        ray.shutdown()
        made.shutdown()


NODE = {"object_store_memory": 80 << 20, "include_log_monitor": False}
NAMES = [f"p{n}" for n in range(40)]
AT_ONCE = 4
"""Names of a chunk."""
WAIT_SECONDS = 300


def collected(
    work: Any, identity: str, after: Any = lambda made: None, names: list[str] = NAMES
) -> Any:
    """The output of a stage that the cluster makes."""

    def make(partial: Any) -> dict:
        def rows(left: Any) -> Any:
            return rows_of(TWO, work, [[names[i] for i in places] for _, places in left], 1)

        collect(partial, names, AT_ONCE, rows, advance=after)
        return {}

    return Store().output("sample", {"of": identity}, make)


def kill_one(folder: Path, kind: str) -> int:
    """Kills a replica, or its engine, which is a process of this test's."""
    pids = {int(named.name.partition("-")[2]) for named in folder.glob(f"{kind}-*")}
    ours = psutil.Process().children(recursive=True)
    process = next(process for process in ours if process.pid in pids)
    process.kill()
    return process.pid


def made(folder: Path) -> list[str]:
    file = folder / "made"
    return file.read_text().split() if file.exists() else []


def test_the_pool_grows_with_the_cluster_and_a_lost_node_costs_what_it_had_in_hand(
    cluster, tmp_path
):
    nodes: list[Any] = []
    written = 0

    def after(number: int) -> None:
        nonlocal written
        written += number
        if written and not nodes:
            nodes.append(cluster.add_node(num_cpus=1, **NODE))
        if len(list(tmp_path.glob("replica-*"))) == 2 and len(nodes) == 1:
            nodes.append("removed")
            cluster.remove_node(nodes[0], allow_graceful=False)

    output = collected(Scripted(str(tmp_path), 0.2, replicas=2), "lost", after)
    assert [row["prompt_id"] for row in output.rows()] == NAMES
    assert nodes[1:] == ["removed"] and written == len(NAMES)  # each is written once
    assert len(made(tmp_path)) <= len(NAMES) + 2 * AT_ONCE  # two chunks of a replica


def test_a_mistake_that_a_replica_finds_is_one_sentence(cluster, tmp_path):
    with pytest.raises(UserError, match=r"^'p7' does not fit: make it shorter\.$"):
        collected(Scripted(str(tmp_path), wrong="p7"), "wrong")


def test_a_replica_that_is_killed_is_replaced_and_one_whose_engine_is(cluster, tmp_path):
    killed: list[int] = []

    def after(number: int) -> None:
        if number and len(killed) < 2 and len(made(tmp_path)) > 20 * len(killed):
            killed.append(kill_one(tmp_path, ("replica", "engine")[len(killed)]))

    output = collected(Scripted(str(tmp_path), 0.02, engine=True), "killed", after)
    assert len(killed) == 2 and [row["prompt_id"] for row in output.rows()] == NAMES
    assert len(list(tmp_path.glob("replica-*"))) >= 3


DRIVER = """
import sys
sys.path[:0] = sys.argv[5:]
from pathlib import Path
from test_cluster import Scripted, collected
import ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="error")
folder = Path(sys.argv[2])
work = Scripted(str(folder), float(sys.argv[4]))
collected(work, "driver", names=[f"p{n}" for n in range(int(sys.argv[3]))])
"""


@pytest.fixture
def driver(cluster, tmp_path) -> Iterator[Callable[[int, float], subprocess.Popen]]:
    """Starts a process that makes so many rows, at so many seconds each; it ends with the test."""
    told = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    started: list[subprocess.Popen] = []

    def start(names: int, seconds: float) -> subprocess.Popen:
        asked = [cluster.address, str(tmp_path), str(names), str(seconds), *told]
        started.append(subprocess.Popen([sys.executable, "-c", DRIVER, *asked]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def written() -> int:
    """Rows in the shards of all drivers."""
    shards = Store().root.glob("partial/*/scratch/shared/rows-*/*.jsonl")
    try:
        return sum(shard.read_bytes().count(b"\n") for shard in shards)
    except FileNotFoundError:  # some are just being merged
        return 0


def wait_for_rows(process: subprocess.Popen, number: int) -> None:
    """Until drivers have written so many."""
    until = time.monotonic() + WAIT_SECONDS
    while written() < number:
        assert process.poll() is None, "the driver ended"
        assert time.monotonic() < until, "no row came"
        time.sleep(0.05)


def test_a_new_driver_asks_only_for_what_is_missing(driver, tmp_path):
    first = driver(len(NAMES), 0.1)
    wait_for_rows(first, 9)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    time.sleep(0.5)
    before = made(tmp_path)
    output = collected(Scripted(str(tmp_path)), "driver")
    assert [row["prompt_id"] for row in output.rows()] == NAMES
    assert len(made(tmp_path)) - len(before) <= len(NAMES) - 9


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills(cluster, driver, tmp_path):
    """Of drivers, replicas and nodes: no row twice, none missing."""
    names, seconds = [f"p{n}" for n in range(600)], 0.25
    kinds = ["driver"] * 7 + ["replica"] * 7 + ["node"] * 6
    random.Random(0).shuffle(kinds)
    node = cluster.add_node(num_cpus=1, **NODE)
    process = driver(len(names), seconds)
    for kind in kinds:
        wait_for_rows(process, written() + 5)
        if kind == "driver":
            process.kill()
            assert process.wait() == -signal.SIGKILL
            process = driver(len(names), seconds)
        elif kind == "node":
            cluster.remove_node(node, allow_graceful=False)
            node = cluster.add_node(num_cpus=1, **NODE)
        else:
            kill_one(tmp_path, "replica")
    assert process.wait(WAIT_SECONDS) == 0
    output = collected(Scripted(str(tmp_path), wrong="p0"), "driver", names=names)  # it is there
    assert [row["prompt_id"] for row in output.rows()] == names
    assert len(made(tmp_path)) <= len(names) + 20 * 2 * 2 * AT_ONCE  # two chunks of two replicas
    cluster.remove_node(node)


def test_samples_and_scores_of_the_cluster_are_those_of_one_process(cluster, tmp_path):
    """Token by token; scores to 1e-4 nats."""
    import torch
    from tiny_models import build_model, build_tokenizer, model_in

    from rankdistill.cluster.work import Sampling, Scoring
    from rankdistill.sample import SamplingOptions
    from rankdistill.sample.transformers import TransformersSampler
    from rankdistill.score import TeacherAccess, score_groups
    from rankdistill.score.likelihood import Likelihood

    torch.set_num_threads(1)
    build_model("llama", layers=2, seed=1).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    model = model_in(tmp_path)
    options = SamplingOptions(
        responses_per_prompt=4, temperature=1.0, top_p=1.0, top_k=0, max_response_tokens=6, seed=0
    )
    requests = [(f"p{n}", [1, *range(10, 12 + n % 9), 2]) for n in range(20)]
    sampler = TransformersSampler(batch_size=8)
    alone = dict(sampler.sample(model, requests, options, "student"))
    at_once = sampler.prompts_at_once(options)
    chunks = [[requests[i : i + at_once], []] for i in range(0, 20, at_once)]
    one = replace(TWO, max=1)
    work = Sampling(model, options, "student", "transformers", {"batch_size": 8})
    rows = {row["prompt_id"]: row["responses"] for row in rows_of(one, work, chunks, 1)}
    assert rows == alone

    groups: list[Any] = [
        {
            "prompt_id": name,
            "split": "train",
            "messages": [{"role": "user", "content": name}],
            "responses": responses,
        }
        for name, responses in alone.items()
    ]
    scorer = Likelihood(per_token=True, max_batch_tokens=256)
    scored = score_groups(scorer, groups, TeacherAccess(model, model))
    scores = {
        g["prompt_id"]: [r.get("score") for r in g["responses"]] for part in scored for g in part
    }
    work = Scoring(scorer, scorer.name, TeacherAccess(model, model), {})
    there = rows_of(one, work, [groups[:7], groups[7:]], 1)
    found = {row["prompt_id"]: [r["score"] for r in row["responses"]] for row in there}
    assert found.keys() == scores.keys()
    for name, values in scores.items():
        assert found[name] == pytest.approx(values, abs=1e-4)


@pytest.mark.slow
def test_a_run_on_the_cluster_ends_where_one_alone_does(cluster, tmp_path, monkeypatch):
    from test_sharing import assert_same_run, tiny_arguments
    from tiny_run import run_here

    arguments = tiny_arguments(tmp_path)
    for name, more in (("one", []), ("two", ["cluster=ray", "cluster.max=1"])):
        monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / name))
        run_here(monkeypatch, tmp_path, *arguments, *more)
    assert_same_run(Store(tmp_path / "one"), Store(tmp_path / "two"))


@pytest.mark.slow
@pytest.mark.vllm
def test_vllm_in_a_replica_whose_engine_is_killed(cluster, tmp_path):
    from ppo_task import policy
    from tiny_models import build_tokenizer, model_in

    from rankdistill.cluster.work import Sampling
    from rankdistill.sample import SamplingOptions

    policy(heads=1).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    options = SamplingOptions(
        responses_per_prompt=2, temperature=1.0, top_p=1.0, top_k=0, max_response_tokens=8, seed=0
    )
    requests = [(f"p{n}", [1, 10 + n, 2]) for n in range(12)]
    chunks = [[requests[i : i + 2], []] for i in range(0, 12, 2)]
    work = Sampling(model_in(tmp_path), options, "student", "vllm", {"max_num_seqs": 4})
    names: list[str] = []
    for row in rows_of(replace(TWO, max=1), work, chunks, 1):
        names.append(row["prompt_id"])
        if len(names) == 2:
            running = psutil.Process().children(recursive=True)
            [engine] = [p for p in running if "rankdistill.vllm_worker" in p.cmdline()]
            engine.kill()
    assert sorted(names) == sorted(name for name, _ in requests)
