"""A whole run in seconds: what shrinks a recipe to a tiny model and a handful of prompts."""

from __future__ import annotations

import sys
from pathlib import Path

from rankdistill.cli import main

SMALL = [
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
"""Of any recipe."""
LIKELIHOOD = [
    "prompts=starter", "score=likelihood", "sample.responses_per_prompt=4", "rank.select=all",
]  # fmt: skip
TINY = [*LIKELIHOOD, *SMALL]
"""Short prompts, judged by the teacher: what a model of random weights writes follows no demand."""
VERIFIED = [
    *SMALL, "prompts.max_prompt_tokens=800", "prompts.limit.train=12",
    "prompts.instructions.demands_per_prompt=[4]", "sample.max_response_tokens=60",
    "sample.temperature=1.0", "eval.verified.best_of=[1,2]", "eval.verified.best_of_prompts=2",
    "eval.verified.guard_prompts=2",
]  # fmt: skip
"""Prompts with demands, of which bytes drawn at random follow some."""


def run_here(monkeypatch, folder: Path, *arguments: str) -> Path:
    """The command in this process; returns its run folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["rankdistill", *arguments, "hydra.run.dir=run"])
    main()
    return folder / "run"
