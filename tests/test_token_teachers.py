"""Teachers of on-policy distillation that are served, several, or learned from by a divergence."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_endpoint import KEY, FakeEndpoint
from ppo_task import TOKENIZER, config, policy, prompts, trainer
from served_teacher import at, reads_as
from tiny_models import build_model, build_tokenizer
from tiny_run import TINY, composed, refusal, run_by_two, run_here
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.objectives.divergences import divergence_named
from rankdistill.stages import settings
from rankdistill.store import Store
from rankdistill.train.ppo.experience import Experience
from rankdistill.train.ppo.served import ServedReader, ServedTeacher

DISTIL = {
    "advantage": "teacher", "kl_coef": 1.0, "gamma": 0.0, "reward_coef": 0.0, "ppo_epochs": 1,
    "prompts_per_step": 8, "whiten_advantages": False, "epochs": 2, "learning_rate": 1e-3,
}  # fmt: skip
GROUPS = [TokenGroup([5, 6, 7], [[8, 9, 2], [10]]), TokenGroup([11], [[12, 13, 14, 15]])]


pytestmark = pytest.mark.usefixtures("quick_retries")


def writes(question: str) -> Any:
    return ("Fine.",)


def serving(seed: int = 1, trouble: Any = lambda number, question: None) -> FakeEndpoint:
    """A scripted server of `policy(seed)`."""
    return FakeEndpoint(writes, trouble, reads=reads_as(policy(seed), TOKENIZER))


def reader(*urls: str, top_k: int = 0, **changes: Any) -> ServedReader:
    return ServedReader(ServedTeacher(at(*urls, **changes), "sample.endpoint"), top_k, 259)


def by_hand(model: Any, group: TokenGroup, response: Any) -> torch.Tensor:
    """[T, V] log-probabilities at a response's tokens."""
    with torch.no_grad():
        ids = [*group.prompt, *response]
        return model(torch.tensor([ids])).logits[0, len(group.prompt) - 1 : -1].log_softmax(-1)


def test_a_server_says_of_each_token_how_likely_it_is_and_of_the_likeliest():
    with serving() as server:
        teacher = reader(server.url, top_k=4)
        found = teacher(GROUPS)
        teacher.close()
    model = policy(1)
    for group, readings in zip(GROUPS, found, strict=True):
        for response, reading in zip(group.responses, readings, strict=True):
            wanted = by_hand(model, group, response)
            own = wanted.gather(1, torch.tensor(response)[:, None])[:, 0]
            assert reading is not None and reading.support is not None
            assert_close(reading.logps, own, atol=1e-5, rtol=0)
            top = wanted.topk(4)
            assert torch.equal(reading.support.ids, top.indices)
            rest = torch.log1p(-top.values.exp().sum(-1))
            assert_close(reading.support.log_tail[:, 0], rest, atol=1e-4, rtol=0)
    assert teacher.counts["calls"] == 3 and teacher.counts["dollars"] == pytest.approx(15e-6)


def test_every_kind_of_trouble_loses_nothing_and_garbage_is_asked_for_again():
    troubles = [429, 500, "cut", "html", "slow", 503, "short", "others", None]
    groups = [TokenGroup([n + 3, 4], [[n + 5, 6, 2]]) for n in range(18)]
    seen, lock = Counter[str](), threading.Lock()
    honest = reads_as(policy(1), TOKENIZER)

    def kind(question: str) -> Any:
        return troubles[(json.loads(question)[0] - 3) % len(troubles)]

    def trouble(number: int, question: str) -> Any:
        with lock:
            seen[question] += 1
            odd = kind(question) in ("short", "others")
            return None if seen[question] > 1 or odd else kind(question)

    def reads(prompt: Any, k: int) -> Any:
        rows, odd = honest(prompt, k), seen[str(prompt)] == 1
        if odd and kind(str(prompt)) == "short":
            return rows[:-1]
        return [{}] * len(rows) if odd and kind(str(prompt)) == "others" else rows

    with FakeEndpoint(writes, trouble, reads=reads) as server:
        teacher = reader(server.url)
        found = teacher(groups)
        assert max(server.most_in_flight, 1) <= 8
        teacher.close()
    for group, [reading] in zip(groups, found, strict=True):
        wanted = by_hand(policy(1), group, group.responses[0])
        own = wanted.gather(1, torch.tensor(group.responses[0])[:, None])[:, 0]
        assert reading is not None
        assert_close(reading.logps, own, atol=1e-5, rtol=0)
    assert teacher.counts["retries"] > 0 and teacher.counts["not_in_form"] == 6


