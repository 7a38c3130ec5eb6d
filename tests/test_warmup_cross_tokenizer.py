"""Distillation between two tokenizers: what is compared, and with what result."""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny_models import SPECIAL, build_model, build_tokenizer
from tokenizers import pre_tokenizers
from warmup_runs import warm_up

from rankdistill.models import encode_response, load_model, load_tokenizer
from rankdistill.objectives.divergences import DIVERGENCES, total_variation
from rankdistill.warmup.cross_rows import (
    NOWHERE,
    SharedTokens,
    across,
    ends_in_text,
    following_the_same_text,
    shared_tokens,
    sorted_distance,
)
from rankdistill.warmup.cross_tokenizer import CrossTokenizerWarmup
from rankdistill.warmup.logits import LogitsWarmup

MERGES = [("a", "b"), ("ab", "c"), ("\u0120", "d"), ("e", "f")]
QUICK = {"learning_rate": 3e-3, "responses_per_step": 4, "save_steps": 1000, "eval_steps": 0.5}


def merging_tokenizer(folder):
    """As the byte tokenizer, with other ids, a few merges and another EOS."""
    build_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["</s>", *SPECIAL, *reversed(alphabet), *("".join(pair) for pair in MERGES)]
    content["model"]["vocab"] = {token: index for index, token in enumerate(tokens)}
    content["model"]["merges"] = [list(pair) for pair in MERGES]
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"] = [
        {"id": index, "content": token, "special": True, **special}
        for index, token in enumerate(["</s>", *SPECIAL])
    ]
    path.write_text(json.dumps(content))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["eos_token"] = "</s>"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    template = build_tokenizer().chat_template.replace("<|im_end|>", "</s>")
    (folder / "chat_template.jinja").write_text(template)
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, layers, seed in (("student", 1, 6), ("teacher", 2, 5), ("like", 2, 5)):
        model = build_model(layers=layers, seed=seed)
        if name == "teacher":
            model.resize_token_embeddings(264, mean_resizing=False)
        with torch.no_grad():
            model.lm_head.weight.mul_(1 if name == "student" else 10)
        model.save_pretrained(root / name)
        if name != "teacher":
            build_tokenizer().save_pretrained(root / name)
    merging_tokenizer(root / "teacher")
    return root


def test_where_both_have_read_the_same(folders):
    """a|b|c|" "|d and abc|" d": the student's tokens inside the teacher's follow nothing of it."""
    student, teacher = (load_tokenizer(str(folders / name)) for name in ("student", "teacher"))
    _, ends = ends_in_text(student, "abc d")
    their_ids, their_ends = ends_in_text(teacher, "abc d")
    assert ends == [1, 2, 3, 4, 5] and their_ends == [3, 5]
    assert teacher.convert_ids_to_tokens(their_ids) == ["abc", "\u0120d"]
    no = NOWHERE
    assert following_the_same_text(ends, 6, their_ends, 3) == [0, no, no, 1, no, 2]
    assert following_the_same_text(ends, 5, their_ends, 2) == [0, no, no, 1, no]  # cut: no EOS
    assert following_the_same_text(their_ends, 3, ends, 6) == [0, 3, 5]
    assert following_the_same_text([], 1, [], 1) == [0]  # EOS at once


def test_the_bytes_of_one_character_end_together(folders):
    """Two bytes of an umlaut: nothing follows half of it."""
    tokenizer = load_tokenizer(str(folders / "student"))
    ids, ends = ends_in_text(tokenizer, "xüy")
    assert len(ids) == 4
    found = following_the_same_text(ends, 5, [1, 2, 3], 4)  # whole characters
    assert found == [0, 1, NOWHERE, 2, 3]


def test_what_both_vocabularies_have(folders):
    student, teacher = (load_tokenizer(str(folders / name)) for name in ("student", "teacher"))
    ours, theirs = shared_tokens(student, teacher)
    pairs = dict(zip(ours.tolist(), theirs.tolist(), strict=True))
    assert len(pairs) == 256 + 3  # bytes, <|pad|>, <|im_start|>, and EOS with EOS
    assert pairs[student.eos_token_id] == teacher.eos_token_id == 0
    for token in ("a", "\u0120", "z"):
        a, b = (t.convert_tokens_to_ids(token) for t in (student, teacher))
        assert pairs[a] == b
    ours, theirs = shared_tokens(student, student)
    assert torch.equal(ours, theirs) and len(ours) == 259


