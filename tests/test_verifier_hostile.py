"""Texts and columns that a check fails by, hangs on, or must not follow: one response, no more."""

from __future__ import annotations

import json
import math
import socket
import time
from collections import Counter

import psutil
import pytest
from judge_data import group, judged, scorer, values

from rankdistill.score import score_groups
from rankdistill.score.verifier.answers import between
from rankdistill.score.verifier.instructions import follows
from rankdistill.score.verifier.processes import GROUPS_PER_PROCESS, Checkers
from rankdistill.score.verifier.rules import Rule


def told(rows, capsys, **changes):
    """Values by group, and what was said of those that are not there."""
    found = values(judged(scorer("verifier", **changes), rows), "verifier")
    return [[None if math.isnan(v) else v for v in row] for row in found], capsys.readouterr().out


def rows_of(*groups):
    return [
        {**group(f"p{number}", *texts), "columns": json.dumps(columns)}
        for number, (texts, columns) in enumerate(groups)
    ]


def instructions(*names, kwargs=None):
    return {"instruction_id_list": list(names), "kwargs": kwargs or [{}] * len(names)}


@pytest.mark.parametrize(
    ("rule", "text", "columns", "reason"),
    [
        ("json_schema", "[[1]]", {"answer": {"items": {"$ref": "#/none"}}}, "none"),
        ("json_schema", "[[1]]", {"answer": {"$ref": "#"}}, "RecursionError"),
        ("json_schema", "1", {"answer": {"type": "nothing"}}, "JSON schema"),
        ("json_schema", "1", {"answer": "no JSON"}, "JSON schema"),
        ("json_schema", "1e400", {"answer": {"multipleOf": 1.5}}, "Error"),
        ("regex", "a", {"answer": "("}, "no regular expression"),
        ("number", "1", {"answer": "none"}, "has no number"),
        ("ifeval", "a", {"instruction_id_list": ["startend:quotation"], "kwargs": []}, "shorter"),
        ("ifeval", "a", instructions("x:y"), "no instruction 'x:y'"),
        ("ifeval", "a", instructions("keywords:existence"), "TypeError"),
        ("ifeval", "a", instructions("startend:quotation", kwargs=[{"x": 1}]), "TypeError"),
    ],
)
def test_a_check_that_fails_costs_its_response_alone(rule, text, columns, reason, capsys):
    good = {"json_schema": True, "regex": text, "number": "1"}
    fine = {"answer": good.get(rule), **instructions("punctuation:no_comma")}
    found, said = told(rows_of(([text], columns), ([text], fine)), capsys, rule=rule)
    assert found == [[None], [1.0]]
    assert "1 of 2 responses could not be checked" in said and "prompt p0" in said
    assert reason in said


def test_no_instructions_are_no_failure(capsys):
    assert told(rows_of((["a"], instructions())), capsys, rule="ifeval") == ([[None]], "")


def test_what_hangs_is_ended_and_the_rest_is_checked(capsys):
    hang = {"answer": "(a+)+$"}
    rows = rows_of((["a" * 40 + "!", "b", "a"], hang), (["c" * 40], {"answer": "c"}))
    made = scorer("verifier", rule="regex", timeout_s=0.3)
    groups, counts = [], Counter()
    for part in score_groups(made, rows, None, counts=counts):  # type: ignore[arg-type]
        groups += part
    [first, second] = values(groups, "verifier")
    assert math.isnan(first[0]) and first[1:] == [0.0, 1.0] and second == [1.0]
    assert counts == {"unchecked": 1} and "it took more than 0.3 s" in capsys.readouterr().out


