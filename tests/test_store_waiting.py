"""Who waits for whom: a rank for rank 0, a process for another that makes the same output."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from rankdistill.errors import UserError
from rankdistill.store import Partial, Store, key_of, locks, outputs
from rankdistill.store import attempt as attempts


def of_this_launch(**more: object) -> dict[str, object]:
    """A record as rank 0 of this process's own launch writes it."""
    return {
        "launch": attempts.launch(), "parent": os.getppid(), "attempts": 1, "beat": 1,
        "process": {"pid": 1, "host": socket.gethostname()}, "monotonic": time.monotonic(), **more,
    }  # fmt: skip


def test_a_rank_knows_the_record_of_its_own_launch(tmp_path):
    """By a process that has its parent and started with it, or whose record changes meanwhile."""
    here = {"pid": 1, "host": socket.gethostname()}
    mine = of_this_launch()

    def write(**changed: object) -> None:
        (tmp_path / attempts.RECORD).write_text(json.dumps({**mine, **changed}))

    def seen(**changed: object) -> bool:
        write(**changed)
        return attempts.RankZero(tmp_path).look() != {}

    older = {"monotonic": time.monotonic() - 1e6}
    assert seen() and not seen(**older) and not seen(launch="another")
    assert not seen(parent=-1) and not seen(process={**here, "host": "another"})
    write(**older)
    rank_zero = attempts.RankZero(tmp_path)
    write(**older, beat=2)
    assert rank_zero.look()["beat"] == 2


