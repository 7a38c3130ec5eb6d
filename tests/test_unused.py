"""What a command asks for without effect is said in a line, and nothing else is."""

from __future__ import annotations

import pytest
from tiny_run import composed, run_here

from rankdistill.stages import settings
from rankdistill.stages.unused import unused


def told(*overrides: str) -> list[str]:
    return list(unused(settings.build(composed(*overrides)), overrides))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("recipe=ppo objective=dpo", "objective=dpo, since train=ppo learns from a reward"),
        ("recipe=ppo objective=dpo objective.beta=0.2", "objective=dpo objective.beta=0.2, since"),
        ("recipe=on_policy objective=dpo", "objective=dpo, since train=distillation learns what"),
        ("recipe=on_policy reward.epochs=2", "reward.epochs=2, since train.reward_coef=0 asks for"),
        ("recipe=ppo train.reward=score reward.epochs=2", "train.reward=score asks for no reward"),
        ("recipe=dpo reward.margin=0.5", "since train=ranking learns the ranking itself"),
        ("recipe=reward_model objective=dpo", "since reward.only=true trains a reward model"),
        ("recipe=reward_model train=ppo", "train=ppo, since reward.only=true"),
        ("recipe=dpo rounds=0 objective=ipo", "since rounds=0 ends with the warm-up"),
        ("recipe=evaluate base=a/model objective=dpo", "objective=dpo, since nothing is trained"),
        ("recipe=on_policy teacher.chat_template_kwargs={a: 1}", "the student's own tokens"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_said(overrides, said):
    words = overrides.replace(": ", ":").split()
    [line] = told(*words)
    assert said in line and line.startswith("without effect")


@pytest.mark.parametrize(
    "overrides",
    [
        "recipe=ppo", "recipe=ppo reward.epochs=2 train.epochs=1", "recipe=on_policy seed=1",
        "recipe=on_policy train.reward_coef=1 reward.epochs=2", "recipe=dpo objective=ipo",
        "recipe=reward_model reward.epochs=2 train.epochs=1", "recipe=dpo rounds=0 train.epochs=1",
        "recipe=dpo teacher.chat_template_kwargs={a:1}",
        "recipe=on_policy train.teachers=endpoint sample.endpoint.model=m "
        "sample.endpoint.urls=[http://127.0.0.1:9/v1] teacher.chat_template_kwargs={a:1}",
    ],
)  # fmt: skip
def test_what_has_one_is_not(overrides):
    assert told(*overrides.split()) == []


def test_a_run_says_it_before_it_begins(monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run_here(
            monkeypatch, tmp_path, "recipe=on_policy", "objective=dpo", "prompts.path=no.jsonl"
        )
    assert "without effect: objective=dpo, since" in " ".join(capsys.readouterr().out.split())
