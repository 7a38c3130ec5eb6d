"""The teacher's outputs on disk: what comes back, what is refused, what survives a kill."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from tiny_models import build_model, build_tokenizer, model_in
from warmup_runs import warm_up

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bind, collate
from rankdistill.models import load_model
from rankdistill.warmup.logits import LogitsWarmup
from rankdistill.warmup.rows import TokenRow
from rankdistill.warmup.teacher_cache import CacheSpec, TeacherCache
from rankdistill.warmup.teachers import (
    CachedTeacher,
    Divergence,
    LiveTeacher,
    TeacherModel,
    from_vllm,
)
from rankdistill.warmup.trainer import distil, mean_divergence


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for name, layers, seed in (("student", 1, 6), ("teacher", 2, 5)):
        build_model(layers=layers, seed=seed).save_pretrained(root / name)
        build_tokenizer().save_pretrained(root / name)
    return root


def token_rows(count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def ids(low, high):
        length = int(torch.randint(low, high, (1,), generator=generator))
        return torch.randint(3, 259, (length,), generator=generator).tolist()

    return [TokenRow(f"p{i}", TokenGroup(ids(2, 9), [ids(1, 12)]), i) for i in range(count)]


def open_cache(folders, folder, rows, kind="top_k", k=8, temperatures=(1.0, 2.0)):
    source = TeacherModel(model_in(folders / "teacher"))
    student = model_in(folders / "student")
    return source.cache(folder, rows, student, kind, k, temperatures), source


def filled(folders, folder, rows, **options):
    cache, source = open_cache(folders, folder, rows, **options)
    cache.fill(source.load, 50)
    return cache, source


def bound_student(folders):
    return bind(load_model(str(folders / "student")))


@pytest.mark.parametrize("name", ["forward_kl", "jsd", "total_variation"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_hidden_is_the_live_teacher_at_any_divergence_and_temperature(
    name, temperature, folders, tmp_path
):
    rows = token_rows()
    cache, source = filled(folders, tmp_path / "cache", rows, kind="hidden")
    divergence = Divergence(name, temperature)
    stored = CachedTeacher(cache, divergence, source.output_layer())
    live = LiveTeacher(source.load(), divergence)
    picked = [rows[i] for i in (7, 2, 11)]
    for sums in zip(
        distil(bound_student(folders), stored, picked, (0.5, 0.5)),
        distil(bound_student(folders), live, picked, (0.5, 0.5)),
        strict=True,
    ):
        torch.testing.assert_close(*sums, rtol=1e-5, atol=1e-5)


def test_top_k_bounds_the_live_divergence_from_below_and_meets_it_at_k_v(folders, tmp_path):
    rows, student = token_rows(), bound_student(folders)
    for temperature in (1.0, 2.0):
        divergence = Divergence("forward_kl", temperature)
        live = mean_divergence(
            student,
            LiveTeacher(TeacherModel(model_in(folders / "teacher")).load(), divergence),
            rows,
        )
        found = []
        for k in (1, 8, 100, 259):
            cache, _ = filled(folders, tmp_path / f"k{k}", rows, k=k)
            found.append(mean_divergence(student, CachedTeacher(cache, divergence), rows))
        assert found == sorted(found) and found[-2] <= live * 1.001
        assert found[-1] == pytest.approx(live, rel=2e-3)  # values are kept in float16


def test_rows_come_back_in_any_order_and_number(folders, tmp_path):
    rows = token_rows()
    model = bind(load_model(str(folders / "teacher")))
    small = TeacherCache(
        tmp_path / "a", open_cache(folders, tmp_path / "a", rows)[0].spec, rows, 20
    )
    assert len(small.shards) > 3
    small.fill(lambda: model, 30)
    batch = collate([rows[i].tokens for i in (5, 0, 9)])
    expected = small.spec.pack(model(group_batch=batch, head=small.spec.head))
    found = small.read([rows[5], rows[0], rows[9]])
    assert torch.equal(found["ids"], expected["ids"])
    torch.testing.assert_close(found["values"], expected["values"], rtol=1e-2, atol=1e-3)


def test_a_killed_fill_continues_where_it_was(folders, tmp_path):
    rows = token_rows()
    spec = open_cache(folders, tmp_path / "cache", rows)[0].spec
    model, calls = bind(load_model(str(folders / "teacher"))), []

    class Killed(Exception):
        pass

    def dying(kill_after):
        def forward(*args, **kwargs):
            calls.append(1)
            if len(calls) > kill_after:
                raise Killed
            return model(*args, **kwargs)

        stand_in = type("StandIn", (), {"__call__": staticmethod(forward)})()
        stand_in.parameters, stand_in.modules = model.parameters, model.modules
        stand_in.config = model.config
        return stand_in

    cache = TeacherCache(tmp_path / "cache", spec, rows, 20)
    with pytest.raises(Killed):
        cache.fill(lambda: dying(2), 10_000)
    again = TeacherCache(tmp_path / "cache", spec, rows, 20)
    whole = TeacherCache(tmp_path / "whole", spec, rows, 20)
    assert again.fill(lambda: model, 10_000) == len(again.shards) - 2
    whole.fill(lambda: model, 10_000)
    assert all(torch.equal(again.read(rows)[name], v) for name, v in whole.read(rows).items())
    assert again.fill(lambda: pytest.fail("the teacher is not needed"), 10_000) == 0


def test_a_corrupt_shard_is_found_and_made_again_alone(folders, tmp_path):
    rows = token_rows()
    spec = open_cache(folders, tmp_path, rows)[0].spec
    cache = TeacherCache(tmp_path / "cache", spec, rows, 20)
    model = bind(load_model(str(folders / "teacher")))
    cache.fill(lambda: model, 50)
    before = {path.name: path.read_bytes() for path in (tmp_path / "cache").iterdir()}
    [broken] = (tmp_path / "cache").glob("000001-*")
    data = bytearray(broken.read_bytes())
    data[-1] ^= 1
    broken.write_bytes(data)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cache").iterdir()}
    again = TeacherCache(tmp_path / "cache", spec, rows, 20)
    assert again.fill(lambda: model, 50) == 1
    assert {path.name for path in (tmp_path / "cache").iterdir()} == before.keys()
    for path in (tmp_path / "cache").iterdir():
        assert path.read_bytes() == before[path.name]
        assert (path.stat().st_mtime_ns == times[path.name]) == (path != broken)


def test_outputs_that_an_earlier_version_named_are_read(folders, tmp_path):
    rows = token_rows()
    spec = open_cache(folders, tmp_path, rows)[0].spec
    cache, model = TeacherCache(tmp_path / "cache", spec, rows, 20), model_in(folders / "teacher")
    cache.fill(TeacherModel(model).load, 50)
    for index, path in enumerate(sorted(cache.folder.iterdir())):
        path.rename(cache.folder / f"shard-{index:05d}.safetensors")
    older = TeacherCache(cache.folder, spec, rows, 20)
    assert all(torch.equal(older.read(rows)[name], v) for name, v in cache.read(rows).items())


def test_a_temperature_that_was_not_stored_is_refused(folders, tmp_path):
    cache, _ = filled(folders, tmp_path / "cache", token_rows())
    with pytest.raises(UserError, match="at temperature 1, 2 only, not at 4"):
        CachedTeacher(cache, Divergence("forward_kl", 4.0))


def test_more_tokens_than_there_are_and_no_space(folders, tmp_path, monkeypatch):
    rows = token_rows()
    with pytest.raises(UserError, match=r"top_k is 260, and teacher and student share 259"):
        open_cache(folders, tmp_path / "cache", rows, k=260)
    cache, source = open_cache(folders, tmp_path / "cache", rows)
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match=r"bytes per token.*teacher_outputs=live"):
        cache.fill(source.load, 50)
    assert not (tmp_path / "cache").exists()


def test_bytes_a_token_at_a_large_vocabulary():
    spec = CacheSpec("top_k", 152_064, 64, (1.0, 2.0))
    assert spec.bytes_per_token == 18 * 64 // 8 + 2 * 64 + 8 == 280
    hidden = CacheSpec("hidden", hidden_size=960, hidden_bytes=2)
    assert hidden.bytes_per_token == 1920


def groups(folders):
    """Training rows with messages."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "prompt_id": f"p{i}",
            "split": "train",
            "messages": [{"role": "user", "content": "x" * i}],
            "responses": [
                {"token_ids": torch.randint(3, 259, (1 + i % 7,), generator=generator).tolist()}
            ],
        }
        for i in range(12)
    ]


