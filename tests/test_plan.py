"""Plans against published sizes, counted tensors, measured peaks, and seconds of a real run."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import forked
import pytest
import torch
from plan_peak import SHAPE
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from rankdistill.forward import TokenGroup, bind, collate, response_logps
from rankdistill.models import LoRA
from rankdistill.plan.__main__ import main
from rankdistill.plan.memory import Spread, TrainingStep, product_bytes, remedy, token_bytes
from rankdistill.plan.shapes import shape_of
from rankdistill.trainer.modes import KEPT

ROOT = Path(__file__).parents[1]
MISTRAL = "mistralai/Mistral-7B-v0.1"
RANKED = [
    "recipe=ranked_set", "rank.path=openbmb/UltraFeedback", f"student.path={MISTRAL}",
    f"teacher.path={MISTRAL}", "student.precision=bfloat16", "prompts.max_prompt_tokens=512",
    "rank.max_response_tokens=512", "prompts.limit.train=null",
]  # fmt: skip
QLORA = [
    "student.quantization=nf4", "student.lora.r=16", "train.gradient_checkpointing=true",
    "train.max_batch_tokens=2560",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (MISTRAL, 7_241_732_096),
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("bundled/smollm2-135m-instruct", 134_515_008),
    ],
)
def test_known_shapes_have_the_published_number_of_weights(name, parameters):
    assert shape_of(name).parameters == parameters


def bound(layers: int, layout: str, precision: str, r: int | None):
    """A model to count in, and its batch."""
    config = AutoConfig.for_model("llama", **{**SHAPE, "num_hidden_layers": layers})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    if r is not None:
        model = LoRA(r=r).on(model.to(getattr(torch, precision)))
    bind(model, layout)
    group = TokenGroup(list(range(40)), [list(range(3, 33)) for _ in range(4)])
    return model, collate([group] * 4, layout)


def kept(layers: int, layout: str, precision: str, r: int | None) -> tuple[float, int]:
    """Bytes that autograd keeps of a forward pass, weights aside, and its tokens."""
    model, batch = bound(layers, layout, precision, r)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage, storage.nbytes()
        return tensor

    lower = precision == "bfloat16"
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=lower):
        response_logps(model, batch)
    copies = 0
    if lower:  # autocast's copies of the weights, which are counted with the weights
        layer = shape_of_tiny(layers)
        copies = 2 * (layer.lora(r) if r else layer.linear)
    return sum(size for _, size in found.values()) - copies, batch.input_ids.numel()


def shape_of_tiny(layers: int):
    from rankdistill.plan.shapes import _shape

    config = AutoConfig.for_model("llama", **{**SHAPE, "num_hidden_layers": layers})
    return _shape(config.to_json_string(), None, type(config))


@pytest.mark.parametrize("layout", ["padded", "shared"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("r", [None, 4])
def test_bytes_of_a_layer_are_those_that_autograd_keeps(layout, precision, r):
    (fewer, tokens), (more, _) = (kept(layers, layout, precision, r) for layers in (1, 3))
    counted = (more - fewer) / 2 / tokens
    worked_out = token_bytes(shape_of_tiny(1), precision, r, layout)
    assert worked_out == pytest.approx(counted, rel=0.001 if layout == "padded" else 0.05)


class Products(TorchDispatchMode):
    """Counts the bytes that the operations kept by selective checkpointing return."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func in KEPT:
            tensors = [t for t in (out if isinstance(out, tuple) else [out]) if torch.is_tensor(t)]
            self.bytes += sum(t.nbytes for t in tensors)
        return out


