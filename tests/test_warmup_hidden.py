"""Matching of states: the losses written out, what is trained along, what is left afterwards."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors import safe_open
from tiny_models import build_model, build_tokenizer
from torch.nn.functional import cosine_similarity
from transformers import LlamaConfig, LlamaForCausalLM
from warmup_runs import warm_up

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bind
from rankdistill.models import load_model
from rankdistill.warmup.hidden import HiddenWarmup
from rankdistill.warmup.matching import MODULE, attach, relations
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teachers import Divergence, LiveTeacher
from rankdistill.warmup.trainer import distil


def wide_teacher(layers=4):
    """Twice the student's hidden size, over the same vocabulary."""
    torch.manual_seed(9)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=259, hidden_size=64, intermediate_size=64, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
            bos_token_id=None, eos_token_id=2, pad_token_id=0, attn_implementation="sdpa",
        )
    ).eval()  # fmt: skip


def rows(count=4):
    generator = torch.Generator().manual_seed(1)

    def ids(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, 259, (length,), generator=generator).tolist()

    return [TokenRow(f"p{i}", TokenGroup(ids(2, 7), [ids(1, 6)]), i) for i in range(count)]


def states(model, row, attention=False):
    """[n, size] after the chosen place of every layer, and last; at the response's predictors."""
    kept = []
    hooks = [
        (layer.self_attn if attention else layer).register_forward_hook(
            lambda m, i, o: kept.append(o[0] if isinstance(o, tuple) else o)
        )
        for layer in model.model.layers
    ]
    ids = torch.tensor([[*row.tokens.prompt, *row.response]])
    last = model.model(input_ids=ids).last_hidden_state
    for hook in hooks:
        hook.remove()
    tail = slice(len(row.tokens.prompt) - 1, -1)
    return [state[0, tail] for state in [*kept, last]]


def expected_matching(student, teacher, groups, pairs, attention=False):
    total = torch.zeros(())
    for row in groups:
        ours, theirs = states(student, row, attention), states(teacher, row, attention)
        for mine, its in pairs:
            total = total + (1 - cosine_similarity(ours[mine], theirs[its].detach(), dim=-1)).sum()
    return total / len(pairs)


@pytest.mark.parametrize(
    ("options", "pairs"),
    [
        ({"layers": "last", "attention": False}, [(-1, -1)]),
        ({"layers": "all", "attention": False}, [(0, 1), (1, 3)]),
    ],
)
def test_the_loss_is_the_mean_of_one_minus_cosine_over_the_pairs(options, pairs):
    student, teacher = build_model(layers=2, seed=1), build_model(layers=4, seed=2)
    reference, groups = build_model(layers=2, seed=1), rows()
    expected = expected_matching(reference, teacher, groups, pairs)
    bind(student), bind(teacher)
    recorder = attach(student, teacher, **options, weight=3.0, relational=0.0)
    live = LiveTeacher(teacher, Divergence("forward_kl", 1.0), recorder)
    matching = getattr(student, MODULE)
    assert not list(matching.parameters())  # equal sizes need no projection
    for checkpointing in (False, True):
        if checkpointing:
            student.gradient_checkpointing_enable()
            student.train()
        sums = distil(student, live, groups, (0.0, 0.0), matching)
        torch.testing.assert_close(sums.matching, 3 * expected, rtol=1e-5, atol=1e-5)
        student.zero_grad()
        sums.loss.backward()
        reference.zero_grad()
        (3 * expected_matching(reference, teacher, groups, pairs)).backward()
        for (name, p), q in zip(student.named_parameters(), reference.parameters(), strict=True):
            wanted = torch.zeros_like(q) if q.grad is None else q.grad
            found = torch.zeros_like(p) if p.grad is None else p.grad
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5, msg=name)


def test_attention_outputs_are_matched():
    student, teacher, groups = build_model(layers=2, seed=1), build_model(layers=2, seed=2), rows()
    expected = expected_matching(student, teacher, groups, [(0, 0), (1, 1)], attention=True)
    last = expected_matching(student, teacher, groups, [(-1, -1)])
    recorder = attach(
        bind(student), bind(teacher), layers="last", attention=True, weight=1.0, relational=0.0
    )
    live = LiveTeacher(teacher, Divergence("forward_kl", 1.0), recorder)
    sums = distil(student, live, groups, (0.0, 0.0), getattr(student, MODULE))
    torch.testing.assert_close(sums.matching, (2 * expected + last) / 3, rtol=1e-5, atol=1e-5)


