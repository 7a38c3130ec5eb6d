"""The store among several processes: kills, locks, ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rankdistill.store import Store, key_of

# ------------------------------------------------------------------------------------------- kills

# Forks instead of starting processes: 40 kills in a few seconds, most of them in the middle.
KILLS = '''
import json, os, random, signal, sys, time
from pathlib import Path
import filelock
from rankdistill.store import Shards, Store, key_of, manifest, shards
from rankdistill.store.shards import is_intact, shard_files

shards.MERGED = 3
EXPECTED = [{"number": n, "text": "x" * (97 * n % 500)} for n in range(40)]
BATCHES = [EXPECTED[start : start + 4] for start in range(0, 40, 4)]

def make(partial, report):
    shards = partial.shards()
    done = len(shards.rows())
    for batch in BATCHES[done // 4 :]:
        time.sleep(0.001)
        shards.append(batch)
        os.write(report, b"+")
    for layer in range(6):
        (partial.path / f"layer-{layer}.bin").write_bytes(bytes([layer]) * 4096)
        os.write(report, b".")
    return {"rows": len(EXPECTED)}

def attempt(store, identity, events, seconds):
    """Runs in a child that is killed `seconds` after it reported `events`; (its rows, killed)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        store.output("sample", identity, lambda partial: make(partial, write))
        os._exit(0)
    os.close(write)
    reports = b""
    while len(reports) < events and (report := os.read(read, 1)):
        reports += report
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    reports += os.read(read, 1000)
    os.close(read)
    return 4 * reports.count(b"+"), killed

def check(store, key, at_least):
    """Nothing half-visible, no row lost; whether the output is complete, and its rows so far."""
    visible = store.output_path(key)
    if visible.exists():
        content = manifest.read(visible)
        assert content and not manifest.damaged_files(visible, content, every_byte=True)
        assert store.find(key).rows() == EXPECTED
        return True, 40
    files = shard_files(store.partial_path(key) / "files" / "rows")
    data = [path.read_bytes() for path in files]
    assert all(map(is_intact, files, data)), "a shard has its name but not its bytes"
    rows = Shards(store.partial_path(key) / "files" / "rows", writable=False).rows()
    assert rows == EXPECTED[: len(rows)], "rows out of order"
    assert len(rows) >= at_least, f"{at_least} rows were there, {len(rows)} are left"
    return False, len(rows)

store, chance = Store(), random.Random(0)
nowhere = os.open(os.devnull, os.O_WRONLY)
unbroken = store.output("sample", {"trial": "unbroken"}, lambda partial: make(partial, nowhere))
kills = resumed = trial = 0
while kills < 40:
    trial += 1
    identity, complete, rows = {"trial": trial}, False, 0
    key = key_of("sample", identity)
    while not complete:
        # The last attempt has 6 reports to make: up to 5 kills before, 6 while publishing, 8 never.
        events, seconds = chance.randint(0, 8), chance.uniform(0.0, 0.004)
        reported, killed = attempt(store, identity, events, seconds)
        complete, now = check(store, key, rows + reported)
        kills += killed and not complete
        resumed += rows > 0
        rows = now
    final = store.find(key)
    assert final.manifest["files"] == unbroken.manifest["files"]
    assert not [path for path in store.root.rglob(".tmp-*")]
