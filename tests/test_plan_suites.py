"""Suites in a plan: every model is measured once, and what cannot be counted is named."""

from __future__ import annotations

import pytest
from test_plan import plan

from rankdistill.plan.__main__ import main

HELLASWAG = ("recipe=evaluate", "eval=[hellaswag]", "teacher.path=bundled/smollm2-135m-instruct")


@pytest.mark.parametrize(
    ("arguments", "models"),
    [
        ((), ["teacher"]),
        (("student.path=HuggingFaceTB/SmolLM2-360M",), ["student", "teacher"]),
        (("student.path=HuggingFaceTB/SmolLM2-360M", "base=a/b"), ["2 students", "teacher"]),
        # The base is the teacher, which is measured once.
        (
            ("student.path=HuggingFaceTB/SmolLM2-360M", "base=bundled/smollm2-135m-instruct"),
            ["student", "teacher"],
        ),
        # What is trained starts as the teacher, but for what has fewer layers.
        (("rounds=1", "warmup=none"), ["student", "teacher"]),
        (("rounds=1", "warmup=logits"), ["2 students", "teacher"]),
        (("rounds=1", "warmup=logits", "student.keep_layers=20"), ["3 students", "teacher"]),
    ],
)
def test_suites_are_measured_of_every_model_once(capsys, arguments, models):
    found = plan(capsys, *HELLASWAG, "eval.hellaswag.limit=2000", *arguments)
    stages = [stage for stage in found["stages"] if stage["what"].startswith("hellaswag")]
    many = [f"by {each}" if each[0].isdigit() else f"by the {each}" for each in models]
    assert [stage["what"] for stage in stages] == [f"hellaswag: 2,000 items {by}" for by in many]
    for stage, each in zip(stages, models, strict=True):
        count = int(each[0]) if each[0].isdigit() else 1
        assert stage["tokens"] == 2000 * 85 * count
    assert found["suites_not_counted"] == []


def test_what_a_suite_has_answered_takes_as_long_as_it_took(capsys):
    """39 minutes on one core of two, for answers of 427 tokens (docs/evaluation.md)."""
    found = plan(
        capsys, "recipe=evaluate", "eval=[ifeval]", "teacher.path=bundled/smollm2-135m-instruct",
        "eval.ifeval.backend=vllm", "eval.ifeval.batch_size=64",
        "eval.ifeval.max_response_tokens=427",
    )  # fmt: skip
    (stage,) = found["stages"]
    assert stage["tokens"] == 541 * (78 + 427)
    assert 1 / 1.5 < stage["seconds"] / (39 * 60 / 2) < 1.5


def test_suites_that_are_not_counted_are_named(capsys, tmp_path):
    asked = ["recipe=rrhf", "eval=[quick,pairs]", f"eval.pairs.path={tmp_path / 'x.jsonl'}"]
    assert main(asked) == 0
    assert "Not counted: eval=[pairs]." in capsys.readouterr().out
    assert plan(capsys, *asked)["suites_not_counted"] == ["pairs"]