def test_warmups_from_stored_outputs_end_where_the_live_teacher_leads(folders, tmp_path):
    options = {"learning_rate": 1e-3, "epochs": 2.0, "responses_per_step": 4, "save_steps": 100}
    results = {}
    for name, own in {
        "live": {},
        "hidden": {"teacher_outputs": "hidden"},
        "all": {"teacher_outputs": "top_k", "top_k": 259},
        "few": {"teacher_outputs": "top_k", "top_k": 16, "stored_temperatures": [2.0]},
    }.items():
        out = tmp_path / name
        figures = warm_up(
            LogitsWarmup(**options, **own),
            folders / "student",
            folders / "teacher",
            groups(folders),
            out / "model",
        )
        results[name] = load_model(str(out / "model")).state_dict()
        assert (name == "live") == ("cache_bytes_per_token" not in figures)
        json.dumps(figures)
    for name, value in results["live"].items():
        torch.testing.assert_close(results["hidden"][name], value, rtol=0, atol=2e-5)
        torch.testing.assert_close(results["all"][name], value, rtol=0, atol=2e-3)
    assert any(not torch.equal(v, results["live"][n]) for n, v in results["few"].items())


class Engine:
    """Answers as vLLM does, with a model of transformers."""

    def top_logps(self, teacher, pairs, k):
        network = teacher.load()
        for prompt, response in pairs:
            with torch.no_grad():
                logits = network(torch.tensor([[*prompt, *response]])).logits
            top = logits[0, len(prompt) - 1 : -1].log_softmax(-1).topk(k)
            yield top.indices.tolist(), top.values.tolist()