print(json.dumps({"kills": kills, "resumed": resumed, "trials": trial}))
'''


def run(code: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_kills_at_random_points_lose_nothing():
    process = run(KILLS)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    counts = json.loads(out)
    assert counts["kills"] >= 40 and counts["resumed"] >= 10, counts


# ------------------------------------------------------------------------------------------- locks

MAKES_ONCE = """
import logging, os, sys, time
from pathlib import Path
from rankdistill.store import Store
logging.basicConfig(format="%(message)s")
def make(partial):
    with open(sys.argv[1], "a") as log:
        log.write(f"{os.getpid()}\\n")
    partial.shards().append([{"number": 1}])
    time.sleep(2.0)
print(list(Store().output("sample", {}, make).rows()))
"""


def test_two_processes_make_an_output_once(tmp_path):
    log = tmp_path / "made"
    processes = [run(MAKES_ONCE, str(log)) for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [out for out, _ in ends] == ["[{'number': 1}]\n"] * 2, ends
    maker = int(log.read_text())
    waiting = f"Waiting for {key_of('sample', {})}: process {maker} on {os.uname().nodename} is "
    said = [errors.splitlines() for _, errors in ends]
    assert sorted(map(len, said)) == [0, 1] and max(said)[0].startswith(waiting), said


# The orphan is what a data loader's worker is after a kill -9 of its parent.
DIES_WITH_ORPHAN = """
import os, signal, time
from rankdistill.store import Store
def make(partial):
    partial.shards().append([{"number": 1}])
    if os.fork() == 0:
        time.sleep(30)
        os._exit(0)
    print("forked", flush=True)
    time.sleep(30)
Store().output("sample", {}, make)
"""


def test_the_lock_of_a_dead_process_does_not_block():
    process = subprocess.Popen(
        [sys.executable, "-c", DIES_WITH_ORPHAN],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "forked\n"
    try:
        process.kill()
        process.wait()
        began = time.monotonic()
        output = Store().output(
            "sample", {}, lambda partial: {"kept": len(partial.shards().rows())}
        )
        assert time.monotonic() - began < 5 and output.manifest["counts"] == {"kept": 1}
        assert output.manifest["attempts"] == 2
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


# ------------------------------------------------------------------------------------------- ranks

RANK = """
import logging, os, sys, time
from pathlib import Path
from rankdistill.errors import UserError
from rankdistill.store import Store
logging.basicConfig(format="%(message)s", level=logging.INFO)
mode, log = sys.argv[1], Path(sys.argv[2])
rank = int(os.environ["RANK"])
def make(partial):
    with open(log, "a") as file:
        file.write(f"{rank} {partial.path}\\n")
    if mode == "fails":
        time.sleep(0.3)
        raise UserError("the teacher has no chat template")
    if mode == "together":
        # Both must be inside at the same time, as a collective needs.
        (partial.scratch / f"here-{rank}").touch()
        while len(list(partial.scratch.glob("here-*"))) < 2:
            time.sleep(0.01)
        if rank > 0:
            return
    partial.shards().append([{"number": 1}])
    time.sleep(0.5)
if mode == "late" and rank == 0:
    time.sleep(1.0)
if mode != "absent" or rank > 0:
    try:
        store = Store(patience_seconds=1.0 if mode == "absent" else 60.0)
        print(list(store.output("train", {}, make, every_rank=mode == "together").rows()))
    except UserError as error:
        print(error)
"""


def run_ranks(
    mode: str, log: Path, *, same_parent: bool = True, **environment: str
) -> list[tuple[str, str]]:
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29501", **environment}
    code = RANK
    if not same_parent:
        # As when each rank is wrapped in a shell of its own.
        code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', " + repr(
            RANK
        )
        code += ", *sys.argv[1:]]))"
    processes = [run(code, mode, str(log), RANK=str(rank), **launch) for rank in range(2)]
    ends = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    return ends


@pytest.mark.parametrize("mode", ["plain", "late"])
def test_ranks_above_0_wait_and_never_make(mode, tmp_path):
    ends = run_ranks(mode, tmp_path / "log")
    assert [out for out, _ in ends] == ["[{'number': 1}]\n"] * 2, ends
    assert [line[0] for line in (tmp_path / "log").read_text().splitlines()] == ["0"]


@pytest.mark.parametrize("same_parent", [True, False])
def test_every_rank_makes_together_and_rank_0_publishes(same_parent, tmp_path):
    ends = run_ranks("together", tmp_path / "log", same_parent=same_parent, LOCAL_WORLD_SIZE="2")
    assert [out for out, _ in ends] == ["[{'number': 1}]\n"] * 2, ends
    lines = sorted((tmp_path / "log").read_text().splitlines())
    assert [line[0] for line in lines] == ["0", "1"]
    assert lines[0].split()[1] == lines[1].split()[1]


def test_ranks_above_0_end_when_rank_0_fails(tmp_path):
    (zero, _), (one, _) = run_ranks("fails", tmp_path / "log")
    assert zero == "the teacher has no chat template\n"
    key = key_of("train", {})
    assert one == f"Rank 1 stops, because rank 0 failed at {key}: {zero}"
    # Another launch is not misled by what this one left.
    ends = run_ranks("late", tmp_path / "log", MASTER_PORT="29502")
    assert [out for out, _ in ends] == ["[{'number': 1}]\n"] * 2, ends


def test_ranks_above_0_give_up_when_nobody_makes_it(tmp_path):
    (_, _), (one, _) = run_ranks("absent", tmp_path / "log")
    assert one.startswith(
        f"Rank 1 waited 1 s for {key_of('train', {})} and no process is making it"
    )
    assert len(one.splitlines()) == 1


def test_a_rank_waits_as_long_as_some_process_makes_it(tmp_path):
    maker = run(MAKES_ONCE, str(tmp_path / "log"))
    folder = Store().partial_path(key_of("sample", {}))
    while not (folder / "attempt.json").exists():
        time.sleep(0.02)
    code = (
        "from rankdistill.store import Store\n"
        "print([*Store(patience_seconds=0.1).output('sample', {}, lambda p: 1 / 0).rows()])"
    )
    out, errors = run(code, RANK="1", WORLD_SIZE="2").communicate(timeout=60)
    assert out == "[{'number': 1}]\n", errors
    maker.communicate(timeout=60)
