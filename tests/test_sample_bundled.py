"""The vLLM sampler with vLLM itself and the bundled model, whose embeddings are tied."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import model_in

from rankdistill.errors import UserError
from rankdistill.models import encode_prompt, load_model, load_tokenizer, save_model
from rankdistill.sample import SamplingOptions
from rankdistill.sample.transformers import TransformersSampler
from rankdistill.sample.vllm import VLLMSampler
from rankdistill.score import TeacherAccess
from rankdistill.score.likelihood import Likelihood

pytestmark = [pytest.mark.vllm, pytest.mark.bundled]

QUESTIONS = ["What is the capital of France?", "Write a haiku.", "List three fruits.", "Say hi."]
OPTIONS = SamplingOptions(
    responses_per_prompt=2, temperature=0.8, top_p=0.95, top_k=0, max_response_tokens=20, seed=1
)
Pair = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def models(shallow: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Some layers of the bundled model, and the same with every weight changed."""
    changed = tmp_path_factory.mktemp("models") / "changed"
    model, tokenizer = load_model(str(shallow)), load_tokenizer(str(shallow))
    assert model.config.tie_word_embeddings
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    save_model(model, tokenizer, changed)
    return shallow, changed


@pytest.fixture(scope="module")
def requests(models: tuple[Path, Path]) -> list[tuple[str, list[int]]]:
    tokenizer = load_tokenizer(str(models[0]))
    return [(q, encode_prompt(tokenizer, [{"role": "user", "content": q}])) for q in QUESTIONS]


@pytest.fixture(scope="module")
def sampler() -> Iterator[VLLMSampler]:
    with VLLMSampler() as sampler:
        yield sampler


@torch.no_grad()
def transformers_logps(model: Path, pairs: Sequence[Pair]) -> list[torch.Tensor]:
    """By a forward over every text alone."""
    network = load_model(str(model))
    result = []
    for prompt, response in pairs:
        logits = network(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        result.append(logits.log_softmax(-1).gather(1, torch.tensor(response)[:, None])[:, 0])
    return result


def difference(ours: Iterable[Sequence[float]], theirs: Sequence[torch.Tensor]) -> float:
    """Largest over all tokens."""
    return max(float((torch.tensor(a) - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def peak_gib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20


def test_right_after_a_reload_it_agrees_with_transformers(
    sampler: VLLMSampler, models: tuple[Path, Path], requests
) -> None:
    first, changed = models
    before = list(sampler.sample(model_in(first), requests, OPTIONS, "student"))
    pid = sampler._processes[0].pid
    rows = list(sampler.sample(model_in(changed), requests, OPTIONS, "student"))
    pairs = [
        (ids, response["token_ids"])
        for (_, ids), (_, group) in zip(requests, rows, strict=True)
        for response in group
    ]
    logps = list(sampler.response_logps(model_in(changed), pairs))
    assert difference(logps, transformers_logps(changed, pairs)) < 1e-4
    assert difference(logps, transformers_logps(first, pairs)) > 1.0
    assert before != rows
    assert list(sampler.sample(model_in(changed), requests, OPTIONS, "student")) == rows
    assert list(sampler.sample(model_in(changed), requests[2:], OPTIONS, "student")) == rows[2:]
    assert sampler._processes[0].pid == pid
    assert peak_gib(pid) < 4

    # Both draw by the same race from the same seeds: one response may part on a near tie.
    other = list(TransformersSampler().sample(model_in(changed), requests, OPTIONS, "student"))
    parted = [a for a, b in zip(_responses(rows), _responses(other), strict=True) if a != b]
    assert len(parted) <= 1
    for response in _responses(rows):
        assert (response["token_ids"][-1] == 2) == (response["finish_reason"] == "stop")


def test_likelihood_is_what_transformers_computes(
    sampler: VLLMSampler, models: tuple[Path, Path], requests
) -> None:
    """`score.through=vllm` while the engine is there that the student's samples came from."""
    student, teacher = models
    groups: Any = [
        {
            "prompt_id": question,
            "messages": [{"role": "user", "content": question}],
            "responses": responses,
        }
        for question, responses in sampler.sample(model_in(student), requests, OPTIONS, "student")
    ]
    judge = TeacherAccess(model_in(teacher), model_in(student), engine=lambda: sampler)
    for contrast in (None, "unconditional"):
        values = []
        for through in ("vllm", "transformers"):
            scorer = Likelihood(False, 4096, contrast, through)
            values.append([v for part in scorer(groups, judge) for row in part for v in row])
        theirs, ours = map(torch.tensor, values)
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-3)
        assert ours.abs().min() > 1


@pytest.mark.slow
def test_two_engines_write_what_one_writes(
    sampler: VLLMSampler, models: tuple[Path, Path], requests
) -> None:
    rows = list(sampler.sample(model_in(models[0]), requests, OPTIONS, "student"))
    with VLLMSampler(data_parallel=2) as two:
        assert list(two.sample(model_in(models[0]), requests, OPTIONS, "student")) == rows
        assert len({process.pid for process in two._processes}) == 2


def _responses(rows) -> list:
    return [response for _, group in rows for response in group]


@pytest.mark.slow
def test_exported_tied_it_would_not(models: tuple[Path, Path], requests, monkeypatch) -> None:
    """Why the weights are exported with a head of their own: a tied one stays the old one."""
    monkeypatch.setattr(
        "rankdistill.sample.vllm.export_untied", lambda model, to, **_: shutil.copytree(model, to)
    )
    first, changed = models
    pairs = [(ids, [504, 3575, 282, 2]) for _, ids in requests]
    with VLLMSampler() as sampler:
        started = sampler.response_logps(model_in(first), pairs)
        assert difference(started, transformers_logps(first, pairs)) < 1e-4
        reloaded = list(sampler.response_logps(model_in(changed), pairs))
    assert difference(reloaded, transformers_logps(changed, pairs)) > 0.1


def test_the_likeliest_tokens_are_those_of_transformers(
    sampler: VLLMSampler, models: tuple[Path, Path], requests
) -> None:
    first, _ = models
    prompt, response = requests[0][1], requests[1][1][:5]
    [(ids, values)] = sampler.top_logps(model_in(first), [(prompt, response)], 50)
    with torch.no_grad():
        logits = load_model(str(first))(torch.tensor([prompt + response])).logits
    top = logits[0, len(prompt) - 1 : -1].log_softmax(-1).topk(50)
    torch.testing.assert_close(torch.tensor(values), top.values, rtol=0, atol=1e-3)
    assert (torch.tensor(ids) == top.indices).float().mean() > 0.98  # but for ties


# Last: it ends the engine of all the others.
@pytest.mark.slow
def test_a_child_that_dies_is_told_and_is_gone(
    sampler: VLLMSampler, models: tuple[Path, Path], requests, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    list(sampler.sample(model_in(models[1]), requests[:1], OPTIONS, "student"))
    pid = sampler._processes[0].pid
    many = [(f"{i}", requests[0][1]) for i in range(40)]
    rows = sampler.sample(model_in(models[1]), many, OPTIONS, "student")
    next(rows)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(UserError, match="The vLLM process was killed"):
        list(rows)
    assert sampler._processes == []
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
