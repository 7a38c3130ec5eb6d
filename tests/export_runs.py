"""Folders of finished runs, without running them: a tiny student, made-up figures."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from datasets import Dataset
from omegaconf import OmegaConf
from report_rows import run_report
from tiny_models import build_model, build_tokenizer
from tiny_run import composed

from rankdistill.models import keep_layers, save_model
from rankdistill.report import write_report


@cache
def config_yaml(*overrides: str) -> str:
    return OmegaConf.to_yaml(composed("recipe=rrhf", *overrides), resolve=True)


def finished_run(folder: Path, *overrides: str, tied: bool = True, **report) -> Path:
    """A run folder whose student is a tiny Llama with one of its layers dropped."""
    folder.mkdir(parents=True)
    write_report(run_report(12, config_yaml=config_yaml(*overrides), **report), folder)
    student = keep_layers(build_model("llama", tied=tied), [0, 2])
    save_model(student, build_tokenizer(), folder / "model")
    rows = [
        {
            "prompt_id": f"p{i}",
            "split": "train",
            "messages": [{"role": "user", "content": f"Count to {i}."}],
            "responses": [
                {"text": "no", "token_ids": [5], "finish_reason": "stop", "source": "student",
                 "scores": {"likelihood": 0.0}, "score": 0.0, "rank": 1},
                {"text": f"yes {i}", "token_ids": [6], "finish_reason": "stop",
                 "source": "student", "scores": {"likelihood": 0.0}, "score": 1.0, "rank": 0},
            ],
        }
        for i in range(3)
    ]  # fmt: skip
    (folder / "ranked").mkdir()
    Dataset.from_list(rows).to_parquet(str(folder / "ranked" / "train.parquet"))
    return folder
