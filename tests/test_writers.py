"""Several writers: who wrote as the ranking, what each wins, and what that order is worth."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from fake_endpoint import FakeEndpoint
from judge_data import NOBODY
from tiny_run import composed, refusal, run_here, shrunk

from rankdistill.errors import UserError
from rankdistill.rank.diagnostics import writer_figures
from rankdistill.report.ranking import writer_labels, writer_rows
from rankdistill.score.writer import ByWriter
from rankdistill.stages import settings


def group(name: str, *responses: tuple[str, dict[str, float]]) -> Any:
    return {
        "prompt_id": name,
        "responses": [
            {"source": source, "text": "", "scores": scores, "score": scores["writer"]}
            for source, scores in responses
        ],
    }


def test_a_writers_place_is_the_value():
    rows: Any = [group("p", *((who, {"writer": 0.0}) for who in ("b", "a", "c", "b")))]
    [[values]] = list(ByWriter(["a", "b"])(rows, NOBODY))
    assert values[:2] == [1.0, 2.0] and math.isnan(values[2]) and values[3] == 1.0
    assert ByWriter(["a", "b"]).identity != ByWriter(["b", "a"]).identity
    with pytest.raises(UserError, match="the responses are by a, b, c: name at least two"):
        list(ByWriter(["a", "z"])(rows, NOBODY))


def test_what_writers_win_and_what_their_order_is_worth():
    def pair(strong: float, weak: float) -> list[tuple[str, dict[str, float]]]:
        return [("big", {"writer": 2.0, "rule": strong}), ("small", {"writer": 1.0, "rule": weak})]

    groups = [
        group("p", *pair(1, 0)),
        group("q", *pair(0, 1)),
        group("r", *pair(1, 1), *pair(1, 0)),
    ]
    found = writer_figures(groups)
    assert found is not None
    big, small = found["writers"]["big"], found["writers"]["small"]
    assert (big["responses"], big["wins"]["mean"], small["best"]["mean"]) == (4, 1.0, 0.0)
    worth = found["held_against"]["rule"]
    # Of the third group's four pairs two are better, two are tied.
    assert worth["pairs"] == 6 and worth["better"]["mean"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert worth["worse"]["mean"] == pytest.approx(1 / 3)
    assert writer_figures([group("p", ("a", {"writer": 1.0}))]) is None
    equal = writer_figures([group("p", ("a", {"writer": 1.0}), ("b", {"writer": 1.0}))])
    assert equal is not None
    assert [(w["wins"]["mean"], w["best"]["mean"]) for w in equal["writers"].values()] == [
        (0.5, 1.0), (0.5, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["sample.writers=[student]"], "write one response to a prompt"),
        (["sample.writers={student: 0, teacher: 2}"], r"sample.writers.student is 0"),
        (["sample.writers=[teacher,teacher]"], "names a writer twice"),
        (["sample.writers=teacher"], "give names, or numbers by name"),
        (["sample.writers=[student,endpoint]"], "names endpoint, which is none"),
        (["sample.writers=[student,teacher]", "sample.teacher_response=true"], "says who writes"),
        (["score=writer"], "give the writers from the strongest to the weakest"),
        (["score=writer", "sample.writers=[teacher,student]"], "cannot judge held-out answers"),
        (["score=writer", "score.order=[a]"], "give at least two writers"),
        (
            ["score=writer", "score.order=[teacher,studnt]", "sample.writers=[teacher,student]"],
            "names the writers teacher, studnt, and the responses are by student, teacher",
        ),
    ],
)  # fmt: skip
def test_refusals(overrides, told):
    with pytest.raises(UserError, match=told):
        settings.build(composed("recipe=likelihood", *overrides))


def test_a_run_of_four_writers_ranked_by_who_they_are(monkeypatch, tmp_path, teacher, capsys):
    from shutil import copytree

    other = copytree(teacher, tmp_path / "other")
    small = [part for part in shrunk("rrhf") if not part.startswith("warmup.")]
    run = [
        "recipe=rrhf", *small, f"teacher.path={teacher}", "warmup=none", "score=writer",
        "score@eval.judge=demands", "rank.select=all", "sample.responses_per_prompt=9",
        "sample.endpoint.model=judge-1",
    ]  # fmt: skip
    with FakeEndpoint(lambda question: ("UPPER CASE.",)) as server:
        run.append(f"sample.endpoint.urls=[{server.url}]")
        writers = f"sample.writers={{endpoint: 1, {other}: 1, student: 2}}"
        folder = run_here(monkeypatch, tmp_path, *run, writers)
        told = refusal(monkeypatch, capsys, tmp_path, *run, "sample.writers=[endpoint,nowhere/x/y]")
    assert "nowhere/x/y" in told
    ranking = json.loads((folder / "metrics.json").read_text())["ranking"]
    writers = ranking["writers"]
    names = ["endpoint", str(other), "student"]
    assert list(writers["writers"]) == names
    counts = [writers["writers"][name]["responses"] for name in names]
    assert counts[0] == counts[1] and counts[2] == 2 * counts[0] > 0
    assert writers["writers"]["endpoint"]["wins"]["mean"] == 1.0
    assert writers["held_against"]["verifier"]["pairs"] > 0
    assert set(ranking["scorers"]) == {"writer", "verifier"}
    from datasets import load_dataset

    rows: Any = load_dataset(str(folder / "ranked"), cache_dir=str(tmp_path / "cache"))["train"]
    for row in rows:
        assert {r["source"]: r["rank"] for r in row["responses"]}["endpoint"] == 0
    page = (folder / "report.html").read_text()
    assert "Who wrote the responses" in page and "the stronger writer" in page
    assert "Who wrote the responses" in (folder / "report.md").read_text()


def test_answers_to_the_same_request_asked_otherwise_are_called_so():
    share = {"mean": 0.5, "low": 0.4, "high": 0.6}
    wrote = {"responses": 3, "wins": share, "best": share}
    writers = {"writers": {"student": wrote, "cluster": wrote}}
    metrics = {"ranking": {"writers": writers}}
    assert writer_labels(metrics) == ["student", "student, asked otherwise"]
    assert "the same request with other demands" in writer_rows(metrics)[0].explanation
