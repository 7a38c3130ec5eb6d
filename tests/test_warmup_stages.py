"""The warm-ups from folders to folder, on tiny models."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
import yaml
from tiny_models import build_model, build_tokenizer, model_in
from transformers import AutoModelForCausalLM
from warmup_runs import warm_up

from rankdistill.errors import UserError
from rankdistill.forward import bind
from rankdistill.models import encode_prompt, encode_response, load_model, load_tokenizer
from rankdistill.objectives.divergences import DIVERGENCES
from rankdistill.warmup.cross_tokenizer import CrossTokenizerWarmup
from rankdistill.warmup.hidden import HiddenWarmup
from rankdistill.warmup.logits import LogitsWarmup
from rankdistill.warmup.none import NoWarmup
from rankdistill.warmup.on_policy import OnPolicyWarmup
from rankdistill.warmup.rows import token_rows
from rankdistill.warmup.sft import SFTWarmup
from rankdistill.warmup.teachers import Divergence, LiveTeacher, TeacherModel
from rankdistill.warmup.trainer import mean_divergence

TRAIN = [f"{'abcdefgh'[i % 8]}{i}" for i in range(24)]
HELD_OUT = [f"{'stuv'[i % 4]}{i}" for i in range(8)]
QUICK = {
    "learning_rate": 1e-2,
    "epochs": 4.0,
    "responses_per_step": 4,
    "max_batch_tokens": 64,
    "save_steps": 1000,
}


def save(folder: Path, **options):
    model = build_model(**options)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A teacher whose distributions are sharp enough to differ from the student's; a student."""
    root = tmp_path_factory.mktemp("models")
    teacher = build_model(layers=2, seed=5)
    with torch.no_grad():
        teacher.lm_head.weight.mul_(20)
    teacher.save_pretrained(root / "teacher")
    build_tokenizer().save_pretrained(root / "teacher")
    return save(root / "student", layers=1, seed=6), root / "teacher"


def groups(folder: Path, prompts):
    """Responses sampled from the model: some end with EOS, some are cut."""
    tokenizer, model = load_tokenizer(str(folder)), load_model(str(folder))
    rows = []
    for i, text in enumerate(prompts):
        messages = [{"role": "user", "content": text}]
        torch.manual_seed(i)
        ids = encode_prompt(tokenizer, messages)
        sampled = model.generate(
            torch.tensor([ids]), do_sample=True, max_new_tokens=3 + i % 9, pad_token_id=0
        )[0, len(ids) :].tolist()
        rows.append(
            {
                "prompt_id": f"p{i}",
                "split": "train",
                "messages": messages,
                "responses": [
                    {
                        "text": "",
                        "token_ids": sampled,
                        "finish_reason": "stop" if sampled[-1] == 2 else "length",
                        "source": "teacher",
                    }
                ],
            }
        )
    return rows


@pytest.fixture(scope="module")
def taught(folders):
    return groups(folders[1], TRAIN)


def run(warmup, folders, rows, out: Path, *, seed=0, **options):
    return warm_up(warmup, folders[0], folders[1], rows, out / "model", seed=seed, **options)


def weights(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def held_out_kl(folder: Path, folders):
    tokenizer = load_tokenizer(str(folders[1]))
    teacher = LiveTeacher(TeacherModel(model_in(folders[1])).load(), Divergence("forward_kl", 1.0))
    rows = token_rows(groups(folders[1], HELD_OUT), tokenizer)
    return mean_divergence(bind(load_model(str(folder))), teacher, rows)


def test_logits_warmup_lowers_the_held_out_divergence(folders, taught, tmp_path):
    figures = run(LogitsWarmup(**QUICK), folders, taught, tmp_path)
    before, after = held_out_kl(folders[0], folders), held_out_kl(tmp_path / "model", folders)
    assert after < 0.6 * before
    assert figures["steps"] == 24 and figures["responses"] == 24
    logged = [entry for entry in figures["history"] if "divergence" in entry]
    assert len(logged) == 24
    assert all(math.isclose(entry["loss"], entry["divergence"], rel_tol=1e-3) for entry in logged)
    assert logged[-1]["loss"] < 0.6 * logged[0]["loss"]
    json.dumps(figures)
    assert load_tokenizer(str(tmp_path / "model")).chat_template


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
def test_every_divergence_and_a_mix_with_cross_entropy_train(name, folders, taught, tmp_path):
    options = {**QUICK, "epochs": 1.0, "temperature": 2.0, "alpha": 0.5, "divergence": name}
    figures = run(LogitsWarmup(**options), folders, taught, tmp_path)
    first, *_, last = [entry for entry in figures["history"] if "divergence" in entry]
    assert last["loss"] < first["loss"]
    mixed = 0.5 * first["divergence"] + 0.5 * first["cross_entropy"]
    assert math.isclose(first["loss"], mixed, rel_tol=1e-3)


@pytest.mark.parametrize("kind", [LogitsWarmup, SFTWarmup])
def test_the_token_budget_changes_nothing(kind, folders, taught, tmp_path):
    """Micro-batches of one response, some, and all: the same weights after several steps."""
    options = {**QUICK, "epochs": 1.0, "responses_per_step": 8, "learning_rate": 1e-3}
    results = []
    for budget in (1, 70, 10_000):
        out = tmp_path / str(budget)
        run(kind(**{**options, "max_batch_tokens": budget}), folders, taught, out)
        results.append(weights(out / "model"))
    for other in results[1:]:
        for name, value in results[0].items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_layout_changes_nothing(layout, folders, taught, tmp_path):
    warmup = LogitsWarmup(**{**QUICK, "epochs": 1.0, "learning_rate": 1e-3})
    for name in ("shared", layout):
        run(warmup, folders, taught, tmp_path / name, layout=name)
    shared, other = weights(tmp_path / "shared/model"), weights(tmp_path / layout / "model")
    for name, value in shared.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=2e-5, msg=name)