def test_what_cannot_be_read_teaches_nothing_and_is_counted(tmp_path):
    def trouble(number: int, question: str) -> Any:
        return 400 if json.loads(question)[:1] == TOKENIZER("a")["input_ids"] else None

    with serving(1, trouble) as server:
        run = trainer(tmp_path, None, reference=reader(server.url), **DISTIL)
        episodes = run.rollouts(0)
        experience = Experience.of(episodes, run.config, 1.0)
        taken = dict(run.rollouts.taken)
    unread = [i for i, e in enumerate(episodes) if e.prompt_id == "p0"]
    rows = experience.rows(unread)
    assert taken["set_aside"] == 8 and experience.advantages[rows].abs().max() == 0
    # What it says of the others is all that the KL is estimated from.
    others = [i for i in range(len(experience.mask)) if i not in rows]
    kl = -experience.advantages[others].sum() / experience.mask[others].sum()
    assert experience.figures["kl"] == pytest.approx(float(kl)) != 0
    with serving(1, lambda number, question: 400) as server:
        run = trainer(tmp_path, None, reference=reader(server.url), **DISTIL)
        with pytest.raises(UserError, match="could read none of a rollout's responses"):
            run.rollouts(0)


def test_learning_from_a_server_is_learning_from_the_model_and_a_restart_goes_on(tmp_path):
    down = threading.Event()

    def weights(run: Any) -> dict[str, Any]:
        return {name: p.detach().clone() for name, p in run.policy.named_parameters()}

    local = trainer(tmp_path / "local", None, reference=policy(1), save_steps=1, **DISTIL)
    local.train()
    with serving(1, lambda number, question: 503 if down.is_set() else None) as server:

        def served(folder: str) -> Any:
            teacher = reader(server.url)
            return trainer(tmp_path / folder, None, reference=teacher, save_steps=1, **DISTIL)

        whole = served("whole")
        whole.train()
        broken = served("broken")
        broken.on_iteration = lambda figures: down.set()
        with pytest.raises(UserError, match=r"stopped answering \(503.*what was learned is kept"):
            broken.train()
        down.clear()
        again = served("broken")
        assert again.resume() == 1
        again.train()
    for name, weight in weights(local).items():
        assert_close(weights(whole)[name], weight, atol=5e-4, rtol=0)
        assert torch.equal(weights(again)[name], weights(whole)[name])
    assert [row["teacher_calls"] for row in again.history] == [64.0, 64.0]
    assert again.history[1]["teacher_dollars"] > 0 and "teacher_calls" not in local.history[0]


