"""The likelihood scorer, with and without a contrast, against the model called by itself."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_models import build_model, build_tokenizer
from tiny_run import composed

from rankdistill.errors import UserError
from rankdistill.models import Loading, Model, encode_prompt
from rankdistill.score import TeacherAccess
from rankdistill.score.likelihood import Likelihood
from rankdistill.stages import settings
from rankdistill.stages.run import Run
from rankdistill.store import Store


class Engine:
    """In vLLM's place: one pass at a time, each over a model by itself."""

    def __init__(self) -> None:
        self.passes: list[tuple[str, int]] = []
        self._busy = False

    def response_logps(self, model: Model, pairs):
        assert not self._busy
        self._busy = True
        self.passes.append((model.folder.name, len(pairs)))
        network = model.load()
        try:
            for prompt, response in pairs:
                with torch.no_grad():
                    logps = network(torch.tensor([[*prompt, *response]])).logits[0].log_softmax(-1)
                yield [float(logps[len(prompt) - 1 + k, token]) for k, token in enumerate(response)]
        finally:
            self._busy = False


def judge(path, quantization=None, **more) -> TeacherAccess:
    model = Model(str(path), {}, Loading(quantization=quantization))
    return TeacherAccess(model, model, **more)


@pytest.fixture
def groups(tokenizer):
    def response(text: str) -> dict:
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        return {"text": text, "token_ids": ids, "finish_reason": "stop", "source": "student"}

    rows = [("Name a prime.", ["Seven.", "No"]), ("And another one?", ["11", "13!", "Seven."])]
    return [
        {
            "prompt_id": prompt,
            "split": "train",
            "messages": [{"role": "user", "content": prompt}],
            "responses": [response(text) for text in texts],
        }
        for prompt, texts in rows
    ]


def expected(model, messages, ids) -> float:
    prompt = encode_prompt(build_tokenizer(), messages)
    with torch.no_grad():
        logps = model(torch.tensor([[*prompt, *ids]])).logits[0].log_softmax(-1)
    return sum(float(logps[len(prompt) - 1 + k, token]) for k, token in enumerate(ids))


@pytest.fixture
def reference(tmp_path):
    build_model("llama", seed=7).save_pretrained(tmp_path / "reference")
    build_tokenizer().save_pretrained(tmp_path / "reference")
    return tmp_path / "reference"


@pytest.mark.parametrize("contrast", [None, "unconditional", "reference"])
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("through", ["transformers", "vllm"])
def test_against_the_model_itself(groups, tiny_dir, reference, contrast, per_token, through):
    scorer = Likelihood(
        per_token=per_token,
        max_batch_tokens=300,
        through=through,
        contrast=str(reference) if contrast == "reference" else contrast,
    )
    asked = judge(tiny_dir, engine=Engine)
    found = [row for part in scorer(groups, asked, 0) for row in part]
    teacher, other = build_model("llama"), build_model("llama", seed=7)
    for group, row in zip(groups, found, strict=True):
        for response, value in zip(group["responses"], row, strict=True):
            ids = response["token_ids"]
            want = expected(teacher, group["messages"], ids)
            if contrast == "unconditional":
                want -= expected(teacher, [{"role": "user", "content": ""}], ids)
            elif contrast == "reference":
                want -= expected(other, group["messages"], ids)
            assert value == pytest.approx(want / (len(ids) if per_token else 1), abs=2e-4)


@pytest.mark.parametrize("contrast", [None, "unconditional"])
@pytest.mark.parametrize("through", ["transformers", "vllm"])
def test_a_response_without_a_token_has_no_value_and_changes_no_other(
    groups, tiny_dir, contrast, through
):
    """As one that was cut before any text, in the tokens of another model."""
    scorer = Likelihood(per_token=True, max_batch_tokens=300, through=through, contrast=contrast)
    asked = judge(tiny_dir, engine=Engine)
    whole = [row for part in scorer(groups, asked, 0) for row in part]
    groups[0]["responses"].insert(1, {**groups[0]["responses"][0], "text": "", "token_ids": []})
    (first, nothing, last), second = [row for part in scorer(groups, asked, 0) for row in part]
    assert math.isnan(nothing)
    assert [first, last, *second] == pytest.approx([*whole[0], *whole[1]], abs=1e-5)


