"""What a terminal shows of a run: parts that are counted, what is reused, time left, its log."""

from __future__ import annotations

import io
import logging
import re

import pytest
from rich.console import Console

from rankdistill import console


@pytest.fixture
def shown(monkeypatch):
    """What is printed to a terminal of 60 columns."""
    out = io.StringIO()
    monkeypatch.setattr(
        console, "console", Console(file=out, width=60, force_terminal=True, no_color=True)
    )
    monkeypatch.setattr(console, "PLAIN_SECONDS", 0.0)
    yield lambda: re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue()).splitlines()
    console.begin([])


@pytest.fixture
def logged(monkeypatch):
    """Lines of the run's log."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("rankdistill.run")
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "propagate", False)
    log.setLevel(logging.INFO)
    return lines


def test_parts_are_counted_and_what_is_reused_is_one_line(shown, logged):
    console.begin(["prompts", "warmup", "sample", "score", "rank", "train", "evaluate"])
    console.heading("prompts", "starter")
    console.part("warmup")
    console.heading("sample", "teacher: 8 prompts")
    console.heading("warmup", "40 steps")
    console.part(None)
    for stage in ("sample", "score", "rank"):
        console.reused(stage, "responses", f"{stage}-0123456789abcdef")
    console.heading("train", "RRHF")
    console.part("evaluate")
    console.heading("sample", "trained")
    console.heading("evaluate", "trained")
    assert shown() == [
        "1/7 prompts   starter",
        "2/7 warmup    sample: teacher: 8 prompts",
        "    warmup    40 steps",
        "3-5 reused    sample, score, rank",
        "6/7 train     RRHF",
        "7/7 evaluate  sample: trained",
        "    evaluate  trained",
    ]
    assert "3/7 sample reused, sample-0123456789abcdef: responses" in " ".join(logged)


def test_what_stands_between_two_parts_takes_the_number_of_neither(shown):
    console.begin(["rank", "train"])
    console.reused("rank", "", "rank-0123456789abcdef")
    console.part("")
    console.reused("sample", "", "sample-0123456789abcdef")
    console.part(None)
    console.heading("train", "SFT")
    assert shown() == ["  1 reused    rank, sample", "2/2 train     SFT"]


def test_a_later_round_goes_on_counting(shown):
    console.begin(["sample", "train", "sample", "train"])
    for stage in ("sample", "train", "sample", "train"):
        console.heading(stage, "")
    assert [line.split()[0] for line in shown()] == ["1/4", "2/4", "3/4", "4/4"]


def test_a_long_line_is_broken_between_words_below_its_text(shown):
    console.begin(["sample"])
    console.heading("sample", "student")
    console.result("12 s: 9 prompts, 36 responses, 213 tokens, 35 cut by length, 106 per second")
    first, *rest = shown()[1:]
    assert len(rest) == 1 and all(len(line) <= 60 for line in (first, *rest))
    assert rest[0].startswith(" " * 14) and not rest[0].startswith(" " * 15)
    assert " ".join((first + rest[0]).split()).endswith("106 per second")


def test_the_clock_of_a_bar_starts_with_the_first_unit(monkeypatch, capsys):
    """An engine that takes ten minutes to start is not the pace of what follows."""
    now = [0.0]
    monkeypatch.setattr("rankdistill.console.time.monotonic", lambda: now[0])
    monkeypatch.setattr(console, "console", Console(width=80))
    with console.progress(100, "prompts") as bar:
        now[0] = 600.0
        bar.advance(10)
        now[0] = 620.0
        bar.advance(10, "loss 2.53")
    told = capsys.readouterr().out
    assert "20/100 prompts, 2.0 s per prompt, 2 min 40 s left, loss 2.53" in told


def test_units_that_take_minutes_are_told_from_the_second_on(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("rankdistill.console.time.monotonic", lambda: now[0])
    monkeypatch.setattr(console, "console", Console(width=80))
    with console.progress(100, "iterations") as bar:
        for now[0] in (150.0, 180.0, 270.0):
            bar.advance()
    [told] = capsys.readouterr().out.splitlines()
    assert told.strip() == "3/100 iterations, 60.0 s per iteration, 1 h 37 min left"


def test_a_batch_that_is_done_at_once_has_no_pace(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr("rankdistill.console.time.monotonic", lambda: now[0])
    monkeypatch.setattr(console, "console", Console(width=80))
    with console.progress(12, "prompts") as bar:
        for place in range(6):
            now[0] = 90.0 + place / 1000
            bar.advance()
    assert capsys.readouterr().out == ""


def test_a_library_that_logs_to_a_closed_stream_is_not_heard(monkeypatch, capsys):
    monkeypatch.setattr(logging, "raiseExceptions", True)
    stream = io.StringIO()
    monkeypatch.setattr(logging.getLogger("an_engine"), "handlers", [logging.StreamHandler(stream)])
    stream.close()
    logging.getLogger("an_engine").error("shut down")
    assert "Logging error" in capsys.readouterr().err
    console.quiet()
    logging.getLogger("an_engine").error("shut down")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (54, "54 s"), (220, "3 min 40 s"), (7500, "2 h 05 min")],
)
def test_durations(seconds, text):
    assert console.clock(seconds) == text
