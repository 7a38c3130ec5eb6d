"""Answers to one prompt as candidates of the others that were made of the same request."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
from test_pipeline_verified import run

from rankdistill.rows import Group, Response
from rankdistill.sample.cluster import with_cluster


def response(text: str, source: str = "student") -> Response:
    return Response(text=text, token_ids=[1], finish_reason="stop", source=source)


def group(name: str, cluster: str | None, *texts: str, split: str = "train") -> Group:
    made = Group(
        prompt_id=name,
        split=split,  # type: ignore[arg-type]
        messages=[],
        responses=[response(t) for t in texts],
    )
    if cluster is not None:
        made["cluster"] = cluster
    return made


def texts(groups: list[Group]) -> list[list[tuple[str, str]]]:
    return [[(r["text"], r["source"]) for r in g["responses"]] for g in groups]


def test_the_others_of_the_cluster_join_behind_the_own():
    groups = [group("a", "x", "1", "2"), group("b", "y", "3"), group("c", "x", "4")]
    assert texts(with_cluster(groups)) == [
        [("1", "student"), ("2", "student"), ("4", "cluster")],
        [("3", "student")],
        [("4", "student"), ("1", "cluster"), ("2", "cluster")],
    ]
    # What was given stays as it is.
    assert [len(g["responses"]) for g in groups] == [2, 1, 1]


def test_without_a_cluster_a_prompt_is_alone_and_splits_do_not_mix():
    groups = [group("a", None, "1"), group("b", None, "2")]
    assert texts(with_cluster(groups)) == texts(groups)
    apart = [group("a", "x", "1"), group("b", "x", "2", split="validation")]
    assert texts(with_cluster(apart)) == texts(apart)


def test_a_run_ranks_both_sides_by_each_others_answers(monkeypatch, tmp_path, teacher):
    folder = run(
        monkeypatch, tmp_path, teacher, "prompts.instructions.both_sides=true",
        "sample.from_cluster=true", "eval.quick.sharpening_control=false",
    )  # fmt: skip
    rows = pq.read_table(folder / "ranked" / "train.parquet").to_pylist()
    sources = [{r["source"] for r in row["responses"]} for row in rows]
    assert any(sources) and {"student", "cluster"} in sources
    # Where one thing is demanded, what one of two opposite prompts ranks first the other does not.
    by_base: dict[str, list] = {}
    for row in rows:
        columns = json.loads(row["columns"])
        if len(columns["demands"]) == 1:
            by_base.setdefault(columns["base"], []).append(row)
    pairs = [pair for pair in by_base.values() if len(pair) == 2]
    for one, other in pairs:
        best = {r["text"] for r in one["responses"] if r["rank"] == 0}
        assert not best & {r["text"] for r in other["responses"] if r["rank"] == 0}
