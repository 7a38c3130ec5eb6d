"""Kills a run again and again, and continues it, until it ends: then compares.

Before that, two runs go on at the same time over one store, one of them stopped for a while.

    python pipeline_kills.py FOLDER TEACHER KILLS SEED [RUN]

Prints as JSON which stage each kill hit. A run is forked from this process, which has imported all
that it needs, since a fresh one would spend most of its life on imports. It is ended at a random
moment after the heading of a stage, by kill -9 of all its processes, by SIGTERM or by two Ctrl-C;
the stages take turns, until all were hit.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tiny_run import PPO, TINY

import rankdistill.app.cli
import rankdistill.sample.transformers
import rankdistill.stages.pipeline
import rankdistill.warmup.logits
from rankdistill import console
from rankdistill.store import Shards, Store, manifest
from rankdistill.store.shards import is_intact, shard_files

RUNS = {
    # Every stage but the reward: DPO has a reference, and the teacher's outputs are stored.
    "dpo": [
        "recipe=rrhf", *TINY, "objective=dpo", "warmup.teacher_outputs=top_k", "warmup.top_k=8",
        "warmup.save_steps=1", "warmup.epochs=2", "train.save_steps=1", "train.epochs=2",
        "prompts.limit.train=10", "sample.max_response_tokens=10", "score.max_batch_tokens=300",
        "sample.transformers.batch_size=4", "hydra.run.dir=run",
    ],
    "ppo": [
        "recipe=ppo", *TINY, *PPO, "reward.save_steps=1", "train.save_steps=1", "train.epochs=2",
        "eval.quick.sharpening_control=false", "hydra.run.dir=run",
    ],
}  # fmt: skip
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPPED = {signal.SIGTERM: 143, signal.SIGINT: 130}
TIMES = re.compile(
    r"seconds|^peak_|runtime|train_loss|_per_second|^date$|^started$|^finished$|^versions$"
)


@dataclass
class Attempt:
    """One run, killed or not."""

    exit: int
    """As `os.waitpid` says."""
    stages: list[str] = field(default_factory=list)
    """Of the headings that it printed."""
    moments: list[float] = field(default_factory=list)
    """When it did, and when it ended."""
    last_line: str = ""

    @property
    def hit(self) -> str:
        """Which stage was under way."""
        return self.stages[-1] if self.stages else "start"


def attempt(
    folder: Path,
    teacher: str,
    run: str,
    headings: int | None = None,
    delay: float = 0,
    how: signal.Signals = signal.SIGKILL,
) -> Attempt:
    """A run in a child; with `headings` it is ended `delay` seconds after that many headings."""
    read, write = os.pipe()
    child = start(folder, teacher, run, write, folder / "home")
    os.close(write)
    found = Attempt(-1, moments=[time.monotonic()])
    if headings == 0:
        time.sleep(delay)
        end(child, how)
    with os.fdopen(read) as lines:
        for line in lines:
            found.last_line = line
            if stage := _heading(line):
                found.stages.append(stage)
                found.moments.append(time.monotonic())
            if headings and len(found.stages) == headings:
                time.sleep(delay)
                end(child, how)
                headings = None
    found.moments.append(time.monotonic())
    found.exit = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return found


def end(child: int, how: signal.Signals) -> None:
    """By kill -9 of all its processes, by SIGTERM, or by Ctrl-C twice."""
    if how is signal.SIGKILL:
        os.killpg(child, how)
        return
    os.kill(child, how)
    if how is signal.SIGINT:
        time.sleep(0.02)
        os.kill(child, how)


def check_ended(killed: Attempt, how: signal.Signals, errors: Path) -> None:
    """A run that was asked to end says in a line that the same command continues."""
    if how is signal.SIGKILL:
        assert killed.exit == -how, errors.read_text()
    elif killed.exit != -how:  # before, and after, the command has anything to say
        assert killed.exit == STOPPED[how], errors.read_text()
        assert "The same command continues" in errors.read_text().splitlines()[-2]


def start(folder: Path, teacher: str, run: str, write: int, home: Path) -> int:
    """The id of a child that runs in `folder`, and prints to the descriptor `write`."""
    child = os.fork()
    if child == 0:
        _run(folder, teacher, run, write, home)
    return child


def _run(folder: Path, teacher: str, run: str, write: int, home: Path) -> None:
    code, begun = 1, False
    try:
        os.setsid()
        # A shell that starts the tests in its background has them ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        folder.mkdir(exist_ok=True)
        os.chdir(folder)
        os.environ["RANKDISTILL_HOME"] = str(home)
        os.dup2(write, 1)
        os.dup2(os.open(folder / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        # What is reused has a heading here too, so that each attempt has as many.
        console.reused = lambda stage, what, key: console.heading(stage, what)
        sys.argv = ["rankdistill", *RUNS[run], f"teacher.path={teacher}"]
        begun = True
        rankdistill.app.cli.command()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        if not begun:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _heading(line: str) -> str | None:
    """The stage of a heading; lines below it stand further to the right."""
    found = re.match(r"(?:\d+/\d+ | {4,6})([a-z]+) ", line)
    return found[1] if found else None


class Watch:
    """What the store may look like after any kill, given what it looked like before."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._rows: dict[str, list[Any]] = {}
        self._complete: dict[str, Any] = {}

    def check(self) -> None:
        """Nothing is half-visible, nothing that was there is gone."""
        complete = {folder.name: self._whole(folder) for folder in self._folders("outputs")}
        assert self._complete.items() <= complete.items(), "a complete output changed"
        rows = {folder.name: self._in_the_making(folder) for folder in self._folders("partial")}
        for key, before in self._rows.items():
            now = self.store.find(key).rows() if key in complete else rows[key]
            assert now[: len(before)] == before, f"{key} lost rows"
        self._complete, self._rows = complete, rows

    def _folders(self, place: str) -> Iterator[Path]:
        folder = self.store.root / place
        return iter(sorted(folder.iterdir()) if folder.exists() else [])

    def _whole(self, folder: Path) -> Any:
        content = manifest.read(folder)
        assert content is not None, f"{folder} is visible without a manifest"
        damaged = manifest.damaged_files(folder, content, every_byte=True)
        assert not damaged, f"{folder} is visible with {damaged}"
        listed = {folder / name for name in (*content["files"], "manifest.json")}
        assert listed == {path for path in folder.rglob("*") if path.is_file()}
        return content["checksum"]

    def _in_the_making(self, folder: Path) -> list[Any]:
        for path in shard_files(folder / "files" / "rows"):
            assert is_intact(path, path.read_bytes()), f"{path} has its name but not its bytes"
        return list(Shards(folder / "files" / "rows", writable=False).rows())


