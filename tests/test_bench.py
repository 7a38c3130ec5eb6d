"""The benchmarks on a tiny model: what they compare is equal, and an error where it is not."""

from __future__ import annotations

import gc
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import build_model

from rankdistill.bench import NAMES, cluster, forward, results, sample
from rankdistill.bench.__main__ import main
from rankdistill.bench.flops import Cost, Work, sequences, shared
from rankdistill.bench.results import MIB, ResultRow, Turn, Unequal, measured, order, take_turns
from rankdistill.bench.settings import BenchSettings, Point, random_group
from rankdistill.bench.training import (
    TRLSteps,
    all_pairs,
    compare,
    full_logits_step,
    grouped_step,
    rrhf_step,
)
from rankdistill.forward import bind
from rankdistill.objectives import DPO, RRHF
from rankdistill.store import Store

TINY = BenchSettings("tiny", rounds=1)


@pytest.fixture
def tiny():
    """Model, bound, and tokenizer."""
    model, tokenizer = TINY.load()
    return bind(model).train(), tokenizer


def test_ways_take_turns_there_and_back():
    assert order(["a", "b", "c"], 3) == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]
    calls: list[str] = []
    turns = take_turns(
        {"a": lambda: calls.append("a") or 1, "b": lambda: calls.append("b") or 2},
        2,
        before=lambda: calls.append("before"),
        after=lambda name, value: calls.append(f"{name} gave {value}"),
    )
    one, other = ["before", "a", "a gave 1"], ["before", "b", "b gave 2"]
    assert calls == one + other + other + one
    assert {name: len(of_way) for name, of_way in turns.items()} == {"a": 2, "b": 2}
    assert gc.get_freeze_count() > 0  # what was kept from the search for garbage before, still is


def test_the_peak_is_what_a_call_took_beyond_what_was_there():
    there = torch.ones(50 * 2**18)  # 50 MB
    # Three times, since pages that were there before can go during a call, once. To a megabyte,
    # since the kernel counts pages by processor and calls its own figure inexact (proc(5), VmHWM).
    turns = [measured(lambda: torch.ones(100 * 2**18).sum().item()) for _ in range(3)]
    turn, total = turns[-1]
    assert total == 100 * 2**18 and there[0] == 1
    peaks = [each.peak_mb for each, _ in turns if each.peak_mb is not None]
    if peaks:
        assert sorted(peaks)[1] == pytest.approx(100, abs=1)
    assert turn.wall > 0 and turn.cpu > 0
    again, _ = measured(lambda: None)
    assert again.peak_mb is None or again.peak_mb < 20  # the peak before is forgotten


def test_an_accelerator_is_waited_for_and_its_memory_measured(monkeypatch):
    """A stand-in for torch's module of one."""
    held, done = [3 * MIB], []
    chip = SimpleNamespace(
        synchronize=lambda: done.append("waited"),
        reset_peak_memory_stats=lambda: done.append("forgot"),
        memory_allocated=lambda: held[0],
        max_memory_allocated=lambda: held[0] + 2 * MIB,
    )
    monkeypatch.setattr(results, "accelerator", lambda: chip)
    turn, value = measured(lambda: done.append("computed"))
    assert done == ["waited", "forgot", "computed", "waited"] and value is None
    assert turn.peak_mb == 2
    row = ResultRow("b", "w", "p", "t", "o", [Turn(9, 6, 1)], [Turn(1, 2, 1)], limit=4)
    assert row.ratio == 3 and row.as_json()["share_of_limit"] == 0.75
    assert "TRL" not in results.remarks([replace(row, theirs="TRL")])[-1]
    monkeypatch.undo()
    assert row.ratio == 9


def test_the_cost_of_a_model_is_its_matrices():
    model, _ = TINY.load()
    # Queries and outputs 32 x 32, keys and values 32 x 16, three 32 x 64 of the MLP; two layers.
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64
    assert Cost.of(model) == Cost(token=2 * 2 * layer, row=2 * 32 * 256, pair=4 * 4 * 8 * 2)