def test_a_function_of_the_users_may_hang_end_or_exit(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_hostile.py").write_text(
        "import os, sys, time\n"
        "def check(text, columns):\n"
        "    {'sleep': lambda: time.sleep(60), 'die': lambda: os._exit(3), 'exit': sys.exit,\n"
        "     'fail': lambda: {}['x']}.get(text, int)()\n    return len(columns)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = rows_of((["sleep", "die", "exit", "fail", "fine"], {"a": 1}))
    found, said = told(rows, capsys, rule="own_hostile:check", timeout_s=0.3)
    assert found == [[None, None, None, None, 1.0]] and "4 of 5 responses" in said


def test_a_schema_fetches_nothing_and_names_no_file(tmp_path, capsys):
    file = tmp_path / "schema.json"
    file.write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/secret"
        rows = rows_of((["1"], {"answer": {"$ref": url}}), (["1"], {"answer": str(file)}))
        found, said = told(rows, capsys, rule="json_schema")
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert found == [[None], [None]] and "2 of 2 responses" in said
    drafts = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert told(rows_of((['{"type": 3}'], {"answer": drafts})), capsys, rule="json_schema")[0] == [
        [0.0]
    ]


def test_brackets_without_end_are_no_json(capsys):
    texts = ["[" * 1_000, "```json\n" + "[" * 100_000, "[" * 100_000 + "]" * 100_000]
    assert told(rows_of((texts, {"answer": {}})), capsys, rule="json_schema")[0] == [[0.0] * 3]
    assert not any(follows(text, "detectable_format:json_format", {}) for text in texts)


@pytest.mark.parametrize(
    ("text", "bullets", "placeholders"),
    [
        ("* a\n- b", 2, 0), ("\n\n  * a\n\t- b", 2, 0), ("*\n* a", 1, 0), ("** a\n-", 1, 0),
        ("[a] [b]", 0, 2), ("[a[b] c]", 0, 1), ("[a\nb] []", 0, 1), ("]] [a", 0, 0),
    ],
)  # fmt: skip
def test_bullets_and_placeholders_are_counted_as_before(text, bullets, placeholders):
    for kind, key, count in (
        ("number_bullet_lists", "num_bullets", bullets),
        ("number_placeholders", "num_placeholders", placeholders),
    ):
        assert follows(text, f"detectable_format:{kind}", {key: count})
        assert not follows(text, f"detectable_format:{kind}", {key: count + 1})


def test_what_stands_between_marks():
    assert between("a<b>c</b>d<b></b><b>e", "<b>", "</b>") == ["c", ""]
    assert between("`````x```", "```", "```") == ["``x"]


LONG = [
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "\n", "x"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 1}, " ", "x"),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, "[", ""),
    ("length_constraints:number_sentences", {"num_sentences": 1, "relation": "at least"}, ".", "x"),
    ("detectable_format:title", {}, "<<", ""),
    ("detectable_format:json_format", {}, "``` ", "x"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "*", "x"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "P", ""),
]


@pytest.mark.parametrize(("name", "arguments", "part", "end"), LONG)
def test_twice_the_text_takes_about_twice_the_time(name, arguments, part, end):
    assert _growth(lambda text: follows(text, name, arguments), part, end) < 3


@pytest.mark.parametrize("part", ["```", "``` ", "<answer>", "<answer> "])
def test_marks_are_found_in_linear_time(part):
    closing = "</answer>" if "answer" in part else "```json"
    assert _growth(lambda text: between(text, part.strip(), closing), part, "") < 3


def _growth(check, part: str, end: str) -> float:
    """Time of twice the text over that of the text; a quadratic pattern has 4."""
    ratios = []
    for _ in range(5):
        times = []
        for count in (20_000, 40_000):
            started = time.process_time()
            for _ in range(3):
                check(part * count + end)
            times.append(time.process_time() - started)
        # What takes less than this is linear, however the clock's steps divide.
        ratios.append(0.0 if times[1] < 0.05 else times[1] / times[0])
    return min(ratios)


def test_no_process_outlives_the_checks_that_it_was_started_for():
    """Other tests keep theirs, see `shortcuts.py`."""
    groups = [(["It is 4.", "It is 5."], {"answer": "4"})] * (2 * GROUPS_PER_PROCESS)
    before = {child.pid for child in psutil.Process().children()}
    with Checkers(Rule("number", "answer", None), 5.0, len(groups)) as checkers:
        values = [[answer.value for answer in group] for group in checkers.answers(groups)]
        started = [c for c in psutil.Process().children() if c.pid not in before]
    assert values == [[1.0, 0.0]] * len(groups)
    assert 1 <= len(started) <= 2
    assert not any(child.is_running() for child in started)