def test_a_rank_counts_from_the_last_change_of_the_record(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(attempts, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def looked(beat: int, later: float) -> float:
        (tmp_path / attempts.RECORD).write_text(json.dumps({"beat": beat}))
        clock[0] += later
        rank_zero.look()
        return rank_zero.idle_seconds

    rank_zero = attempts.RankZero(tmp_path)
    assert [looked(0, 5), looked(1, 2), looked(1, 3), looked(2, 1)] == [0, 0, 3, 0]


def test_the_seconds_of_an_attempt_are_noted_to_the_millisecond(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(attempts, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with pytest.raises(RuntimeError), attempts.Attempt(tmp_path, {}):
        clock[0] += 1.23456
        raise RuntimeError
    record = attempts.read_record(tmp_path)
    assert record is not None and record["seconds"] == 1.235


def test_a_rank_waits_until_the_output_is_there(tmp_path):
    follower = attempts.Follower("sample-0", tmp_path, tmp_path / "lock", 60.0)
    found = iter([None, None, "output"])
    assert follower.wait(lambda: next(found), enter=False) == "output"


def test_a_rank_above_0_waits_unless_all_ranks_are_to_make_it(monkeypatch):
    monkeypatch.setattr(outputs, "rank", lambda: 1)
    store = Store(patience_seconds=0.0)
    attempt = store.partial_path(key_of("train", {})) / attempts.RECORD
    attempt.parent.mkdir(parents=True)
    attempt.write_text(json.dumps(of_this_launch(state="building")))
    with pytest.raises(UserError, match="no process is making it"):
        store.output("train", {}, lambda partial: pytest.fail("it made its own"))


@pytest.mark.parametrize(("local", "own_host"), [("2", True), ("1", False)])
def test_launches_of_two_machines_in_one_store_are_two(monkeypatch, local, own_host):
    """On one node all have torchrun's default id, and the address 127.0.0.1."""
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", local), ("MASTER_PORT", "1234")):
        monkeypatch.setenv(name, value)
    assert (socket.gethostname() in attempts.launch().split("/")) == own_host
    assert attempts.launch().endswith("/2") and "/1234/" in attempts.launch()


def test_an_attempt_says_that_it_goes_on_until_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "BEAT_SECONDS", 0.001)

    def beat() -> int:
        record = attempts.read_record(tmp_path)
        assert record is not None
        return record["beat"]

    with attempts.Attempt(tmp_path, {}) as attempt:
        until = time.monotonic() + 30
        while beat() < 4 and time.monotonic() < until:
            time.sleep(0.001)
        with attempt._writing:  # a beat that is due waits, and the attempt ends meanwhile
            time.sleep(0.02)
            attempt._over.set()
            last = beat()
    time.sleep(0.02)
    assert beat() == last >= 4


@pytest.mark.parametrize(
    ("record", "why"),
    [({"state": "failed", "error": "no EOS"}, "no EOS"), ({"state": "stopped"}, "it was stopped")],
)
def test_a_rank_ends_where_rank_0_did(tmp_path, monkeypatch, record, why):
    monkeypatch.setattr(attempts, "rank", lambda: 1)
    (tmp_path / attempts.RECORD).write_text(json.dumps(of_this_launch(**record)))
    follower = attempts.Follower("sample-0", tmp_path, tmp_path / "lock", 0.0)
    with pytest.raises(UserError, match=f"Rank 1 stops, because rank 0 failed at sample-0: {why}"):
        follower.wait(lambda: None, enter=False)


def test_a_rank_that_waits_looks_less_often_and_says_so_more_and_more_seldom(tmp_path, monkeypatch):
    clock, pauses = [100.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        assert len(pauses) < 1000
        clock[0] += seconds

    monkeypatch.setattr(attempts, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    monkeypatch.setattr(attempts, "rank", lambda: 1)
    said: list[float] = []
    monkeypatch.setattr(attempts.log, "info", lambda *_: said.append(clock[0] - 100.0))
    follower = attempts.Follower("sample-0", tmp_path, tmp_path / "lock", 330.0)
    with pytest.raises(UserError, match="waited 5 min for sample-0 and no process is making it"):
        follower.wait(lambda: None, enter=False)
    assert pauses[0] == 0.05 and pauses == sorted(pauses) and set(pauses[20:]) == {1.0}
    assert [round(seconds) for seconds in said] == [6, 41, 321]  # the looks after 5, 40 and 320


def test_ranks_make_an_output_together_or_take_what_is_there(monkeypatch):
    monkeypatch.setattr(outputs, "rank", lambda: 1)
    store, key = Store(patience_seconds=0.0), key_of("train", {})
    record = store.partial_path(key) / attempts.RECORD
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps(of_this_launch(state="building")))
    entered: list[bool] = []

    def make(partial: Partial) -> None:
        entered.append(partial.writable)
        with monkeypatch.context() as first:
            first.setattr(outputs, "rank", lambda: 0)
            Store().output("train", {}, lambda partial: {"made": 1})

    output = store.output("train", {}, make, every_rank=True)
    assert output.manifest["counts"] == {"made": 1} and entered == [False]
    found: Any = iter([None, output])
    monkeypatch.setattr(store, "_here", lambda key: next(found))
    assert store.output("train", {}, make, every_rank=True) == output and entered == [False]


def test_a_free_lock_is_had_at_once(tmp_path):
    with locks.held_at_once(tmp_path / "lock") as free:
        assert free


def test_a_lock_is_one_holders_at_a_time(tmp_path):
    assert not locks.is_held(tmp_path / "lock")
    for _ in range(2):
        with locks.held_at_once(tmp_path / "lock") as first:
            assert first and locks.is_held(tmp_path / "lock")
            with locks.held_at_once(tmp_path / "lock") as second:
                assert not second
        assert not locks.is_held(tmp_path / "lock")


def test_who_waits_for_another_process_says_once_for_what(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(locks, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(locks, "_UNNOTICED_SECONDS", 0.02)
    lock, held = tmp_path / "locks" / "train-0.lock", threading.Event()

    def waits() -> None:
        with locks.held(lock, lambda: "Waiting for train-0: another process is making it."):
            held.set()

    waiting = threading.Thread(target=waits)
    with caplog.at_level(logging.WARNING), locks.held_at_once(lock) as free:
        waiting.start()
        until = time.monotonic() + 30
        while not caplog.records and time.monotonic() < until:
            time.sleep(0.005)
        assert free and not held.wait(0.03)
    assert held.wait(30)
    waiting.join()
    assert [r.getMessage() for r in caplog.records] == [
        "Waiting for train-0: another process is making it."
    ]