def test_the_flop_limit_is_its_closed_form():
    K, P, R = 4, 256, 64
    tokens_only = Cost(1, 0, 0)
    ratio = sequences(K, P, R).training(tokens_only) / shared(K, P, R).training(tokens_only)
    assert ratio == K * (P + R) / (P + K * R) == 2.5
    assert shared(K, P, R) == Work(512, 256, 256**2 / 2 + 4 * (64 * 256 + 64**2 / 2))
    assert sequences(2, 3, 1, rows=2) == Work(8, 2, 16)
    assert Work(2, 3, 4, head_passes=4).training(Cost(100, 10, 1)) == 600 + 120 + 14
    assert Work(2, 3, 4).inference(Cost(100, 10, 1)) == 234
    # SmolLM2-135M: 106.2 million weights in its layers, 28.3 million in its output layer.
    model = Cost(212.3e6, 56.6e6, 4 * 9 * 64 * 30)
    limit = sequences(K, P, R).training(model) / shared(K, P, R).training(model)
    assert limit == pytest.approx(2.74, abs=0.005)


def test_all_benchmarks_compare_what_is_equal(tmp_path, capsys, monkeypatch):
    # The default model's largest batch needs more than the tests do.
    monkeypatch.setattr(forward, "free_mb", lambda: None)
    file = tmp_path / "figures.json"
    assert main(["all", "--model", "tiny", "--rounds", "2", "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert report["machine"]["cores"] >= 1 and report["machine"]["torch"] == torch.__version__
    assert report["settings"] == {"model": "tiny", "rounds": 2}
    rows = {(row["benchmark"], row["what"], row["theirs"]): row for row in report["rows"]}
    assert [key for key in rows if key[0] in ("forward", "sample")] == [
        ("forward", "layouts", "full logits"),
        ("forward", "layouts", "padded"),
        ("forward", "layouts", "packed"),
        ("forward", "RRHF", "RRHF as released"),
        ("forward", "DPO, one pair", "TRL DPOTrainer"),
        ("forward", "DPO, all pairs", "TRL DPOTrainer, pair by pair"),
        ("forward", "DPO, all pairs", "TRL DPOTrainer, one batch"),
        ("sample", "sampling", "generate(num_return_sequences=K)"),
    ]
    assert {row["benchmark"] for row in report["rows"]} == set(NAMES)
    for (name, _, _), row in rows.items():
        theirs, ours = row["theirs_median"], row["ours_median"]
        assert row["rounds"] == len(row["our_turns"]) == len(row["their_turns"])
        assert row["cpu_ratio"] == pytest.approx(theirs["cpu"] / ours["cpu"])
        assert row["wall_ratio"] == pytest.approx(theirs["wall"] / ours["wall"])
        if name == "forward":
            assert row["limit"] > 1
            assert row["share_of_limit"] == pytest.approx(row["cpu_ratio"] / row["limit"])
            differences = row["differences"]
            assert 0 <= differences["loss"] < 1e-5 and 0 < differences["gradient"] < 1e-4
    assert rows["sample", "sampling", sample.GENERATE]["ours_median"]["tokens_per_second"] > 0
    shown = capsys.readouterr().out
    assert "tokens/s" in shown and "specific to CPUs" in shown and "threads" in shown
    assert f"{report['rows'][0]['cpu_ratio']:.2f}x" in shown


def test_the_policy_is_not_the_reference(tiny):
    model, tokenizer = tiny
    group = random_group(Point(2, 6, 4), model)
    reference = forward._reference(model, group)
    loss = TRLSteps(model, tokenizer, 0.1).step(group, reference, [all_pairs(2)])()
    assert abs(loss - math.log(2)) > 0.01


def test_trl_in_batches_is_trl_in_one(tiny):
    model, tokenizer = tiny
    group = random_group(Point(4, 6, 4), model)
    reference = forward._reference(model, group)
    trl = TRLSteps(model, tokenizer, 0.1)
    steps = {
        "one": trl.step(group, reference, [all_pairs(4)]),
        "by one": trl.step(group, reference, [[pair] for pair in all_pairs(4)]),
    }
    turns, _ = compare(model, steps, 2, "pairs")
    assert list(turns) == ["one", "by one"]


def test_full_logits_and_released_rrhf_agree_on_other_lengths(tiny):
    model, _ = tiny
    group = random_group(Point(3, 7, 5), model)
    group = type(group)(group.prompt, [r[: 2 + i] for i, r in enumerate(group.responses)])
    steps = {
        "full": full_logits_step(model, group, RRHF()),
        "released": rrhf_step(model, group),
        "shared": grouped_step(model, group, RRHF()),
    }
    compare(model, steps, 1, "RRHF")


@pytest.mark.parametrize("loss_scale, gradient_scale", [(1.001, 1.0), (1.0, 1.001)])
def test_what_differs_does_not_compare(tiny, loss_scale, gradient_scale):
    model, _ = tiny
    step = grouped_step(model, random_group(Point(2, 6, 4), model), RRHF())

    def other() -> float:
        loss = step()
        for parameter in model.parameters():
            parameter.grad *= gradient_scale
        return loss * loss_scale

    kind = "loss" if loss_scale > 1 else "gradient"
    with pytest.raises(Unequal, match=f"RRHF: the {kind} of 'other'"):
        compare(model, {"first": step, "other": other}, 1, "RRHF")


def test_another_objective_ends_with_1(monkeypatch, capsys):
    monkeypatch.setattr(forward, "DPO", lambda beta: DPO(beta=1.1 * beta))
    assert main(["forward", "--model", "tiny", "--rounds", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: DPO, one pair, K=2 P=16 R=4: the loss of 'shared' is ")


def test_other_tokens_end_with_1(monkeypatch, capsys):
    monkeypatch.setattr(sample, "response_seed", lambda *of: 7)
    assert main(["sample", "--model", "tiny", "--rounds", "1"]) == 1
    assert "writes other tokens" in capsys.readouterr().err


def test_without_memory_the_large_batch_is_left_out(monkeypatch, capsys):
    monkeypatch.setattr(forward, "free_mb", lambda: 100.0)
    rows = forward.run(TINY)
    assert all("one batch" not in row.theirs for row in rows)
    assert "left out" in capsys.readouterr().out


def test_a_row_without_peaks_or_limit():
    turns = [Turn(2.0, 1.0, None), Turn(4.0, 3.0, None), Turn(6.0, 2.0, None)]
    row = ResultRow("forward", "x", "K=1", "theirs", "ours", turns, turns[:1])
    whole = row.as_json()
    assert row.ratio == 2.0 and whole["wall_ratio"] == 2.0
    assert whole["peak_ratio"] is None and whole["share_of_limit"] is None


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["forwards"], "There is no benchmark 'forwards': did you mean 'forward' or 'rows'?"),
        (["forward", "--rounds", "0"], "--rounds is 0; it must be at least 1."),
        (["forward", "--json", "none/of/it.json"], "The folder of --json none/of/it.json does not"),
        (["forward", "--fast"], "Unrecognized arguments: --fast: see"),
        ([], "The following arguments are required: BENCHMARK: see"),
        (["forward", "--model", "/no/such"], "/no/such"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "architecture, message", [("mamba", "cannot share"), ("gpt2", "positions")]
)
def test_models_that_cannot_be_measured(architecture, message, tokenizer, monkeypatch, capsys):
    model = build_model(architecture)
    model.config.max_position_embeddings = 10
    monkeypatch.setattr(BenchSettings, "load", lambda settings: (model, tokenizer))
    assert main(["forward", "--model", "tiny"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells the memory")
def test_the_memory_of_rows(tmp_path, capsys):
    file = tmp_path / "rows.json"
    assert main(["rows", "--groups", "100", "--processes", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["rows"]
    assert [row["phase"] for row in found] == ["start", "read", "rank", "load", "write"]
    assert all(0 < row["uss_mib"] <= row["pss_mib"] for row in found)
    capsys.readouterr()
    assert main(["rows", "--groups", "1000,5"]) == 2
    assert "--groups is 1000,5" in capsys.readouterr().err


def test_rows_per_second_are_of_the_time_when_all_replicas_work(monkeypatch, tmp_path):
    """The second one starts a second late, and ends first."""
    clock = [0.0]
    at = {1: [1, 2, 3, 4, 5], 2: [2.5, 3.5]}  # seconds at which they end a chunk
    ends = sorted((moment, replica) for replica, moments in at.items() for moment in moments)

    def rows_of(cluster, work, chunks, gpus_each):
        assert cluster.min == cluster.max == 2
        for (moment, replica), (requests, _) in zip(ends, chunks, strict=True):
            clock[0] = moment
            for name, _ in requests:
                yield {"prompt_id": name, "replica": replica}

    monkeypatch.setattr(cluster, "rows_of", rows_of)
    monkeypatch.setattr(cluster, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    prompts = [(f"p{n}", [1]) for n in range(len(ends) * cluster.AT_ONCE)]
    # From 2.5 to 3.5: one chunk each.
    assert cluster.rate(None, prompts, 2, Store(tmp_path)) == 2 * cluster.AT_ONCE


@pytest.mark.slow
def test_a_second_replica(tmp_path, capsys):
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    file = tmp_path / "cluster.json"
    assert main(["cluster", "--model", "tiny", "--rounds", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())["rows"]
    assert [row["sampler"] for row in found] == ["scripted", "transformers"]
    assert all(row["two"] > 0 and row["gain"] == row["two"] / row["one"] for row in found)