class Killed(Exception):
    pass


def killed_at(monkeypatch, step):
    """Stops any Trainer when it begins the step after `step`."""
    from rankdistill.trainer.progress import ProgressBar

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == step:
            raise Killed

    monkeypatch.setattr(ProgressBar, "on_step_begin", on_step_begin, raising=False)


@pytest.mark.parametrize("kind", [LogitsWarmup, SFTWarmup])
def test_a_killed_warmup_continues_and_ends_the_same(kind, folders, taught, tmp_path, monkeypatch):
    warmup = kind(**{**QUICK, "epochs": 2.0, "save_steps": 5})
    unbroken = run(warmup, folders, taught, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        killed_at(patch, 8)
        with pytest.raises(Killed):
            run(warmup, folders, taught, tmp_path / "killed")
    half = tmp_path / "killed/checkpoints/checkpoint-8"  # a checkpoint that was being written
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    resumed = run(warmup, folders, taught, tmp_path / "killed")
    assert resumed["steps"] == unbroken["steps"] == 12
    losses = [
        [entry["loss"] for entry in figures["history"] if "loss" in entry]
        for figures in (unbroken, resumed)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    expected, found = weights(tmp_path / "unbroken/model"), weights(tmp_path / "killed/model")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


def test_sft_lowers_the_cross_entropy_and_keeps_the_ids(folders, taught, tmp_path, monkeypatch):
    seen = []
    import rankdistill.warmup.sft as sft

    class Spy(sft.SFTTrainer):
        def compute_loss(self, model, inputs, *args, **kwargs):
            seen.extend(zip(inputs["input_ids"].tolist(), inputs["labels"].tolist(), strict=True))
            return super().compute_loss(model, inputs, *args, **kwargs)

    monkeypatch.setattr(sft, "SFTTrainer", Spy)
    figures = run(SFTWarmup(**{**QUICK, "epochs": 6.0}), folders, taught, tmp_path)
    losses = [entry["loss"] for entry in figures["history"] if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0]
    tokenizer = load_tokenizer(str(folders[0]))
    expected = {
        (tuple(encode_prompt(tokenizer, g["messages"])), tuple(g["responses"][0]["token_ids"]))
        for g in taught
    }
    found = set()
    for ids, labels in seen:
        start = next(i for i, label in enumerate(labels) if label != -100)
        end = max(i for i, label in enumerate(labels) if label != -100) + 1
        assert labels[start:end] == ids[start:end]
        found.add((tuple(ids[:start]), tuple(ids[start:end])))
    assert found == expected
    assert held_out_kl(tmp_path / "model", folders) < held_out_kl(folders[0], folders)


def test_sft_loss_is_the_mean_over_the_response_tokens_of_a_step(folders, taught, tmp_path):
    options = {**QUICK, "epochs": 1.0, "responses_per_step": 24, "max_batch_tokens": 100}
    figures = run(SFTWarmup(**options), folders, taught, tmp_path)
    tokenizer, model = load_tokenizer(str(folders[0])), load_model(str(folders[0]))
    total = count = 0
    for row in token_rows(taught, tokenizer):
        ids = torch.tensor([[*row.tokens.prompt, *row.response]])
        logps = model(ids).logits[0, :-1].log_softmax(-1)
        total -= logps[-len(row.response) :].gather(1, ids[0, -len(row.response) :, None]).sum()
        count += len(row.response)
    assert figures["history"][0]["loss"] == pytest.approx(total.item() / count, rel=1e-4)


def test_eos_is_there_once_where_the_teacher_ended(folders):
    tokenizer = load_tokenizer(str(folders[0]))
    group = {
        "prompt_id": "a",
        "split": "train",
        "messages": [{"role": "user", "content": "hi"}],
        "responses": [
            {"token_ids": encode_response(tokenizer, "yes"), "finish_reason": "stop"},
            {"token_ids": encode_response(tokenizer, "cut off")[:-1], "finish_reason": "length"},
            {"token_ids": [], "finish_reason": "length"},
        ],
    }
    ended, cut = token_rows([group], tokenizer)
    assert list(ended.response).count(tokenizer.eos_token_id) == 1
    assert tokenizer.eos_token_id not in cut.response
    with pytest.raises(UserError, match="warmup=none"):
        token_rows([{**group, "responses": group["responses"][2:]}], tokenizer)


def test_another_tokenizer_is_refused_and_the_remedy_named(folders, taught, tmp_path):
    other = save(tmp_path / "other", layers=1)
    path = other / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"warmup=sequence.*cross_tokenizer") as error:
        run(LogitsWarmup(**QUICK), (folders[0], other), taught, tmp_path / "out")
    assert "'b'" in str(error.value) or "'a'" in str(error.value)
    assert not (tmp_path / "out" / "model").exists()


def test_padded_embedding_tables_of_one_tokenizer_are_shared(folders, taught, tmp_path):
    """The student's table has 5 more rows than the teacher's, as Qwen2.5 7B against 3B."""
    student = build_model(layers=1, seed=6)
    student.resize_token_embeddings(264, mean_resizing=False)
    student.save_pretrained(tmp_path / "student")
    build_tokenizer().save_pretrained(tmp_path / "student")
    options = {**QUICK, "epochs": 1.0}
    bigger = run(
        LogitsWarmup(**options), (tmp_path / "student", folders[1]), taught, tmp_path / "a"
    )
    equal = run(LogitsWarmup(**options), folders, taught, tmp_path / "b")
    assert bigger["history"][0]["loss"] == pytest.approx(equal["history"][0]["loss"], rel=1e-5)
    assert load_model(str(tmp_path / "a/model")).config.vocab_size == 264


def test_a_loss_that_is_no_number_stops_and_names_the_prompts(folders, taught, tmp_path):
    teacher = load_model(str(folders[1]))
    with torch.no_grad():
        teacher.model.norm.weight.fill_(3e38)  # finite itself; what it scales is not
    teacher.save_pretrained(tmp_path / "teacher")
    build_tokenizer().save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"not finite at step 1, on the prompts p\d+"):
        run(LogitsWarmup(**QUICK), (folders[0], tmp_path / "teacher"), taught, tmp_path / "out")


