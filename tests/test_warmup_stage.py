"""The warm-up stage over a store: what is made once and what again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import build_model, build_tokenizer

from rankdistill.config import Layout, Precision
from rankdistill.run import Model, Run
from rankdistill.store import Store
from rankdistill.warmup.logits import LogitsWarmup
from rankdistill.warmup.none import NoWarmup
from rankdistill.warmup.stage import warm_up
from rankdistill.warmup.teaching import Taught

NO_PROMPTS: Any = None


@pytest.fixture
def job(tmp_path):
    """As much of a run as the stage uses, on tiny models; and the teacher's responses."""
    for name, seed in (("student", 1), ("teacher", 2)):
        build_model(layers=1, seed=seed).save_pretrained(tmp_path / name)
        build_tokenizer().save_pretrained(tmp_path / name)
    model = SimpleNamespace(
        precision=Precision["float32"], attn_implementation="sdpa", trust_remote_code=False,
        quantization=None, use_liger_kernel=False,
    )  # fmt: skip
    run = SimpleNamespace(
        settings=SimpleNamespace(
            student=model, teacher=model, train=SimpleNamespace(layout=Layout["shared"]), seed=0,
            report_to=[], warmup=None,
        ),
        store=Store(tmp_path / "store"),
        records=[],
        lora=None,
        trained_in={"precision": "float32"},
        teacher=Model(str(tmp_path / "teacher"), {"folder": "t"}),
        start=Model(str(tmp_path / "student"), {"folder": "s"}),
        close_sampler=lambda: None,
    )  # fmt: skip
    run.stage = lambda *args, **options: Run.stage(run, *args, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)

    def response(length):
        ids = torch.randint(3, 259, (length,), generator=generator).tolist()
        return {"text": "", "token_ids": ids, "finish_reason": "length", "source": "teacher"}

    rows = [
        {
            "prompt_id": f"p{i}",
            "split": "train",
            "messages": [{"role": "user", "content": "x" * i}],
            "responses": [response(1 + i % 7)],
        }
        for i in range(8)
    ]
    taught = Taught(rows[:6], rows[6:], "rows", str(tmp_path / "teacher"), [], "prompts")
    return run, Model(str(tmp_path / "student"), {"folder": "s"}), taught


def warmed(job, warmup):
    run, student, taught = job
    run.settings.warmup = warmup
    run.records.clear()
    model, history = warm_up(run, student, NO_PROMPTS, taught)
    return model, history, [(record.stage, record.reused) for record in run.records]


def test_warmups_share_the_stored_outputs_of_the_teacher(job):
    warmup = LogitsWarmup(epochs=1.0, responses_per_step=4, teacher_outputs="top_k", top_k=8)
    first, history, stages = warmed(job, warmup)
    assert stages == [("teacher", False), ("warmup", False)]
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2]
    second, _, stages = warmed(job, replace(warmup, learning_rate=1e-5))
    assert stages == [("teacher", True), ("warmup", False)] and second != first
    again, _, stages = warmed(job, replace(warmup, max_batch_tokens=50))
    assert stages == [("warmup", True)] and again == first
    _, _, stages = warmed(job, replace(warmup, top_k=9))
    assert stages == [("teacher", False), ("warmup", False)]


def test_outputs_that_are_exact_need_no_other_warmup(job):
    """`live` and `hidden` give the same model, so they share its key."""
    warmup = LogitsWarmup(epochs=1.0, responses_per_step=4)
    first, _, stages = warmed(job, warmup)
    assert stages == [("warmup", False)]
    again, _, stages = warmed(job, replace(warmup, teacher_outputs="hidden"))
    assert stages[-1] == ("warmup", True) and again == first


def test_none_needs_no_stage(job):
    run, student, _ = job
    run.settings.warmup = NoWarmup()
    assert warm_up(run, student, NO_PROMPTS, None) == (student, [])
    assert run.records == []
