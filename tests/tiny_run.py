"""A whole run in seconds: what shrinks a recipe to a tiny model and a handful of prompts."""

from __future__ import annotations

import sys
from pathlib import Path

from rankdistill.cli import main

TINY = [
    "sample=transformers",
    "student.keep_layers=2",
    "prompts.max_prompt_tokens=200",
    "prompts.limit.train=6",
    "prompts.limit.validation=3",
    "prompts.limit.heldout=4",
    "sample.max_response_tokens=6",
    "warmup.epochs=1",
    "train.epochs=1",
    "train.prompts_per_step=3",
]


def run_here(monkeypatch, folder: Path, *arguments: str) -> Path:
    """The command in this process; returns its run folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["rankdistill", *arguments, "hydra.run.dir=run"])
    main()
    return folder / "run"
