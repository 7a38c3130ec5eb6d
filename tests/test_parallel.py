"""Rows by several processes: in their order, a few chunks at a time, and none left behind."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
from collections.abc import Iterator
from itertools import islice

import psutil
import pytest
from test_rank_existing import listed, read
from test_rows_set_aside import ODD

from rankdistill import parallel
from rankdistill.errors import UserError
from rankdistill.parallel import CHUNK, FEW, in_order
from rankdistill.prompts.odd_rows import OddRow

WAIT_S = 60.0


@pytest.fixture
def three(monkeypatch) -> None:
    """As on a machine with three cores."""
    monkeypatch.setattr(parallel, "cores", lambda: 3)


def doer(row: int) -> tuple[int, int]:
    return row * row, os.getpid()


def gone(children: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(children, timeout=WAIT_S)[1]


def test_rows_come_in_order_and_by_workers_beyond_the_first(three):
    total = FEW + 12 * CHUNK + 5
    made = list(in_order(doer, range(total)))
    assert [square for square, _ in made] == [row * row for row in range(total)]
    by = [process for _, process in made]
    assert set(by[:FEW]) == {os.getpid()} and len(set(by[FEW:]) - {os.getpid()}) == 3
    assert os.getpid() not in by[FEW:]


def test_few_rows_and_one_core_start_none(monkeypatch):
    for cores, rows in [(3, FEW), (1, FEW + 3 * CHUNK)]:
        monkeypatch.setattr(parallel, "cores", lambda cores=cores: cores)
        assert {process for _, process in in_order(doer, range(rows))} == {os.getpid()}


def test_only_some_chunks_are_taken_ahead(three):
    taken: list[int] = []
    made = in_order(doer, (taken.append(row) or row for row in range(100 * CHUNK)))
    next(islice(made, FEW, None))
    # Two chunks for each of three workers, and the next for whoever gave the first of them.
    assert len(taken) <= FEW + 8 * CHUNK


def test_no_worker_outlives_what_it_works_for(three):
    before = psutil.Process().children()
    made = in_order(doer, range(FEW + 100 * CHUNK))
    next(islice(made, FEW, None))
    children = [child for child in psutil.Process().children() if child not in before]
    assert len(children) == 3
    made.close()  # type: ignore[attr-defined]
    assert gone(children)


def test_an_error_of_the_rows_comes_behind_what_was_before_it(three):
    def rows() -> Iterator[int]:
        yield from range(FEW + 5)
        raise UserError("line 1006 is no JSON")

    made = in_order(doer, rows())
    assert len(list(islice(made, FEW + 5))) == FEW + 5
    with pytest.raises(UserError, match="line 1006"):
        next(made)


def killed(row: int) -> int:
    if row == FEW + CHUNK:
        os.kill(os.getpid(), signal.SIGKILL)
    return row


def test_a_killed_worker_ends_the_work(three):
    with pytest.raises(UserError, match="was killed"):
        list(in_order(killed, range(FEW + 20 * CHUNK)))


def slow(row: int) -> int:
    time.sleep(0.01 if row >= FEW else 0)
    return row


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_process(three, number):
    child = os.fork()
    if child == 0:
        try:  # whatever another test's library, such as Ray, does at a SIGTERM is not asked here
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            for _ in in_order(slow, range(FEW + 1000 * CHUNK)):
                pass
        finally:  # it must not go on as a second process of the tests
            os._exit(0)
    parent, ends = psutil.Process(child), time.monotonic() + WAIT_S
    while len(parent.children()) < 3 and time.monotonic() < ends:
        time.sleep(0.01)
    time.sleep(0.3)
    workers = parent.children()
    os.kill(child, number)
    os.waitpid(child, 0)
    assert len(workers) >= 3
    assert gone(workers)


def test_a_set_is_read_alike_by_one_process_and_by_several(tmp_path, monkeypatch, capsys):
    odd = [row for row, _ in ODD.values()]
    unpaired = [
        {"prompt": f"Q{n % 7}", "completion": f"a{n}", "label": n % 2 == 0} for n in range(20)
    ]
    rows = [
        *(listed(f"Ask {n % 25}", *range(1 + n % 3), prompt_tokens=n % 2) for n in range(40)),
        *odd, *unpaired,
        listed("Far too long " * 100, 1, 0), listed("Tied", 1, 1), {"prompt": "", **odd[-1]},
        {"prompt": "Known", "responses": [
            {"text": text, "score": len(text), "token_ids": [5, 6]} for text in ("a", "bb")
        ]},
    ]  # fmt: skip
    monkeypatch.setattr(parallel, "FEW", 3)
    monkeypatch.setattr(parallel, "CHUNK", 2)
    told = []
    for cores in (1, 3):
        monkeypatch.setattr(parallel, "cores", lambda cores=cores: cores)
        groups, counts = read(tmp_path, rows, responses_per_prompt=2)
        told.append((json.dumps(groups), json.dumps(counts), capsys.readouterr().out))
        with pytest.raises(OddRow) as first:
            read(tmp_path, rows, strict=True)
        told[-1] += (str(first.value),)
    assert told[0] == told[1]
    counts = json.loads(told[0][1])
    assert {"too_long", "retokenised", "single", "all_tied", "refused_by_template"} <= {
        name for name, count in counts.items() if count
    }


def test_what_is_wrong_with_a_row_comes_from_a_worker_as_it_is():
    error = pickle.loads(pickle.dumps(OddRow("no_text", "line 3 has none.")))
    assert (type(error), error.reason, str(error)) == (OddRow, "no_text", "line 3 has none.")
