"""Suites of models that think: the answer alone is scored, and a thought that was cut has none."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from suite_rows import HELLASWAG, gsm8k
from test_imported_answers import ASK, of_template
from test_template_arguments import QUIET, thoughtful
from test_thoughts import CUT, FOLDER, OPENING, TEMPLATES
from tiny_models import build_model, build_tokenizer, model_in
from tiny_run import refusal, run_here
from transformers import AddedToken

from rankdistill.models import Thoughts, written_with
from rankdistill.score.judge.verdicts import Reply, duel_form
from rankdistill.suites import resuming
from rankdistill.suites.thinking import generates_answers
from rankdistill.thoughts import CLOSE

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")


@pytest.mark.parametrize("name", TEMPLATES)
def test_an_engine_says_answers(name, tmp_path):
    model = model_in(of_template(FOLDER / f"{name}.jinja", tmp_path))
    tokenizer = model.tokenizer()
    texts = [TEMPLATES[name] + str(tokenizer.eos_token), CUT[name]]
    written = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    outputs = [SimpleNamespace(outputs=[SimpleNamespace(text="", token_ids=w)]) for w in written]
    lm: Any = SimpleNamespace(
        model=SimpleNamespace(llm_engine=None), _model_generate=lambda **_: outputs
    )
    generates_answers(lm, model, chat=True)
    found = [output.outputs[0].text for output in lm._model_generate(generate=True)]
    assert found == ["It is 4.", ""] and lm.think_end_token == CLOSE


def test_an_engine_is_asked_with_the_arguments_of_the_template(monkeypatch, tmp_path):
    """lm-eval's own rendering gives each template an `enable_thinking` of None."""
    pytest.importorskip("vllm")
    lm = SimpleNamespace(model=SimpleNamespace(llm_engine=SimpleNamespace(engine_core=None)))
    lm.model.llm_engine.engine_core = SimpleNamespace(shutdown=lambda: None)
    monkeypatch.setattr(resuming, "_back_end", lambda: SimpleNamespace(VLLM=lambda **_: lm))
    options = SimpleNamespace(dtype="float32", gpu_memory_utilization=0.5)
    run: Any = SimpleNamespace(settings=SimpleNamespace(sample=SimpleNamespace(vllm=options)))
    model = model_in(thoughtful(tmp_path))
    for given, end in ((None, "<think>"), (QUIET, "<no>")):
        asked = written_with(model, None, given, "student.chat_template_kwargs")
        with resuming.vllm_model(run, asked, 4) as served:
            assert served.apply_chat_template(ASK).endswith(end)


def student(folder: Path) -> Path:
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken(CLOSE, special=False, normalized=False)])
    tokenizer.chat_template = OPENING
    model = build_model()
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_suite_scores_what_comes_behind_the_thought(monkeypatch, tmp_path, capsys):
    from lm_eval.models.huggingface import HFLM

    folder, tokenizer = student(tmp_path / "student"), build_tokenizer()
    tokenizer.add_tokens([AddedToken(CLOSE, special=False, normalized=False)])
    # To "1 + 2" and to "3 + 4": an answer behind a thought with a stop of the task, and a thought
    # that was cut, which the flexible filter would find the right number in.
    said = ["Question: 9?\n</think>\nIt is so.\n#### 3<|im_end|>", "It must be\n#### 7"]
    stops: list[Any] = []

    def generate(self, context, max_length, stop, **_):
        stops.append(list(stop))
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]
        width = max(map(len, ids))
        pad = tokenizer.pad_token_id
        order = ["buys 2" in tokenizer.decode(row) for row in context]
        rows = [ids[0] if first else ids[1] for first in order]
        new = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
        return torch.cat([context, new], dim=1)

    monkeypatch.setattr(HFLM, "_model_generate", generate)
    data = gsm8k(tmp_path / "gsm8k")
    ran = run_here(
        monkeypatch, tmp_path, "recipe=evaluate", f"teacher.path={folder}", "eval=[gsm8k]",
        f"eval.gsm8k.path={data}", "eval.gsm8k.shots=0", "eval.gsm8k.chat_template=true",
        "eval.gsm8k.max_response_tokens=60",
    )  # fmt: skip
    [found] = json.loads((ran / "metrics.json").read_text())["suites"]["gsm8k"]["models"].values()
    means = [figure["mean"] for figure in found["figures"].values()]
    assert means == [0.5, 0.5] and stops == [["<|im_end|>"]]
    told = "1 responses have no answer behind their thought: raise eval.gsm8k.max_response_tokens"
    assert told in capsys.readouterr().out


def test_an_ending_is_no_thought(monkeypatch, capsys, tmp_path):
    (tmp_path / "val.txt").write_text(HELLASWAG)
    folder = student(tmp_path / "student")
    capsys.readouterr()  # what saving the model showed
    said = refusal(
        monkeypatch, capsys, tmp_path, "recipe=evaluate", "eval=[hellaswag]",
        f"teacher.path={folder}", "eval.hellaswag.chat_template=true",
        f"eval.hellaswag.path={tmp_path}/val.txt",
    )  # fmt: skip
    assert "where the chat template of" in said and "eval.hellaswag.chat_template=false" in said


def test_a_verdict_that_a_grammar_forces_is_read_where_a_template_has_channels(tmp_path):
    model = model_in(of_template(FOLDER / "gptoss.jinja", tmp_path))
    ids = model.tokenizer()('{"better": "first"}', add_special_tokens=False)["input_ids"]
    reply: Any = {"text": "", "token_ids": ids, "finish_reason": "stop", "source": "judge"}
    text = Thoughts.of(model.tokenizer()).apart([], reply)["text"]
    assert duel_form(explain=False).read(Reply(text)) == (0, 1)
