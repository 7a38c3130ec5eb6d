"""On-policy distillation: what a token is worth, what the teacher reads, whole runs, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_task import TOKENIZER, config, policy, prompts, trainer
from tiny_models import build_model, build_tokenizer
from tiny_run import PPO, TINY, composed, refusal, run_here
from torch.testing import assert_close

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.models import encode_prompt
from rankdistill.stages import settings
from rankdistill.store import Store
from rankdistill.train.ppo.experience import Episode, Experience

DISTIL = {
    "advantage": "teacher", "kl_coef": 1.0, "gamma": 0.0, "reward_coef": 0.0, "ppo_epochs": 1,
    "prompts_per_step": 8, "whiten_advantages": False,
}  # fmt: skip


def experience(folder: Path, **more: Any) -> Experience:
    """Of one prompt with two responses, of 3 tokens and, cut, of 2."""
    student = [[-1.0, -2.0, -0.5], [-1.0, -1.0]]
    teacher = [[-0.5, -4.0, -0.5], [-3.0, -0.25]]
    group = TokenGroup([1], [[5, 6, 2], [7, 8]])
    episode = Episode("p", group, [False, True], [1.0, 0.5], student, teacher, None, None)
    given = config(folder, **{**DISTIL, **more})
    return Experience.of([episode], given, given.kl_coef)


def test_a_token_is_worth_what_the_teacher_has_over_the_student(tmp_path):
    found = experience(tmp_path)
    assert found.advantages.tolist() == [[0.5, -2.0, 0.0], [-2.0, 0.75, 0.0]]
    # The mean of what the tokens lose is the estimate of KL(student || teacher).
    assert found.figures["kl"] == pytest.approx(2.75 / 5) and "score" not in found.figures
    assert found.values is None


def test_it_may_answer_for_the_tokens_that_follow(tmp_path):
    found = experience(tmp_path, gamma=1.0, kl_coef=2.0)
    assert found.advantages.tolist() == [[-3.0, -4.0, 0.0], [-2.5, 1.5, 0.0]]
    half = experience(tmp_path, gamma=0.5)
    assert half.advantages.tolist() == [[-0.5, -2.0, 0.0], [-1.625, 0.75, 0.0]]


def test_a_reward_is_added_to_every_token(tmp_path):
    found = experience(tmp_path, reward_coef=4.0)  # 4 and 2: each is 2 from the other
    assert found.advantages.tolist() == [[2.5, 0.0, 2.0], [-4.0, -1.25, 0.0]]
    assert found.figures["score"] == 0.75
    cut = experience(tmp_path, missing_eos_penalty=1.0)
    assert cut.advantages.tolist() == [[1.5, -1.0, 1.0], [-3.0, -0.25, 0.0]]


def test_the_teacher_reads_the_same_responses_behind_its_own_prompt(tmp_path):
    rows: Any = [
        {**row, "teacher_messages": [{"role": "user", "content": f"more {i}"}]} if i else row
        for i, row in enumerate(prompts(3))
    ]
    teacher = policy(seed=1)
    run = trainer(
        tmp_path, None, epochs=1, prompts=rows, reference=teacher, prompts_per_rollout=3,
        max_batch_tokens=40, **DISTIL,
    )  # fmt: skip
    for episode in run.rollouts(0):
        row = next(row for row in rows if row["prompt_id"] == episode.prompt_id)
        readers = (
            (run.policy, row["messages"], episode.logps),
            (teacher, row.get("teacher_messages", row["messages"]), episode.reference_logps),
        )
        for model, messages, found in readers:
            ids = encode_prompt(TOKENIZER, messages)
            for response, logps in zip(episode.tokens.responses, found, strict=True):
                with torch.no_grad():
                    logits = model(torch.tensor([[*ids, *response]])).logits[0, len(ids) - 1 : -1]
                wanted = logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0]
                assert_close(torch.tensor(logps), wanted, atol=1e-4, rtol=0)


def test_a_student_comes_nearer_to_its_teacher(tmp_path):
    teacher = policy(seed=1)
    teacher.get_input_embeddings().weight.data.mul_(8)  # so sure that there is something to learn
    run = trainer(tmp_path, None, epochs=24, reference=teacher, **DISTIL)
    run.train()
    kl = [row["kl"] for row in run.history]
    assert sum(kl[-5:]) < 0.7 * sum(kl[:5]), kl
    assert all(abs(row["ratio"] - 1) < 1e-4 for row in run.history)  # its own responses, once


def test_a_student_that_is_its_teacher_learns_nothing(tmp_path):
    run = trainer(tmp_path, None, epochs=1, **DISTIL)
    start = {name: p.detach().clone() for name, p in run.policy.named_parameters()}
    assert Experience.of(run.rollouts(0), run.config, 1.0).advantages.abs().max() == 0
    run.train()
    for name, weight in run.policy.named_parameters():
        assert_close(weight, start[name], atol=1e-3, rtol=0)


def made(folder: Path, stage: str) -> list[Any]:
    """The outputs of a stage of a run."""
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    return [Store().find(s["key"]) for s in stages if s["stage"] == stage]


SUMS = [
    "recipe=likelihood", *(a for a in TINY if a.split("=")[0] not in ("score", "warmup.epochs")),
    *PPO[-1:], "warmup=none", "prompts.keep=[answer]", "score=verifier", "score.rule=number",
    "eval.quick.sharpening_control=false",
]  # fmt: skip


def sums(folder: Path) -> str:
    rows = ({"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40))
    file = folder / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"prompts.path={file}"


def test_a_student_taught_by_itself_with_the_answer_before_it(monkeypatch, tmp_path, teacher):
    whole = [a for a in SUMS if a != "student.keep_layers=2"]
    folder = run_here(
        monkeypatch, tmp_path, *whole, "student.keep_layers=null", f"teacher.path={teacher}",
        sums(tmp_path), "train=distillation", "train.reward_coef=0.5", "train.reward=score",
        'teacher.prompt_template="{prompt} It is {answer}."',
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["title"].startswith("On-policy distillation: ") and metrics["ranking"] is None
    assert not made(folder, "rank") and not made(folder, "reward")
    [training] = made(folder, "train")
    identity = training.manifest["identity"]
    assert identity["prompts"][1]["teacher_sees"]["template"] == "{prompt} It is {answer}."
    assert identity["teacher"] == identity["student"] and identity["verifier"]
    assert training.manifest["counts"]["models"] == 3  # the sampler's copy and the reference
    history = metrics["training_history"]
    # What it is shown is all that tells it from the student.
    assert len(history) == 2 and history[0]["kl_k3"] > 0 and history[0]["score"] == 0.0
    assert "also ranked the training" not in (folder / "report.md").read_text()


def test_ppo_on_a_verifier_needs_no_ranking(monkeypatch, tmp_path, teacher):
    folder = run_here(
        monkeypatch, tmp_path, *SUMS, f"teacher.path={teacher}", sums(tmp_path), "train=ppo",
        "train.reward=score", "train.advantage=group",
    )  # fmt: skip
    assert not made(folder, "rank") and not made(folder, "reward")
    [training] = made(folder, "train")
    assert "verifier" in training.manifest["identity"]
    assert "reward_model" not in training.manifest["identity"]


def test_another_tokenizer_is_refused_before_anything_is_sampled(
    monkeypatch, capsys, tmp_path, teacher
):
    other = build_tokenizer()
    other.add_tokens(["<more>"])
    other.save_pretrained(tmp_path / "student")
    model = build_model(layers=2)
    model.resize_token_embeddings(len(other), mean_resizing=False)
    model.save_pretrained(tmp_path / "student")
    capsys.readouterr()  # the bar of what was just saved
    said = refusal(
        monkeypatch, capsys, tmp_path, "recipe=on_policy", f"teacher.path={teacher}",
        f"student.path={tmp_path / 'student'}", "student.keep_layers=null", "warmup=none",
        "sample=transformers",
    )  # fmt: skip
    assert "tokenizers differ (the vocabularies have 260 and 259 tokens)" in said
    assert "warmup=cross_tokenizer" in said


BEST = 'teacher.prompt_template="{prompt} {best}"'


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train=ppo", "train.reward_coef=0"], "train=distillation, which learns from the teacher"),
        (["train=ppo", "train.reward=score", "train.critic=separate"], "take train.critic=head"),
        (["train=distillation", "train.kl_coef=0"], "leaves the teacher nothing to say"),
        (["train=distillation", "rounds=2"], "train=distillation samples anew"),
        (["train=distillation", "train.reward=scores"], "did you mean 'score'"),
        (["train=distillation", "train.cut=bootstrap"], "advantage=teacher has no critic"),
        (["train=distillation", "score=demands", "prompts=instructions", BEST], "set warmup=none"),
        (["train=distillation", "warmup=none", BEST], "would see while it scores"),
        (
            ["recipe=self_distillation", "sample.teacher_response=true"],
            "set sample.teacher_response=false",
        ),
    ],
)
def test_refusals(overrides, told):
    recipe = [] if overrides[0].startswith("recipe=") else ["recipe=likelihood"]
    with pytest.raises(UserError, match=told):
        settings.build(composed(*recipe, *overrides))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.rollout.responses_per_prompt=1", "train.reward_coef=1"], "at least 2"),
        (["train.reward_coef=1", "train.reward=score"], "score is likelihood: set score=verifier"),
    ],
)
def test_refusals_of_a_run(monkeypatch, capsys, tmp_path, teacher, overrides, told):
    said = refusal(
        monkeypatch, capsys, tmp_path, "recipe=likelihood", "train=distillation",
        "sample=transformers", f"teacher.path={teacher}", "student.keep_layers=2", *overrides,
    )  # fmt: skip
    assert told in said