def logits(n, v, seed):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(n, v, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equal_vocabularies_give_the_divergence_itself(name, temperature):
    q, p, order = logits(5, 9, 0), logits(5, 9, 1), torch.randperm(9)
    shared = SharedTokens(torch.arange(9), order)
    permuted = torch.empty_like(p)
    permuted[:, order] = p
    found = across(q, permuted, shared, name, temperature)
    torch.testing.assert_close(found, DIVERGENCES[name](q, p, temperature))


def test_nothing_shared_gives_universal_logit_distillation():
    """By hand: (.5, .3, .2) and (.6, .4, -) sorted: .1 + .1 + .2."""
    q = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).log()
    p = torch.tensor([[0.4, 0.6]], dtype=torch.float64).log()
    nothing = SharedTokens(*torch.zeros(2, 0, dtype=torch.long))
    found = across(q, p, nothing, "forward_kl", 1.0)
    torch.testing.assert_close(found, torch.tensor([0.4], dtype=torch.float64))
    a, b = logits(4, 7, 2).softmax(-1), logits(4, 7, 3).softmax(-1)
    identity = sorted_distance(a, a[:, torch.randperm(7)])
    torch.testing.assert_close(identity, torch.zeros(4, dtype=torch.float64))
    assert (sorted_distance(a, b) <= 2 * total_variation(a.log(), b.log()) + 1e-12).all()


def test_some_shared_by_brute_force():
    q, p = logits(1, 4, 4), logits(1, 5, 5)
    shared = SharedTokens(torch.tensor([0, 2]), torch.tensor([3, 1]))
    a, b = q[0].softmax(-1).tolist(), p[0].softmax(-1).tolist()
    pairs = [(b[3], a[0]), (b[1], a[2]), (b[0] + b[2] + b[4], a[1] + a[3])]
    expected = sum(x * math.log(x / y) for x, y in pairs)
    rest = [sorted(x, reverse=True) for x in ([a[1], a[3], 0.0], [b[0], b[2], b[4]])]
    expected += sum(abs(x - y) for x, y in zip(*rest, strict=True))
    assert across(q, p, shared, "forward_kl", 1.0).item() == pytest.approx(expected, abs=1e-12)


def groups(folder, count, first=0, words="abc d ef üx"):
    tokenizer = load_tokenizer(str(folder))
    rows = []
    for i in range(first, first + count):
        text = " ".join(words[j : j + 4] for j in range(i % 5, 3 + i % 7))
        ids = encode_response(tokenizer, text)
        finish = "length" if i % 3 == 0 else "stop"
        response = {"text": text, "token_ids": ids if finish == "stop" else ids[:-1]}
        rows.append(
            {
                "prompt_id": f"p{i}", "split": "train",
                "messages": [{"role": "user", "content": f"q{i}"}],
                "responses": [{**response, "finish_reason": finish, "source": "teacher"}],
            }
        )  # fmt: skip
    return rows


def run(warmup, folders, teacher, out, **words):
    rows = groups(folders / "student", 12, **words)
    validation = groups(folders / "student", 4, 12)
    models = folders / "student", folders / teacher
    return warm_up(warmup, *models, rows, out / "model", validation=validation)


def test_one_tokenizer_gives_the_model_of_logits(folders, tmp_path):
    options = {**QUICK, "epochs": 1.0, "alpha": 0.7, "temperature": 2.0}
    run(CrossTokenizerWarmup(**options), folders, "like", tmp_path / "a", words="abc d ef ux")
    run(LogitsWarmup(**options), folders, "like", tmp_path / "b", words="abc d ef ux")
    a, b = (load_model(str(tmp_path / name / "model")).state_dict() for name in "ab")
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=1e-5, msg=name)


def test_two_tokenizers_lower_the_divergence_on_held_out_text(folders, tmp_path):
    figures = run(CrossTokenizerWarmup(**QUICK, epochs=6.0), folders, "teacher", tmp_path)
    assert figures["shared_tokens"] == 259 and 0.4 < figures["aligned_share"] < 0.9
    measured = [r["eval_divergence"] for r in figures["history"] if "eval_divergence" in r]
    assert measured[-1] < 0.8 * measured[0]
    json.dumps(figures)