@pytest.mark.parametrize("k", [8, 259])
def test_what_vllm_says_makes_the_same_cache(k, folders, tmp_path):
    rows = token_rows()
    ours, source = filled(folders, tmp_path / "a", rows, k=k, temperatures=(1.0,))
    theirs, _ = open_cache(folders, tmp_path / "b", rows, k=k, temperatures=(1.0,))
    theirs.complete(lambda: from_vllm(Engine(), source.model, theirs.spec))
    a, b = ours.read(rows), theirs.read(rows)
    if k == 8:
        assert torch.equal(a["ids"], b["ids"])
    else:  # nothing is left over, and rounding may swap the unlikeliest
        assert (b["log_tail"] == -torch.inf).all()
    torch.testing.assert_close(a["values"], b["values"], rtol=0, atol=2e-3)
    torch.testing.assert_close(a["log_tail"], b["log_tail"], rtol=0, atol=1e-3)


def test_a_token_that_the_student_has_not_is_refused(folders, tmp_path):
    spec = replace(open_cache(folders, tmp_path, token_rows())[0].spec, vocabulary=50)
    with pytest.raises(UserError, match=r"beyond the 50 .*top_k_from=transformers"):
        from_vllm(Engine(), model_in(folders / "teacher"), spec)(token_rows())


def test_the_space_is_said_before_the_teacher_runs(folders, tmp_path, capsys):
    rows = token_rows()
    cache, source = open_cache(folders, tmp_path / "cache", rows)
    tokens = sum(len(row.response) for row in rows)

    def load():
        assert f"{tokens} tokens of the teacher take" in capsys.readouterr().out
        return source.load()

    cache.fill(load, 50)
    assert cache.spec.bytes_per_token <= cache.bytes_per_token


def test_vllm_has_one_temperature():
    with pytest.raises(UserError, match="temperature 1 only"):
        LogitsWarmup(teacher_outputs="top_k", top_k_from="vllm", temperature=2.0)
    with pytest.raises(UserError, match="did you mean 'vllm'"):
        LogitsWarmup(top_k_from="vlm")
    live = LogitsWarmup(teacher_outputs="top_k", top_k_from="vllm")
    assert live.stored == {"kind": "top_k", "k": 64, "temperatures": [1.0], "engine": "vllm"}