def test_mixed_precision_trains_float32_weights(folders, taught, tmp_path):
    options = {**QUICK, "epochs": 1.0}
    figures = run(
        LogitsWarmup(**options),
        folders,
        taught,
        tmp_path,
        precision="bfloat16",
        teacher_precision="bfloat16",
    )
    losses = [entry["loss"] for entry in figures["history"] if "loss" in entry]
    assert losses[-1] < losses[0]
    assert all(value.dtype == torch.float32 for value in weights(tmp_path / "model").values())


def test_none_is_the_student_itself(folders, tmp_path):
    figures = warm_up(NoWarmup(), folders[0], "", [], tmp_path / "model")
    assert figures == {}
    before, after = weights(folders[0]), weights(tmp_path / "model")
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("logits", LogitsWarmup),
        ("sft", SFTWarmup),
        ("hidden", HiddenWarmup),
        ("on_policy", OnPolicyWarmup),
        ("cross_tokenizer", CrossTokenizerWarmup),
    ],
)
def test_the_yaml_has_every_option_with_a_comment_and_the_class_its_defaults(name, kind):
    conf = Path(__file__).parent.parent / "conf"
    optimiser = (conf / "optimiser.yaml").read_text()
    own = (conf / "warmup" / f"{name}.yaml").read_text()
    lines = [*optimiser.splitlines(), *own.splitlines()]
    values = {**yaml.safe_load(optimiser), **yaml.safe_load(own)}
    assert values.pop("_target_") == f"{kind.__module__}.{kind.__name__}"
    values.pop("defaults")
    assert {key: getattr(kind(), key) for key in values} == {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    assert set(values) == {field.name for field in fields(kind)}
    for key in values:
        index = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
        assert lines[index - 1].startswith("#"), key


@pytest.mark.parametrize(
    "change, message",
    [
        ({"temperature": 0.0}, "warmup.temperature is 0.0; it must be above 0"),
        ({"alpha": 1.5}, "warmup.alpha"),
        ({"divergence": "reverse-kl"}, "did you mean 'reverse_kl'"),
        ({"learning_rate": 0.0}, "warmup.learning_rate"),
        ({"responses_per_step": 0}, "at least 1"),
        ({"warmup_ratio": 1.0}, "warmup.warmup_ratio"),
        ({"lr_scheduler_type": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_values_out_of_range(change, message):
    with pytest.raises(UserError, match=message):
        LogitsWarmup(**change)


def test_identity_leaves_out_what_changes_no_weights():
    warmup = LogitsWarmup()
    other = replace(warmup, max_batch_tokens=1, logging_steps=7, gradient_checkpointing=True)
    assert other.identity == warmup.identity
    assert replace(warmup, temperature=2.0).identity != warmup.identity