def test_a_continued_call_gives_the_rest(groups, tiny_dir):
    scorer = Likelihood(per_token=True, max_batch_tokens=1, contrast="unconditional")
    whole = [row for part in scorer(groups, judge(tiny_dir), 0) for row in part]
    rest = [row for part in scorer(groups, judge(tiny_dir), 1) for row in part]
    assert rest == whole[1:]


def test_an_engine_is_asked_for_the_rest_only_and_has_one_model_at_a_time(
    groups, tiny_dir, reference
):
    engine = Engine()
    scorer = Likelihood(True, 1, str(reference), "vllm")
    parts = list(scorer(groups, judge(tiny_dir, engine=lambda: engine), 1))
    assert engine.passes == [("reference", 3), (tiny_dir.name, 3)]
    assert [[len(row) for row in part] for part in parts] == [[3]]


def test_through_vllm_is_refused_where_it_cannot_be(tiny_dir, monkeypatch):
    scorer = Likelihood(True, 1, through="vllm")
    monkeypatch.setattr("rankdistill.sample._vllm_installed", lambda: True)
    scorer.check(judge(tiny_dir))
    with pytest.raises(UserError, match=r"but teacher.quantization is int8"):
        scorer.check(judge(tiny_dir, quantization="int8"))
    monkeypatch.setattr("rankdistill.sample._vllm_installed", lambda: False)
    with pytest.raises(UserError, match=r"score.through is vllm, which is not installed: `pip"):
        scorer.check(judge(tiny_dir))
    Likelihood(True, 1).check(judge(tiny_dir, quantization="int8"))
    with pytest.raises(
        UserError, match=r"score.through is vlm, which is no URL: did you mean 'vllm'"
    ):
        Likelihood(True, 1, through="vlm")


def test_the_teachers_engine_has_its_precision(tmp_path, monkeypatch):
    opened: list[tuple[str, dict]] = []

    def open_one(name: str, **options):
        opened.append((name, options))
        return SimpleNamespace(close=lambda: opened.append(("close", {})))

    monkeypatch.setattr("rankdistill.stages.run.open_sampler", open_one)
    monkeypatch.setattr("rankdistill.stages.run.resolve_sampler", lambda name: "vllm")
    build_model().save_pretrained(tmp_path / "teacher")
    build_tokenizer().save_pretrained(tmp_path / "teacher")
    for precision, names in (("float32", ["vllm"]), ("bfloat16", ["vllm", "close", "vllm"])):
        opened.clear()
        config = composed(f"teacher.path={tmp_path / 'teacher'}", f"teacher.precision={precision}")
        run = Run(settings.build(config), Store(tmp_path / "store"), tmp_path / "run")
        sampler = run.sampler()
        assert (run.teacher_engine() is sampler) == (precision == "float32")
        assert run.teacher_engine() is run.teacher_engine()
        assert [name for name, _ in opened] == names
        assert opened[-1][1]["dtype"] == precision


def test_the_contrast_is_part_of_the_identity(reference):
    plain = Likelihood(per_token=True, max_batch_tokens=1)
    identities = [
        plain.identity,
        Likelihood(per_token=True, max_batch_tokens=1, contrast="unconditional").identity,
        Likelihood(per_token=True, max_batch_tokens=1, contrast=str(reference)).identity,
    ]
    assert "contrast" not in identities[0] and "through" not in identities[0]
    identities.append(Likelihood(True, 1, through="vllm").identity)
    assert len({str(identity) for identity in identities}) == 4
