"""PPO and on-policy distillation of a policy that thinks: thoughts are apart from answers in the
reward, the lengths and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judge_data import NOBODY, scorer
from ppo_task import policy, prompts, trainer
from test_distillation import DISTIL, SUMS, made, sums
from test_thoughts import Remembering
from tiny_models import build_tokenizer
from tiny_run import run_here
from transformers import AddedToken

from rankdistill.models import Thoughts
from rankdistill.sample.transformers import TransformersSampler
from rankdistill.stages.ppo import VerifierReward
from rankdistill.thoughts import CLOSE
from rankdistill.train.ppo.experience import Experience, worths

TOKENIZER = build_tokenizer()
TOKENIZER.add_tokens([AddedToken(CLOSE, special=False, normalized=False)])
TOKENIZER.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n"
WRITTEN = (
    # ends, what is written behind the prompt's "<think>"
    (True, "12</think>\n12"), (True, "12</think>\nno"), (False, "12 12"), (True, "12"),
)  # fmt: skip


class Writes(TransformersSampler):
    """The four responses, as a sampler hands them over."""

    def sample(self, model, prompts, options, source, done=()):
        thoughts = Thoughts.of(TOKENIZER)
        for name, prompt in prompts:
            rows: list[Any] = []
            for ended, text in WRITTEN:
                ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
                ids = [*ids, TOKENIZER.eos_token_id] if ended else ids  # type: ignore
                finish = "stop" if ended else "length"
                row: Any = {"text": "", "token_ids": ids, "finish_reason": finish, "source": source}
                rows.append(thoughts.apart(prompt, row))
            yield name, rows


def thinking(folder: Path, reward: Any, **more: Any) -> Any:
    model = policy()
    model.resize_token_embeddings(len(TOKENIZER))
    return trainer(
        folder, reward, policy=model, sampler=Writes(), tokenizer=TOKENIZER,
        prompts=prompts(2), sampling={"responses_per_prompt": 4},
        **{"prompts_per_rollout": 2, "epochs": 2, **more, "prompts_per_step": 2},
    )  # fmt: skip


def test_the_answer_earns_the_reward_and_one_without_pays_for_its_end(tmp_path):
    verifier = VerifierReward(scorer("verifier", rule="regex", pattern="1"), NOBODY)
    run = thinking(tmp_path, verifier, missing_eos_penalty=0.5, kl_coef=0.0)
    episodes = run.rollouts(0)
    for episode in episodes:
        # What only the thought says earns nothing, whether the response ended or was cut.
        assert episode.scores == [1.0, 0.0, 0.0, 0.0] and episode.cut == [False, False, True, False]
        assert episode.unanswered == [False, False, True, True]
        assert episode.thought_tokens == [3, 3, 5, 3]
    found = Experience.of(episodes, run.config, 0.0)
    assert found.mask.sum(dim=1).tolist() == [7, 7, 5, 3] * 2  # all that was written is learned
    assert found.figures["thought_tokens"] == 3.5 and found.figures["answer_tokens"] == 2.0
    assert found.figures["no_answer"] == 0.5 and found.figures["cut_share"] == 0.25
    assert worths(episodes, run.config).tolist() == [1.0, 0.0, -0.5, -0.5] * 2


@pytest.mark.parametrize(
    "method",
    [{}, {"advantage": "group"}, DISTIL, {**DISTIL, "reward_coef": 1.0, "divergence": "jsd"}],
    ids=["critic", "group", "teacher", "divergence and reward"],
)
def test_every_method_trains_and_says_once_what_has_no_answer(method, tmp_path, capsys):
    teacher = policy(seed=1)
    teacher.resize_token_embeddings(len(TOKENIZER))
    any_answer = VerifierReward(Remembering([]), NOBODY)
    reward = any_answer if method.get("reward_coef", 1) else None
    run = thinking(tmp_path, reward, reference=teacher, **method)
    run.train()
    told = "4 of 8 responses of a rollout ended before their thought did"
    assert capsys.readouterr().out.count(told) == 1
    for row in run.history:
        assert row["thought_tokens"] + row["answer_tokens"] == row["response_tokens"] == 5.5
        assert row["no_answer"] == 0.5 and row.get("score", 0.5) == 0.5


def test_a_thinking_policy_in_a_whole_run(monkeypatch, tmp_path):
    folder, tokenizer = tmp_path / "student", build_tokenizer()
    tokenizer.chat_template = TOKENIZER.chat_template
    policy().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    given = [a for a in SUMS if not a.startswith(("student.keep_layers=", "score"))]
    ran = run_here(
        monkeypatch, tmp_path, *given, sums(tmp_path), f"teacher.path={folder}",
        f"student.path={folder}", "student.keep_layers=null", "score=verifier",
        "score.rule=regex", "score.pattern='[^,]'",
        "train=ppo", "train.reward=score", "train.advantage=group", "train.missing_eos_penalty=1",
    )  # fmt: skip
    metrics = json.loads((ran / "metrics.json").read_text())
    [training] = made(ran, "train")
    assert training.manifest["identity"]["thoughts"] == 1
    counts, history = training.manifest["counts"], metrics["training_history"]
    assert counts["responses"] == sum(row["responses"] for row in history)
    # Six bytes close no thought: there is nothing to reward, though the rule would take a thought.
    for row in history:
        assert (row["no_answer"], row["answer_tokens"], row["score"]) == (1.0, 0.0, 0.0)
        assert row["thought_tokens"] == row["response_tokens"]
    assert metrics["models"]["trained"]["thought_only"] == 1.0