def test_micro_batches_add_up_relations_included():
    student, teacher, groups = build_model(layers=2, seed=1), wide_teacher(), rows(5)
    recorder = attach(
        bind(student), bind(teacher), layers="all", attention=True, weight=1.0, relational=2.0
    )
    live = LiveTeacher(teacher, Divergence("forward_kl", 2.0), recorder)
    matching = getattr(student, MODULE)
    together = distil(student, live, groups, (1.0, 1.0), matching)
    apart = [distil(student, live, part, (1.0, 1.0), matching) for part in (groups[:1], groups[1:])]
    for name in ("loss", "divergence", "matching"):
        total = sum(getattr(sums, name) for sums in apart)
        torch.testing.assert_close(total, getattr(together, name), rtol=1e-5, atol=1e-4)


def test_relations_by_hand():
    """Two tokens at a right angle in one model, alike in the other: off the diagonal by one."""
    batch = type("Batch", (), {"lengths": torch.tensor([[2], [1]])})
    ours = torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    theirs = torch.tensor([[1.0, 1.0, 0.0], [2.0, 2.0, 0.0], [0.0, 0.0, 1.0]])
    assert math.isclose(relations(ours, theirs, batch).item(), 2 * (1 / 2), rel_tol=1e-6)
    assert relations(ours, 3 * ours, batch).item() < 1e-10


@pytest.fixture
def folders(tmp_path):
    build_model(layers=2, seed=1).save_pretrained(tmp_path / "student")
    wide_teacher().save_pretrained(tmp_path / "teacher")
    for name in ("student", "teacher"):
        build_tokenizer().save_pretrained(tmp_path / name)
    generator = torch.Generator().manual_seed(0)
    groups = [
        {
            "prompt_id": f"p{i}",
            "split": "train",
            "messages": [{"role": "user", "content": "x" * i}],
            "responses": [
                {"token_ids": torch.randint(3, 259, (1 + i % 7,), generator=generator).tolist()}
            ],
        }
        for i in range(8)
    ]
    return tmp_path, groups


def run(folders, warmup, name):
    root, groups = folders
    return warm_up(warmup, root / "student", root / "teacher", groups, root / name / "model")


QUICK = {"learning_rate": 3e-3, "epochs": 4.0, "responses_per_step": 4}


@pytest.mark.parametrize("layers", ["last", "all"])
def test_states_come_nearer_and_the_projections_do_not_stay(layers, folders):
    options = {**QUICK, "layers": layers, "attention": layers == "all", "relational": 0.5}
    figures = run(folders, HiddenWarmup(**options), "out")
    logged = [entry for entry in figures["history"] if "matching" in entry]
    assert logged[-1]["matching"] < 0.95 * logged[0]["matching"]
    assert logged[-1]["loss"] < logged[0]["loss"]
    first = logged[0]
    total = 5 * first["divergence"] + 2 * first["cross_entropy"] + first["matching"]
    assert math.isclose(first["loss"], total, rel_tol=1e-3)
    with safe_open(folders[0] / "out/model/model.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if MODULE in name]  # noqa: SIM118
    assert load_model(str(folders[0] / "out/model")).config.num_hidden_layers == 2


def test_a_killed_warmup_continues_with_its_projections(folders, monkeypatch):
    from rankdistill.trainer.progress import ProgressBar

    class Killed(Exception):
        pass

    def die(self, args, state, control, **kwargs):
        if state.global_step == 5:
            raise Killed

    warmup = HiddenWarmup(**QUICK, save_steps=2, layers="all")
    run(folders, warmup, "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(ProgressBar, "on_step_begin", die, raising=False)
        with pytest.raises(Killed):
            run(folders, warmup, "killed")
    run(folders, warmup, "killed")
    expected, found = (
        load_model(str(folders[0] / name / "model")).state_dict() for name in ("unbroken", "killed")
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6, msg=name)


def test_stored_last_states_are_as_good_as_a_live_teacher(folders):
    for name, outputs in (("live", "live"), ("stored", "hidden")):
        json.dumps(run(folders, HiddenWarmup(**QUICK, teacher_outputs=outputs), name))
    expected, found = (
        load_model(str(folders[0] / name / "model")).state_dict() for name in ("live", "stored")
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 0.0}, "warmup.gamma"),
        ({"layers": "every"}, "valid names are 'all', 'last'"),
        ({"teacher_outputs": "hidden", "layers": "all"}, "last hidden states only"),
        ({"teacher_outputs": "top_k"}, "warmup.teacher_outputs"),
    ],
)
def test_what_cannot_be_matched(change, message):
    with pytest.raises(UserError, match=message):
        HiddenWarmup(**change)


def test_a_teacher_with_fewer_layers_is_refused():
    student, teacher = build_model(layers=3), build_model(layers=2)
    with pytest.raises(UserError, match="match 3 layers"):
        attach(student, teacher, layers="all", attention=False, weight=1.0, relational=0.0)
    attach(student, teacher, layers="last", attention=False, weight=1.0, relational=0.0)