@pytest.mark.parametrize("layout", ["padded", "shared"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("r", [None, 4])
def test_bytes_of_a_layer_s_products_are_those_that_operations_return(layout, precision, r):
    counted = []
    for layers in (1, 3):
        model, batch = bound(layers, layout, precision, r)
        lower = precision == "bfloat16"
        with Products() as products, torch.autocast("cpu", torch.bfloat16, enabled=lower):
            response_logps(model, batch)
        counted.append(products.bytes)
    layer = (counted[1] - counted[0]) / 2 / batch.input_ids.numel()
    worked_out = product_bytes(shape_of_tiny(1), precision, r, layout)
    # Under bfloat16 on a CPU, the attention to the prompt is another operation, which runs again.
    assert worked_out == pytest.approx(layer, rel=0.001 if layout == "padded" else 0.1)


def measured(done: subprocess.CompletedProcess[str]):
    """Mebibytes before the training and at its peak, as `plan_peak.py` has printed them."""
    assert done.returncode == 0, done.stderr
    return map(float, done.stdout.splitlines()[-1].split())


def training(shape, prompts: int, prompt: int, response: int) -> TrainingStep:
    tokens = prompts * (prompt + 4 * response)
    return TrainingStep(
        shape, "float32", None, None, "shared", False, tokens=tokens,
        rows=prompts * 4 * response, passes=1, head="logps",
    )  # fmt: skip


def test_memory_is_the_measured_peak_of_a_small_model(tmp_path):
    """Above what was there before the training, the weights with it."""
    before, peak = measured(forked.run("plan_peak", "tiny", "8", "70", "100", str(tmp_path)))
    planned = training(shape_of_tiny(6), 8, 100, 100).memory()
    above = (planned.total - planned.weights) / 2**20
    assert above > 150 and above == pytest.approx(peak - before, rel=0.3)


@pytest.mark.slow
@pytest.mark.bundled
def test_memory_is_the_measured_peak_of_the_bundled_model(tmp_path, converted):
    # A new Python: with all that it takes.
    command = [sys.executable, Path(__file__).with_name("plan_peak.py"), converted]
    done = subprocess.run(
        [*command, "4", "30", "40", tmp_path], capture_output=True, text=True, timeout=600
    )
    _, peak = measured(done)
    planned = training(shape_of("bundled/smollm2-135m-instruct"), 4, 60, 40).memory()
    process = 0.7 * 2**30
    assert (planned.total + process) / 2**20 == pytest.approx(peak, rel=0.2)


SECONDS = {"warmup": 175, "sample": 308, "score": 78, "train": 142, "evaluate": 149}
"""Of recipe=likelihood on the machine of docs/benchmark.md, quiet, 2026-11-24; 846 in all."""
PEAKS = {"warmup": 3299, "score": 1374, "train": 3770}
"""Mebibytes of those stages by themselves."""


def plan(capsys, *arguments: str):
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_recipe_likelihood_takes_what_it_took(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "home"))
    found = plan(capsys, "recipe=likelihood")
    for name, seconds in SECONDS.items():
        planned = sum(stage["seconds"] for stage in found["stages"] if stage["stage"] == name)
        assert 1 / 1.5 < planned / seconds < 1.5, name
    assert 1 / 1.5 < found["seconds"] / 846 < 1.5
    for name, peak in PEAKS.items():
        stage = next(stage for stage in found["stages"] if stage["stage"] == name)
        assert stage["memory_bytes"]["total"] / 2**20 == pytest.approx(peak, rel=0.2), name
    assert found["fits"]
    assert not (tmp_path / "home").exists()  # nothing was converted


def test_opposite_demands_double_the_prompts_and_the_candidates_but_not_the_samples(capsys):
    twice = plan(capsys, "recipe=rrhf", "prompts.limit.train=100", "rank.select=all")
    once = plan(
        capsys, "recipe=rrhf", "prompts.limit.train=100", "rank.select=all",
        "prompts.instructions.both_sides=false", "sample.from_cluster=false",
    )  # fmt: skip
    assert (once["counts"]["train"], twice["counts"]["train"]) == (100, 200)
    assert (once["counts"]["responses"], twice["counts"]["responses"]) == (4, 8)
    sampled = [
        next(s["what"] for s in found["stages"] if s["what"].startswith("student: "))
        for found in (once, twice)
    ]
    assert [what.split(": ")[1] for what in sampled] == ["132 prompts x 4", "232 prompts x 4"]


def test_rrhf_with_four_responses_fits_a_7b_model_in_24_gb_by_qlora(capsys):
    found = plan(capsys, *RANKED, *QLORA, "objective=rrhf", "hardware=rtx4090")
    assert found["fits"] and found["counts"]["responses"] == 4


def test_what_does_not_fit_says_what_makes_it_fit(capsys):
    found = plan(capsys, *RANKED, "hardware=8xa100")
    train = next(stage for stage in found["stages"] if stage["stage"] == "train")
    assert not train["fits"] and "plan.spread=fsdp2_8gpu" in train["remedy"]
    assert plan(capsys, *RANKED, "hardware=8xa100", *train["remedy"].split())["fits"]


def test_remedies_are_tried_in_their_order():
    job = TrainingStep(
        shape_of(MISTRAL), "bfloat16", None, None, "shared", False, 8192, 4096, 1, "logps",
        Spread(8),
    )  # fmt: skip
    room = {}
    for text in ("max_batch", "selective", "layers", "plan.spread", "student.lora", "nf4"):

        def fits(changed: TrainingStep, text: str = text) -> bool:
            return {
                "max_batch": changed.tokens < 8192,
                "selective": changed.checkpointing == "selective",
                "layers": changed.checkpointing is True,
                "plan.spread": changed.spread.weights,
                "student.lora": changed.lora is not None,
                "nf4": changed.quantization == "nf4",
            }[text]

        room[text] = remedy(job, fits, 1000, "train")
    assert room["max_batch"] == "train.max_batch_tokens=4096"
    assert room["selective"] == "train.gradient_checkpointing=selective"
    assert room["layers"] == "train.gradient_checkpointing=true"
    assert room["plan.spread"] == "plan.spread=fsdp2_8gpu"
    assert room["student.lora"] == "student.lora.r=16"
    assert room["nf4"] == "student.quantization=nf4 student.lora.r=16"
    assert remedy(job, lambda changed: False, 1000, "train") is None


@pytest.mark.bundled
@pytest.mark.parametrize(("mode", "each"), [("tournament", 8), ("pairwise", 12)])
def test_a_judge_is_asked_as_often_as_it_says(capsys, mode, each):
    found = plan(
        capsys, "recipe=likelihood", "score=judge", f"score.mode={mode}",
        "sample.responses_per_prompt=4", "rank.select=all", "prompts.limit.train=90",
        "prompts.limit.validation=10",
    )  # fmt: skip
    stage = next(stage for stage in found["stages"] if stage["stage"] == "score")
    assert stage["what"] == f"{100 * each:,} questions to a judge"


def test_endpoints_are_planned_by_their_calls(capsys):
    found = plan(
        capsys, "recipe=served_teacher", "prompts.limit.train=60", "prompts.limit.validation=10",
        "sample.endpoint.dollars_per_million_output_tokens=10", "hardware=8xa100_40",
        "sample.endpoint.requests_per_minute=6",
    )  # fmt: skip
    asked = {s["what"]: s["seconds"] for s in found["stages"] if " calls to " in s["what"]}
    where = "calls to Qwen/Qwen2.5-72B-Instruct at http://127.0.0.1:8000/v1"
    group, lessons, verdicts, *_ = asked
    assert group == f"teacher: 60 prompts x 1, 60 {where}, $0.31"
    assert lessons.startswith(f"teacher: 70 prompts x 4, 280 {where}")
    assert verdicts == f"70 groups of 5 by a judge, 350 {where}"
    assert asked[group] == 60 / 6 * 60  # the limit of requests, not the tokens
    calls = [stage["asked"]["calls"] for stage in found["stages"] if stage["asked"]]
    given = ["recipe=served_teacher", "prompts.limit.train=60", "prompts.limit.validation=10"]
    given += ["sample.endpoint.dollars_per_million_output_tokens=10"]
    assert main([*given, "hardware=8xa100_40", "plan.spread=fsdp2_8gpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [endpoint] = [line for line in lines if line.startswith("http://127.0.0.1:8000/v1 (Qwen/")]
    told = rf"sample, score; {sum(calls):,} calls, [\d,]+ tokens, [\d.]+ (min|h).*, \$[\d.]+\.$"
    assert re.search(told, endpoint), endpoint
    here = "The 8 devices of this machine: sample on 1; warmup, train on all by fsdp2_8gpu."
    assert here in lines


@pytest.mark.bundled
def test_teachers_that_read_tokens_are_planned(capsys):
    """A served one by its calls, those of this machine by their memory."""
    given = [
        "recipe=on_policy", "prompts.limit.train=60", "plan.response_tokens=50",
        "sample.endpoint.urls=[http://127.0.0.1:8000/v1]", "sample.endpoint.model=NAME",
    ]  # fmt: skip
    topic = "train.teacher_column=topic"
    some, all_served = (
        plan(capsys, *given, f"train.teachers={{{who}}}", topic)
        for who in ("a: teacher, b: endpoint", "b: endpoint")
    )
    [reads] = [s for s in some["stages"] if s["asked"] and s["stage"] == "train"]
    share = some["counts"]["train"]  # half of two passes
    assert reads["asked"]["calls"] == 2 * share
    told = f"tokens of {share:,} prompts x 2 read, {2 * share:,} calls to NAME at http://"
    assert reads["what"].startswith(told)
    others = [
        next(s for s in found["stages"] if s["stage"] == "train" and s["trained_parameters"])
        for found in (some, all_served)
    ]
    teacher, nothing = (stage["memory_bytes"]["others"] for stage in others)
    assert teacher > nothing


def test_the_table_keeps_to_100_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert main([*RANKED, "hardware=8xa100"]) == 0
    shown = capsys.readouterr().out
    table = shown[shown.index("stage ") : shown.index("Most memory")]
    assert max(map(len, table.splitlines())) <= 100
    assert "train does not fit" in shown


def test_a_narrow_terminal_has_fewer_figures_and_none_is_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")  # rich gives a dumb one 80 columns
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["recipe=tour"]) == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    assert [line for line in lines if len(line) > 60] == []
    head, first = lines[3:5]
    assert head.split() == ["stage", "what", "memory", "time"] and first.startswith("student")
    assert not any("controls" in line for line in lines)  # the tour has none


def test_odd_rows_of_a_set_are_not_counted(capsys, tmp_path):
    row = {"prompt": "Name a prime.", "better": "Seven.", "worse": "Nine."}
    rows = [row] * 3 + [{"prompt": "Name a prime."}]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [argument for argument in RANKED if not argument.startswith("rank.path")]
    named = ["rank.columns={chosen: better, rejected: worse}", f"rank.path={tmp_path}/set.jsonl"]
    assert plan(capsys, *given, *named)["counts"]["responses"] == 2


def test_hardware_of_one_s_own(capsys, tmp_path):
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "mine.yaml").write_text("defaults: [a100, _self_]\nmemory_gib: 141\n")
    found = plan(capsys, *RANKED, "hardware=mine", "--config-dir", str(tmp_path))
    assert found["hardware"]["memory_gib"] == 141


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["recipe=rrhf", "hardware=rtx409"], "no hardware named 'rtx409': take one of 8xa100,"),
        (["recipe=rrhf", "train.epochz=1"], "'train' has no key 'epochz' (on the command line)"),
        (["recipe=rrhff"], "there is no recipe named 'rrhff': did you mean 'rrhf'"),
        (["recipe=rrhf", "plan.promts=1"], "its keys are plan.prompts, "),
        (["recipe=rrhf", "plan.spread=fsdp3"], "no configuration 'fsdp3' of accelerate"),
        (["recipe=rrhf", "prompts.path=no/data"], "give it as plan.prompts=N"),
        (["recipe=rrhf", "'plan.like={a/b: c/d}'", "student.path=a/b"], "plan."),
        (["recipe=evaluate", "eval=[pairs]", "eval.pairs.path=x.jsonl"], "nothing to plan."),
        (["recipe=problems_ppo", "train.rollout.responses_per_prompt=1"], "at least 2."),
        (["recipe=rrhf", "student.path=./nowhere"], "'plan.like={./nowhere: mistralai/Mistral"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, sentence, capsys):
    assert main([part.strip("'") for part in arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and sentence in lines[0]


def test_the_pages_table_of_machines_is_what_the_planner_says():
    script = runpy.run_path(str(ROOT / "docs" / "figures" / "machines.py"))
    text = script["PAGE"].read_text()
    assert script["page"](text) == text
    machines = {path.stem for path in (ROOT / "conf" / "hardware").glob("*.yaml")}
    assert len(machines) == 9 and all(f"| `{name}` |" in text for name in machines)


def test_several_machines_and_what_goes_between_them(capsys):
    one = plan(capsys, "hardware=8xa100", "plan.price=30", *RANKED)
    more = ["hardware=8xa100", "plan.price=30", "plan.machines=4"]
    four = plan(capsys, *more, "plan.network=1e13", *RANKED)
    alone, together = one["machines"], four["machines"]
    assert alone["seconds"] == one["seconds"] and alone["cost"] == 30 * one["seconds"] / 3600
    train = next(stage for stage in one["stages"] if stage["stage"] == "train")
    # A ring sends three quarters of 4 bytes per weight twice.
    assert together["step_bytes"] == 2 * 3 / 4 * 4 * train["trained_parameters"]
    assert alone["seconds"] / 4 < together["seconds"] < alone["seconds"]
    assert together["cost"] == pytest.approx(30 * 4 * together["seconds"] / 3600)
    assert together["read_bytes"] > alone["read_bytes"] and alone["step_bytes"] == 0
    slow = plan(
        capsys, "hardware=8xa100", "plan.machines=4", "plan.network=1e8", *RANKED
    )["machines"]  # fmt: skip
    assert slow["seconds"] > together["seconds"] and slow["longest"] == "train"
    assert main(["hardware=8xa100", "plan.machines=4", *RANKED]) == 0
    assert "4 machines: " in capsys.readouterr().out
    assert main(["plan.machines=0", *RANKED]) == 2
    assert "plan.machines is 0" in capsys.readouterr().err
