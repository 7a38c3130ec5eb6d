"""vLLM's own server of the bundled model as writer, as per-token teacher and as judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from served_teacher import at
from tiny_run import run_here

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup
from rankdistill.http_client import KEY_VARIABLE
from rankdistill.models import encode_prompt, load_model, load_tokenizer
from rankdistill.serve.serving import Server, Serving, free_port
from rankdistill.store import Store
from rankdistill.train.ppo.served import ServedReader, ServedTeacher

pytestmark = [pytest.mark.bundled, pytest.mark.vllm, pytest.mark.slow]

KEY = "sk-vllm-13579"
RUN = [
    "recipe=served_teacher", "train=distillation", "train.teachers=endpoint",
    "train.rollout.prompts=2", "train.rollout.responses_per_prompt=2", "train.epochs=1",
    "train.prompts_per_step=2", "train.gradient_checkpointing=false", "train.learning_rate=1e-5",
    "sample=transformers", "sample.max_response_tokens=16", "sample.teacher_response=false",
    "student.keep_layers=6", "student.layer_choice=first", "student.precision=float32",
    "teacher.precision=float32", "prompts.limit.train=4", "prompts.limit.validation=2",
    "prompts.limit.heldout=2", "prompts.max_prompt_tokens=200", "warmup.responses_per_step=2",
    "warmup.epochs=1", "warmup.gradient_checkpointing=false", "eval=[quick]",
    "eval.quick.sharpening_control=false", "eval.quick.responses_per_prompt=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def url(converted) -> Iterator[str]:
    """Of a server on loopback, with a key."""
    more = ("--max-model-len", "1024", "--max-num-seqs", "4")
    serving = Serving(converted, "127.0.0.1", free_port(), "the-teacher", more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY_VARIABLE, KEY)
        with Server(serving):
            yield serving.url


def reader(url: str, top_k: int) -> ServedReader:
    endpoint = at(url, model="the-teacher", key_variable=KEY_VARIABLE, timeout_s=120.0)
    return ServedReader(ServedTeacher(endpoint, "sample.endpoint"), top_k, 49_152)


def test_it_says_what_the_model_says_of_each_token(url, converted):
    tokenizer, model = load_tokenizer(str(converted)), load_model(str(converted))
    prompt = encode_prompt(tokenizer, [{"role": "user", "content": "Name an ocean, naïvely."}])
    texts = ("The Pacific.<|im_end|>", "Привет 🙂", "Zzz zzz 12345")
    group = TokenGroup(prompt, [tokenizer(text)["input_ids"] for text in texts])
    teacher = reader(url, top_k=5)
    assert teacher.check(tokenizer)[url] is not None
    [readings] = teacher([group])
    teacher.close()
    for response, reading in zip(group.responses, readings, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        wanted = logits.log_softmax(-1)
        own = wanted.gather(1, torch.tensor(response)[:, None])[:, 0]
        assert reading is not None and reading.support is not None
        torch.testing.assert_close(reading.logps, own, atol=2e-3, rtol=0)
        assert (reading.support.ids == wanted.topk(5).indices).float().mean() > 0.9
    with pytest.raises(UserError, match=r"`--max-logprobs 50`, or lower train.top_k"):
        reader(url, top_k=50).check(tokenizer)


def test_it_writes_reads_and_judges_one_run(url, converted, monkeypatch, tmp_path):
    folder = run_here(
        monkeypatch, tmp_path, *RUN, f"student.path={converted}", f"sample.endpoint.urls=[{url}]",
        "sample.endpoint.model=the-teacher", f"sample.endpoint.key_variable={KEY_VARIABLE}",
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    counts: dict[str, list[Any]] = {}
    for stage in metrics["stages"]:
        found = Store().find(stage["key"])
        assert found is not None
        counts.setdefault(stage["stage"], []).append(found.manifest["counts"])
    assert any(count.get("served") and count["responses"] for count in counts["sample"])
    [training] = counts["train"]
    assert training["teacher_calls"] == 8 and "teacher_set_aside" not in training
    assert training["served"][url]["id"] == "the-teacher"
    judged = [c for of in counts.values() for c in of if c.get("calls") and "served" not in c]
    assert judged and all(row["kl"] > 0 for row in metrics["training_history"])
    assert KEY not in "".join(p.read_text("utf-8", "replace") for p in files(tmp_path))


def files(folder: Path) -> list[Path]:
    """What a run writes that a person reads."""
    return [p for p in folder.rglob("*") if p.suffix in (".json", ".yaml", ".log", ".md", ".html")]
