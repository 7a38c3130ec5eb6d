"""Whole runs with other scorers than the likelihood: ensemble, revisions, held-out judge, gate."""

from __future__ import annotations

import json
import shutil

import pytest
from fake_endpoint import FakeEndpoint, shown
from tiny_run import TINY, run_here

from rankdistill.score.judge.verdicts import RATINGS


@pytest.fixture
def teacher(teacher, tmp_path):
    """With room for a critique, which is long in a tokenizer of bytes."""
    roomy = tmp_path / "roomy"
    shutil.copytree(teacher, roomy)
    config = json.loads((roomy / "config.json").read_text())
    (roomy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    return roomy


def brain(question: str) -> str:
    """Prefers text with more vowels; rates by their number."""
    if "Rate the response" in question:
        return RATINGS[min(9, vowels(shown(question, "RESPONSE")))]
    if "FIRST RESPONSE" not in question:
        return "tie"  # the check at start-up
    a, b = (vowels(shown(question, f"{name} RESPONSE")) for name in ("FIRST", "SECOND"))
    return "tie" if a == b else "first" if a > b else "second"


def vowels(text: str) -> int:
    return sum(text.lower().count(letter) for letter in "aeiou")


def arguments(teacher, url: str, *more: str) -> list[str]:
    return [
        "recipe=rrhf", *TINY, f"teacher.path={teacher}",
        "score=ensemble", "score.scorers.judge.mode=pairwise",
        f"score.scorers.judge.endpoint={url}", "score.scorers.judge.model=judge-1", *more,
    ]  # fmt: skip


def test_an_ensemble_with_revisions_judged_by_another(monkeypatch, tmp_path, teacher, capsys):
    with FakeEndpoint(brain) as server:
        more = [
            "sample.teacher_revision=true", "rank.aggregate=bradley_terry", 
            "rank.weights={judge:2}", "score@eval.judge=judge", "eval.judge.model=judge-1",
            f"eval.judge.endpoint={server.url}", "eval.judge.expected_score=false",
        ]  # fmt: skip
        folder = run_here(monkeypatch, tmp_path, *arguments(teacher, server.url, *more))
        told = " ".join(capsys.readouterr().out.split())
        asked = len(server.requests)
        # The same again asks only whether the endpoint is there.
        run_here(monkeypatch, tmp_path, *arguments(teacher, server.url, *more))
        assert len(server.requests) - asked == 2
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["judge"] == {"name": "judge under judge-1", "is_training_teacher": False}
    ranking = metrics["ranking"]
    assert set(ranking["scorers"]) == {"likelihood", "judge"} and ranking["alpha"] < 0.2
    assert "the ranking is mostly noise" in told
    assert ranking["scorers"]["judge"]["ballots"]["flips"]["mean"] == 0.0
    page = (folder / "report.html").read_text()
    assert "The ranking it was trained on" in page and "Values of judge" in page
    assert "own teacher" not in page and "Krippendorff" in (folder / "report.md").read_text()
    from datasets import load_dataset

    rows = load_dataset(str(folder / "ranked"), cache_dir=str(tmp_path / "cache"))["train"]
    # The tiny teacher repeats a token, as its student does, so its rewrites are duplicates.
    counted = [stage["counts"] for stage in metrics["stages"] if "revisions" in stage["what"]]
    assert [counts["responses"] for counts in counted] == [9 * 5, 9 * 5]
    for row in rows:
        count = len(row["responses"])
        assert all(place < count for ballot in row["ballots"] for place in ballot["shown"])
        best = [r for r in row["responses"] if r["rank"] == 0]
        assert all(set(r["scores"]) == {"likelihood", "judge"} for r in best)


def test_the_gate_stops_before_training(monkeypatch, tmp_path, teacher, capsys):
    with FakeEndpoint(brain) as server, pytest.raises(SystemExit):
        run_here(monkeypatch, tmp_path, *arguments(teacher, server.url, "rank.min_agreement=0.99"))
    told = "".join(capsys.readouterr())
    assert "below rank.min_agreement=0.99" in told.replace("\n", " ") and "Traceback" not in told
    assert not (tmp_path / "run" / "model").exists()


def test_nobody_at_the_endpoint_is_said_at_start_up(monkeypatch, tmp_path, teacher, capsys):
    with pytest.raises(SystemExit):
        run_here(monkeypatch, tmp_path, *arguments(teacher, "http://127.0.0.1:9/v1"))
    told = "".join(capsys.readouterr()).replace("\n", " ")
    assert "can't be reached" in told and "sample" not in told.split("error")[0]


def test_an_existing_set_is_scored_again_beside_its_own_ranks(monkeypatch, tmp_path, teacher):
    rows = [
        {"prompt": f"Say {n}.", "responses": [{"text": "a" * k, "rank": k} for k in range(3)]}
        for n in range(30)
    ]
    ranked = tmp_path / "human.jsonl"
    ranked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with FakeEndpoint(brain) as server:
        folder = run_here(
            monkeypatch, tmp_path, "recipe=ranked_set", f"teacher.path={teacher}",
            *(option for option in TINY if "warmup" not in option),
            f"rank.path={ranked}", "rank.rescore=true", "score=judge", "score.mode=pairwise",
            f"score.endpoint={server.url}", "score.model=judge-1",
        )  # fmt: skip
    found = json.loads((folder / "metrics.json").read_text())["ranking"]
    [pair] = found["agreement"]
    # The set puts the shortest first, the judge the one with most vowels.
    assert (pair["a"], pair["b"], pair["human"], pair["mean"]) == ("imported", "judge", True, -1.0)
    assert "imported and judge" in (folder / "report.html").read_text()