def test_a_column_says_which_teacher_reads(tmp_path):
    rows: Any = [{**row, "topic": "ab"[i % 2]} for i, row in enumerate(prompts(6))]
    with serving(2) as server:
        run = trainer(
            tmp_path, None, prompts=rows, teacher_column="topic", prompts_per_rollout=6,
            reference={"a": policy(1), "b": reader(server.url)}, **DISTIL,
        )  # fmt: skip
        episodes = run.rollouts(0)
    for episode in episodes:
        model = policy(2 if int(episode.prompt_id[1:]) % 2 else 1)
        for response, logps in zip(episode.tokens.responses, episode.reference_logps, strict=True):
            wanted = by_hand(model, episode.tokens, response)
            own = wanted.gather(1, torch.tensor(response)[:, None])[:, 0]
            assert_close(torch.tensor(logps), own, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd:0.3"])
def test_a_divergence_is_of_the_whole_distributions_where_k_is_the_vocabulary(tmp_path, name):
    """Its value and its gradient; of fewer tokens it is less."""
    teacher = policy(1)
    found = {}
    for k in (259, 4):
        run = trainer(
            tmp_path, None, reference=policy(1), divergence=name, top_k=k, prompts_per_rollout=8,
            **{**DISTIL, "kl_coef": 0.5},
        )  # fmt: skip
        experience = Experience.of(run.rollouts(0), run.config, 0.5)
        assert experience.advantages.abs().max() == 0
        figures = run._updates._gradients(experience, range(8), 0)
        found[k] = figures["divergence"]
        assert figures["loss"] == pytest.approx(figures["divergence"])
        grads = {n: p.grad.clone() for n, p in run.policy.named_parameters() if p.grad is not None}
        if k == 4:
            continue
        student, total, tokens = policy(0), torch.zeros(()), 0
        for episode in experience.episodes:
            for response in episode.tokens.responses:
                ids = torch.tensor([[*episode.tokens.prompt, *response]])
                places = slice(len(episode.tokens.prompt) - 1, -1)
                pair = (model(ids).logits[0, places] for model in (student, teacher))
                total = total + divergence_named(name)(*pair).sum()
                tokens += len(response)
        loss = 0.5 * total / tokens
        loss.backward()
        assert found[k] == pytest.approx(loss.item(), abs=1e-5)
        for own, p in student.named_parameters():
            if p.grad is not None:
                assert_close(grads[own], p.grad, atol=1e-4, rtol=1e-3)
    assert 0 < found[4] < found[259]


def test_a_divergence_from_a_server_brings_the_student_nearer(tmp_path):
    with serving() as server:
        run = trainer(
            tmp_path, None, reference=reader(server.url, top_k=8), divergence="forward_kl",
            top_k=8, **{**DISTIL, "epochs": 8, "learning_rate": 1e-2},
        )  # fmt: skip
        run.train()
    first, *_, last = (row["divergence"] for row in run.history)
    assert last < 0.7 * first and run.history[-1]["policy_loss"] == 0


def garbage(prompt: Any, k: int) -> Any:
    return {"choices": [{"text": "yes"}]}


def tokenizer_of_two_bytes() -> Any:
    other = build_tokenizer()
    other.add_tokens(["Re"])
    return other


@pytest.mark.parametrize(
    ("server", "changes", "told"),
    [
        ({"reads": garbage}, {}, r"it answers without them\), which .* serve it with `vllm serve`"),
        ({}, {}, r"no model 'judge-1' .* or no /completions \(it answers 404\)"),
        ({"refuses": ["prompt_logprobs"]}, {}, "it answers 400: Unsupported parameter"),
        ({"reads": "other"}, {}, r"another tokenizer than the student: .* part at token 2"),
        ({"model": "judge-10"}, {}, "did you mean 'judge-10'"),
        ({"key": KEY}, {}, "OPENAI_API_KEY .* is not set"),
        (None, {"urls": ["http://127.0.0.1:9/v1"]}, "can't be reached"),
    ],
)
def test_a_server_that_is_no_teacher_is_refused_in_one_sentence(server, changes, told):
    if server is None:
        with pytest.raises(UserError, match=told):
            reader(*changes["urls"]).check(TOKENIZER)
        return
    if server.get("reads") == "other":
        model = build_model(layers=1)
        model.resize_token_embeddings(260, mean_resizing=False)
        server = {"reads": reads_as(model, tokenizer_of_two_bytes())}
    elif "refuses" in server or "model" in server:
        server = {"reads": garbage, **server}
    with FakeEndpoint(writes, **server) as running:
        with pytest.raises(UserError, match=told) as caught:
            reader(running.url).check(TOKENIZER)
        assert "\n" not in str(caught.value)
        assert not any("chat" in str(body) for body in running.bodies)


def test_the_servers_own_limit_of_likeliest_tokens_is_told():
    honest = reads_as(policy(1), TOKENIZER)

    def trouble(number: int, question: str) -> Any:
        return 400 if question.startswith("[") else None

    with FakeEndpoint(writes, trouble, reads=honest) as server:
        told = r"`--max-logprobs 50`, or lower train.top_k"
        server.told = "Requested prompt logprobs of 50, which is greater than max allowed: 20"
        with pytest.raises(UserError, match=told):
            reader(server.url, top_k=50).check(TOKENIZER)
    with FakeEndpoint(writes, lambda n, q: 503 if n < 3 else None, reads=honest) as server:
        assert reader(server.url, top_k=4).check(TOKENIZER) == {server.url: {"id": "judge-1"}}


def made(folder: Path, stage: str) -> list[Any]:
    """The outputs of a stage of a run."""
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    return [Store().find(s["key"]) for s in stages if s["stage"] == stage]


def distilled(teacher: Path, *more: str) -> list[str]:
    return [
        "recipe=likelihood", *(a for a in TINY if a != "warmup.epochs=1"), "warmup=none",
        "train=distillation", "train.rollout.prompts=3", f"teacher.path={teacher}",
        "eval.quick.sharpening_control=false", *more,
    ]  # fmt: skip


def read_by(folder: Path) -> FakeEndpoint:
    """A scripted server of the model in a folder."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    return FakeEndpoint(writes, reads=reads_as(model, build_tokenizer()))


def test_a_served_teacher_in_a_whole_run_in_one_process_and_in_two(
    monkeypatch, tmp_path, teacher
):  # fmt: skip
    """Another URL asks for nothing, another revision for everything; two processes learn alike."""

    def arguments(server: FakeEndpoint, *more: str) -> list[str]:
        url = f"sample.endpoint.urls=[{server.url}]"
        return distilled(
            teacher, url, "sample.endpoint.model=judge-1", "train.teachers=endpoint", *more
        )

    with read_by(teacher) as server:
        folder = run_here(monkeypatch, tmp_path, *arguments(server))
        calls = len(server.requests)
    [training] = made(folder, "train")
    counts, identity = training.manifest["counts"], training.manifest["identity"]
    assert identity["teacher"] == {"served": "judge-1", "revision": None}
    assert counts["served"] == {server.url: {"id": "judge-1"}}
    assert counts["teacher_calls"] == 6 * 4 and calls == 24 + 4 and counts["models"] == 2
    with read_by(teacher) as moved:
        run_here(monkeypatch, tmp_path, *arguments(moved))
        assert len(moved.requests) == 2  # what is asked at start-up
        two = run_by_two(tmp_path / "two", *arguments(moved))
    ours, theirs = (
        json.loads((run / "metrics.json").read_text())["training_history"] for run in (folder, two)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.teachers={a: teacher}"], "told apart by a column"),
        (["train.teachers=endpoint", "train.teacher_column=topic"], "told apart by a column"),
        (["train.teachers=[a]"], "give teacher, endpoint or a model"),
        (["train.teachers={a: 3}", "train.teacher_column=topic"], "give teacher, endpoint or"),
        (["train=ppo", "train.teachers=endpoint"], "are of train=distillation"),
        (["train=ppo", "train.divergence=jsd"], "train.advantage=gae has none"),
        (["train.top_k=0"], "train.top_k is 0"),
    ],
)
def test_refusals(overrides, told):
    train = [] if "train=ppo" in overrides else ["train=distillation"]
    with pytest.raises(UserError, match=told):
        settings.build(composed("recipe=likelihood", *train, *overrides))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.teachers=endpoint"], "give sample.endpoint.urls and sample.endpoint.model"),
        (["train.divergence=kl"], "train.divergence 'kl' is unknown"),
        (["train.teachers=no/such_model"], "no/such_model"),
        (["train.teachers=teacherr"], "did you mean 'teacher'?"),
        (["train.teachers=student"], "The model 'student' is no local folder"),
        (
            ["train.teachers={a: {urlz: []}}", "train.teacher_column=topic"],
            "train.teachers.a has a key or a value that sample.endpoint cannot have",
        ),
        (
            ["train.teachers={a: {urls: [x], model: m}}", "train.teacher_column=topic"],
            "train.teachers.a.urls is 'x', which is no URL",
        ),
        (
            ["train.teachers={a: teacher}", "train.teacher_column=topic"],
            "has no column 'topic' (train.teacher_column; kept: none): keep it",
        ),
        (
            [
                "train.teachers=endpoint", "sample.endpoint.model=judge-1",
                "sample.endpoint.urls=[http://127.0.0.1:9/v1]", "train.rollout.temperature=0.7",
            ],
            "says log-probabilities at 1: set it to 1",
        ),
    ],
)  # fmt: skip
def test_refusals_of_a_run(monkeypatch, capsys, tmp_path, teacher, overrides, told):
    said = refusal(monkeypatch, capsys, tmp_path, *distilled(teacher, *overrides))
    assert told in said


def test_a_prompt_without_a_teacher_is_named(monkeypatch, capsys, tmp_path, teacher):
    rows = ({"prompt": f"What is {n}?", "topic": "math" if n % 9 else "code"} for n in range(40))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = refusal(
        monkeypatch, capsys, tmp_path, *distilled(teacher, "train.teachers={math: teacher}"),
        "train.teacher_column=topic", f"prompts.path={tmp_path}/p.jsonl", "prompts.keep=[topic]",
        "prompts.limit.train=30",
    )  # fmt: skip
    assert "has the topic 'code', for which train.teachers names nobody" in said


def test_a_budget_of_requests_is_shared_by_the_processes():
    taught = ServedTeacher(at("http://127.0.0.1:9/v1", requests_per_minute=60.0), "sample.endpoint")
    told = ServedReader(taught, 0, 259, processes=4)._connection.settings
    assert (told.concurrency, told.requests_per_minute) == (2, 15.0)
    assert config(Path("x"), **DISTIL).divergence is None
