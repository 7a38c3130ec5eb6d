"""The warm-up stage over a store: what is made once and what again."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_models import build_model, build_tokenizer

from rankdistill.models import Rows
from rankdistill.schema import Precision
from rankdistill.stages import warmup as stage
from rankdistill.stages.run import Model, Run
from rankdistill.stages.warmup import warm_up
from rankdistill.store import Store
from rankdistill.train.schema import Layout
from rankdistill.warmup.logits import LogitsWarmup
from rankdistill.warmup.none import NoWarmup
from rankdistill.warmup.on_policy import OnPolicyWarmup

NO_PROMPTS = Rows([], "prompts")


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
        unchecked={},
        lora=None,
        trained_in={"precision": "float32"},
        teacher=Model(str(tmp_path / "teacher"), {"folder": "t"}),
        start=Model(str(tmp_path / "student"), {"folder": "s"}),
        close_sampler=lambda: None,
        sampler=lambda: None,
        folder=tmp_path / "run",
    )  # fmt: skip
    run.stage = lambda *args, **options: Run.stage(run, *args, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)

    def response(length):
        ids = torch.randint(3, 259, (length,), generator=generator).tolist()
        return {"text": "", "token_ids": ids, "finish_reason": "length", "source": "teacher"}

    rows = [
        {
            "prompt_id": f"p{i}",
            "split": "train" if i < 6 else "validation",
            "messages": [{"role": "user", "content": "x" * i}],
            "responses": [response(1 + i % 7)],
        }
        for i in range(8)
    ]
    taught = Rows(rows, "rows", run.teacher)
    return run, Model(str(tmp_path / "student"), {"folder": "s"}), taught


def warmed(job, warmup, prompts=NO_PROMPTS):
    run, student, taught = job
    run.settings.warmup = warmup
    run.records.clear()
    model, history = warm_up(run, student, prompts, taught)
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


def test_a_damaged_shard_in_the_store_is_made_again_alone(job):
    run, _, _ = job
    warmup = LogitsWarmup(epochs=1.0, responses_per_step=4, teacher_outputs="hidden")
    warmed(job, warmup)
    [output] = (run.store.root / "outputs").glob("teacher-*")
    [shard] = output.rglob("*.safetensors")
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    warmed(job, replace(warmup, learning_rate=1e-5))
    assert shard.read_bytes() == whole


def test_what_is_measured_on_the_validation_prompts(job):
    """Before the first step and at every quarter; the same for a live and a stored teacher."""
    found = []
    for outputs in ("live", "hidden"):
        warmup = LogitsWarmup(
            epochs=2.0, responses_per_step=3, teacher_outputs=outputs, learning_rate=3e-3,
            logging_steps=2 if outputs == "live" else 1,
        )  # fmt: skip
        _, history, _ = warmed((job[0], job[1], replace(job[2], key=outputs)), warmup)
        measured = [(r["step"], r["eval_divergence"]) for r in history if "eval_divergence" in r]
        assert [step for step, _ in measured] == [0, 1, 2, 3, 4]
        found.append([value for _, value in measured])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0][-1] != found[0][0]


def test_rounds_on_what_the_student_writes(job, monkeypatch):
    """Every round samples the student of the round before, with seeds of its own."""
    _, student, taught = job
    asked = []

    def sample(run, model, prompts, source, count, *, seed):
        asked.append((model, seed))
        generator = torch.Generator().manual_seed(seed)
        rows = [
            {
                **prompt,
                "responses": [
                    {
                        "text": "", "finish_reason": "length", "source": source,
                        "token_ids": torch.randint(3, 259, (4,), generator=generator).tolist(),
                    }
                ],
            }
            for prompt in prompts
        ]  # fmt: skip
        return Rows(rows, f"own-{seed}", model)

    monkeypatch.setattr(stage, "sample", sample)
    prompts = replace(taught, key="prompts", writer=None)
    warmup = OnPolicyWarmup(rounds=3, responses_per_step=3, student_share=0.5, learning_rate=1e-3)
    model, history, stages = warmed(job, warmup, prompts)
    assert stages == [("warmup", False)] * 3
    assert asked[0][0] == student and len({model.path for model, _ in asked}) == 3
    assert len({seed for _, seed in asked}) == 3 and model not in [model for model, _ in asked]
    steps = [row["step"] for row in history if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]

    fewer = replace(warmup, rounds=2)
    _, _, stages = warmed(job, fewer, prompts)
    assert stages == [("warmup", True)] * 2  # the first rounds are the same


def test_the_share_of_the_students_responses_is_the_nearest_there_is():
    own, others = (
        [{"prompt_id": f"p{i}", "responses": [name]} for i in range(10)]
        for name in ("own", "other")
    )
    for share, count in ((0.0, 0), (0.3, 3), (0.32, 3), (0.37, 4), (1.0, 10)):
        mixed = OnPolicyWarmup(student_share=share).mixed(own, others, seed=1)
        assert [group["prompt_id"] for group in mixed] == [f"p{i}" for i in range(10)]
        assert sum(group["responses"] == ["own"] for group in mixed) == count
    one, two = (OnPolicyWarmup(student_share=0.3).mixed(own, others, seed) for seed in (1, 2))
    assert one != two
    assert OnPolicyWarmup(student_share=0.0).mixed(own, [], seed=1) == own
    assert OnPolicyWarmup().lessons.responses_per_prompt == 0