def content(store: Store) -> dict[str, Any]:
    """All outputs without what the clock writes into them: rows, weights, histories, counts."""
    found: dict[str, Any] = {}
    for folder in sorted((store.root / "outputs").iterdir()):
        output = store.find(folder.name)
        assert output is not None, f"{folder} is damaged"
        files = output.manifest["files"]
        found[folder.name] = {
            "rows": output.rows(),
            "counts": _timeless(output.manifest["counts"]),
            "weights": {n: f["sha256"] for n, f in files.items() if n.endswith(".safetensors")},
            "other": sorted(n for n in files if not n.startswith("rows/")),
        }
        if "history.json" in files:
            history = json.loads((folder / "history.json").read_text())
            # The Trainer's last row is about the last attempt alone.
            found[folder.name]["history"] = _timeless(
                [row for row in history if "train_runtime" not in row]
            )
    return found


def two_at_once(folder: Path, teacher: str, run: str, pause_after: float) -> Store:
    """The store of two runs of the same command at the same time, each output made by one.

    One of them is stopped for a second, and goes on.
    """
    home, nowhere = folder / "two" / "home", os.open(os.devnull, os.O_WRONLY)
    home.mkdir(parents=True)
    places = [folder / "two" / name for name in ("a", "b")]
    children = [start(place, teacher, run, nowhere, home) for place in places]
    time.sleep(pause_after)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        os.kill(children[0], number)
        time.sleep(1)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0, [(p / "errors").read_text() for p in places]
    for output in (home / "outputs").iterdir():
        assert json.loads((output / "manifest.json").read_text())["attempts"] == 1, output
    assert report(places[0]) == report(places[1])
    return Store(home)


def report(folder: Path) -> Any:
    """The figures of the run folder, without the seconds and without who made what when."""
    figures = json.loads((folder / "run" / "metrics.json").read_text())
    return _timeless({name: value for name, value in figures.items() if name != "stages"})


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not TIMES.search(k)}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def main(folder: Path, teacher: str, kills: int, seed: int, run: str = "dpo") -> dict[str, Any]:
    chance = random.Random(seed)
    whole = attempt(folder / "unbroken", teacher, run)
    assert whole.exit == 0, (folder / "unbroken" / "errors").read_text()
    took = [b - a for a, b in zip(whole.moments, whole.moments[1:], strict=False)]
    expected, figures = content(Store(folder / "unbroken" / "home")), report(folder / "unbroken")
    assert content(two_at_once(folder, teacher, run, sum(took) / 2)) == expected
    stages = ["start", *whole.stages]
    hits: list[str] = []
    signals: list[str] = []
    trial = 0
    while len(hits) < kills or set(stages) - set(hits):
        trial += 1
        broken = folder / f"broken-{trial}"
        watch = Watch(Store(broken / "home"))
        for number in sorted(_targets(stages, hits, kills, chance)):
            how = chance.choice(SIGNALS)
            delay = chance.uniform(0, 0.6 * took[number])
            killed = attempt(broken, teacher, run, number, delay, how)
            if killed.exit == 0:
                break
            check_ended(killed, how, broken / "errors")
            hits.append(killed.hit)
            signals.append(how.name)
            watch.check()
        last = attempt(broken, teacher, run)
        assert last.exit == 0, (broken / "errors").read_text()
        watch.check()
        found = content(watch.store)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            for part in value:
                assert found[key][part] == value[part], f"{key}: other {part}"
        assert report(broken) == figures, "the reports differ"
        assert not list(watch.store.root.rglob(".tmp-*")), "a half-written file is left"
        assert not list((watch.store.root / "partial").iterdir()), "a partial output is left"
    return {"hits": hits, "signals": signals, "trials": trial, "seconds": round(sum(took), 2)}


def _targets(stages: list[str], hits: list[str], kills: int, chance: random.Random) -> list[int]:
    """Numbers of headings to be killed after: stages that were not hit, then all in turn."""
    names = sorted(set(stages), key=lambda name: (hits.count(name), stages.index(name)))
    missing = len([name for name in names if name not in hits])
    wanted = [names[i % len(names)] for i in range(max(missing, kills - len(hits)))]
    return [chance.choice([n for n, name in enumerate(stages) if name == w]) for w in wanted]


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, model, number, drawn, *which = sys.argv[1:]
    print(json.dumps(main(Path(place), model, int(number), int(drawn), *which)))
