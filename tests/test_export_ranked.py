"""A run's ranked set on the hub, with a card: who wrote it, who ranked it, and how well."""

from __future__ import annotations

import os
from typing import Any

import pytest
from export_runs import finished_run
from huggingface_hub import DatasetCard

from rankdistill.export import hub as pushing
from rankdistill.export.__main__ import main


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1}


RANKING: dict[str, Any] = {
    "groups": 3, "responses": 6, "alpha": 0.05, "raters": "ballots", "validation": None,
    "disputed": [], "agreement": [],
    "scorers": {
        "judge": {
            "values": 6, "missing": 0, "ties": 0.1, "length": interval(0.6), "histogram": None,
            "ballots": {
                "ballots": 12, "pairs_in_both_orders": 6, "flips": interval(0.3),
                "first_wins": interval(0.7), "ties": interval(0.1), "triples": 0, "cyclic": None,
            },
        },
    },
    "writers": {
        "writers": {
            name: {"responses": 3, "wins": interval(wins), "best": interval(wins)}
            for name, wins in (("/home/me/models/big-model", 0.8), ("student", 0.2))
        },
        "held_against": {},
    },
}  # fmt: skip


class FakeHub:
    calls: list[tuple]

    def __init__(self) -> None:
        FakeHub.calls = []

    def create_repo(self, repository: str, **options: Any) -> None:
        self.calls.append((repository, options))

    def upload_folder(self, **options: Any) -> None:
        self.calls.append((options["repo_type"], sorted(os.listdir(options["folder_path"]))))


def test_a_ranked_set_with_its_card(tmp_path, monkeypatch, capsys):
    run = finished_run(tmp_path / "run", ranking=RANKING)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(pushing, "HfApi", FakeHub)
    arguments = [str(run), "--ranked", "--push", "me/ranked", "--license", "cc-by-4.0"]
    assert main(arguments) == 0
    create, upload = FakeHub.calls
    assert create == ("me/ranked", {"private": True, "exist_ok": True, "repo_type": "dataset"})
    assert upload == ("dataset", ["README.md", "train.parquet"])
    assert "https://huggingface.co/datasets/me/ranked" in capsys.readouterr().out
    card: Any = DatasetCard.load(run / "ranked_export" / "README.md")
    text = card.content
    assert card.data.license == "cc-by-4.0" and "ranking" in card.data.tags
    assert "big-model" in text and "/home/me" not in text and "hf_secret" not in text
    for said in ("Who wrote the responses", "Position flips", "favours longer responses",
                 "turn over with the order", "alpha 0.05", "apache-2.0"):  # fmt: skip
        assert said in text, said
    from datasets import load_dataset

    rows: Any = load_dataset(str(run / "ranked_export"), cache_dir=str(tmp_path / "cache"))
    assert len(rows["train"]) == 3
    assert main([str(run), "--ranked"]) == 2
    assert "is not empty: give another --to" in capsys.readouterr().err


@pytest.mark.parametrize(("ranked", "told"), [(False, "ranked"), (True, "There is no run folder")])
def test_what_cannot_be_exported_is_one_sentence(tmp_path, capsys, ranked, told):
    run = tmp_path / "run"
    if not ranked:
        run = finished_run(run)
        (run / "ranked" / "train.parquet").unlink()
        (run / "ranked").rmdir()
    assert main([str(run), "--ranked"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and (told in lines[0] or ranked)
