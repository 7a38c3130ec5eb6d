"""The vLLM sampler's process: order, weights, faults. A stand-in counts in vLLM's place."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_models import build_model, build_tokenizer, model_in

from rankdistill.errors import UserError
from rankdistill.sample import SamplingOptions, check_parallel, open_sampler, vllm_process
from rankdistill.sample.vllm import VLLMSampler, device_arguments, environments
from rankdistill.store import home

PROMPTS = [(f"prompt-{i}", [10 + i, 7, 9]) for i in range(12)]
EOS = 2


def options(**changed) -> SamplingOptions:
    fields = {
        "responses_per_prompt": 3, "temperature": 1.0, "top_p": 0.9, "top_k": 5,
        "max_response_tokens": 5, "seed": 0,
    }  # fmt: skip
    return SamplingOptions(**{**fields, **changed})


def model_folder(folder: Path, weights: str, layers: int = 1) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    build_model("llama", layers=layers).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "weights.txt").write_text(weights)
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model", "first")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-in where the child finds `vllm`; returns the file of what it did. No GPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "modules" / "vllm").mkdir(parents=True)
    shutil.copy(
        Path(__file__).parent / "fake_vllm.py", tmp_path / "modules" / "vllm" / "__init__.py"
    )
    file = tmp_path / "log.jsonl"
    file.touch()
    for name, value in {
        "PYTHONPATH": str(tmp_path / "modules"),
        "FAKE_VLLM_LOG": str(file),
        "PYTHONHASHSEED": "0",
    }.items():
        monkeypatch.setenv(name, value)
    return file


def events(log: Path, *names: str) -> list[dict]:
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return [row for row in rows if row["event"] in names]


def sampled(sampler: VLLMSampler, model: Path, requests=PROMPTS, done=(), **changed) -> list:
    return list(sampler.sample(model_in(model), requests, options(**changed), "student", done=done))


def gone(pid: int, seconds: float = 20.0) -> bool:
    """Whether the process ends within that time; one that is dead but not reaped has ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


# What it gives ---------------------------------------------------------------------------------


def test_order_rows_and_independence(model: Path, log: Path) -> None:
    with VLLMSampler(max_num_seqs=4) as sampler:
        rows = sampled(sampler, model)
        assert [name for name, _ in rows] == [name for name, _ in PROMPTS]
        assert sampled(sampler, model) == rows
        assert sampled(sampler, model, PROMPTS[5:7]) == rows[5:7]
        assert sampled(sampler, model, PROMPTS[::-1]) == rows[::-1]
        assert sampled(sampler, model, done=[name for name, _ in rows[:9]]) == rows[9:]
        more = sampled(sampler, model, responses_per_prompt=5)
        assert [(name, group[:3]) for name, group in more] == rows
        assert sampled(sampler, model, []) == []
    responses = [response for _, group in rows for response in group]
    assert {response["finish_reason"] for response in responses} == {"stop", "length"}
    for response in responses:
        ids = response["token_ids"]
        assert (ids[-1] == EOS) == (response["finish_reason"] == "stop")
        assert len(ids) == 5 or ids[-1] == EOS
        assert response["source"] == "student" and "<|im_end|>" not in response["text"]
    started = events(log, "start")
    assert len(started) == 1
    assert max(row["running"] for row in events(log, "add")) <= 2 * 4 + 2 * 5


def test_what_the_engine_is_asked(model: Path, log: Path, monkeypatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    with open_sampler("vllm", dtype="bfloat16", max_num_seqs=7) as sampler:
        sampled(sampler, model, PROMPTS[:1], max_response_tokens=300)
    start, *added = events(log, "start", "add")
    arguments, environment = start["arguments"], start["environment"]
    assert arguments["max_model_len"] == 512  # 303 rounded up, and the model's positions
    assert (arguments["dtype"], arguments["max_num_seqs"]) == ("bfloat16", 7)
    assert not arguments["enable_chunked_prefill"]
    # What vLLM compiled is found by this: no folder of one process, and another for another shape.
    assert "/" not in arguments["model"]
    assert environment["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert not {"RANK", "LOCAL_RANK"} & set(environment)
    assert len({row["params"]["seed"] for row in added}) == 3
    params = added[0]["params"]
    assert (params["temperature"], params["top_p"], params["top_k"]) == (1.0, 0.9, 5)
    assert (params["max_tokens"], params["stop_token_ids"]) == (300, [EOS])


def test_greedy_computes_one_response(model: Path, log: Path) -> None:
    with VLLMSampler() as sampler:
        ((_, group),) = sampled(sampler, model, PROMPTS[:1], temperature=0.0)
    assert len(group) == 3 and group[0] == group[1] == group[2]
    assert len(events(log, "add")) == 1


def test_weights_are_swapped_and_another_shape_restarts(tmp_path: Path, log: Path) -> None:
    first = model_folder(tmp_path / "first", "first")
    second = model_folder(tmp_path / "second", "second")
    config = json.loads((second / "config.json").read_text())
    # A trainer leaves this behind, and no engine reads it.
    (second / "config.json").write_text(json.dumps({**config, "use_cache": False}))
    deeper = model_folder(tmp_path / "deeper", "first", layers=2)
    with VLLMSampler() as sampler:
        before = sampled(sampler, first)
        other = sampled(sampler, second)
        assert sampled(sampler, first) == before != other
        swaps = ["start"] + ["reload_weights", "reset_prefix_cache"] * 2
        assert [row["event"] for row in events(log, *swaps)] == swaps
        model_folder(first, "changed in place")
        assert sampled(sampler, first) not in (before, other)
        assert len(events(log, "start")) == 1
        sampled(sampler, deeper)
        assert len(events(log, "start")) == 2
        sampled(sampler, deeper, max_response_tokens=400)
        assert len(events(log, "start")) == 3
        assert len({row["pid"] for row in events(log, "start")}) == 3


def test_two_engines_share_the_prompts(model: Path, log: Path) -> None:
    with VLLMSampler(max_num_seqs=3) as sampler:
        alone = sampled(sampler, model)
    log.write_text("")
    with VLLMSampler(max_num_seqs=3, data_parallel=2) as sampler:
        assert sampled(sampler, model) == alone
        rows = sampler.sample(model_in(model), PROMPTS, options(), "student")
        next(rows)
        rows.close()
        assert sampled(sampler, model) == alone
    assert len({row["pid"] for row in events(log, "add")}) == 2
    assert len(events(log, "start")) == 2


def test_engines_by_the_cores_and_the_work(model: Path, log: Path, monkeypatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=64 << 30))
    with VLLMSampler() as sampler:
        few = sampled(sampler, model, PROMPTS[:4])
        assert len(events(log, "start")) == 1
        many = sampled(sampler, model, responses_per_prompt=16)
        assert len(events(log, "start")) == 1 + 2
        # Two that run are kept, and what they write is what one wrote.
        assert sampled(sampler, model, PROMPTS[:4]) == few
        assert len(events(log, "start")) == 1 + 2
        assert len({row["pid"] for row in events(log, "add")}) == 3
    assert [len(group) for _, group in many] == [16] * 12
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=7 << 30))
    with VLLMSampler() as sampler:
        assert sampled(sampler, model, responses_per_prompt=16) == many
        assert len(events(log, "start")) == 1 + 2 + 1


def test_engines_on_gpus_have_gpus_of_their_own(monkeypatch) -> None:
    """Only what they are asked: there is no GPU here to run them on."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    sampler = VLLMSampler(tensor_parallel=2, data_parallel=2, gpu_memory_utilization=0.5)
    shares = [environment["CUDA_VISIBLE_DEVICES"] for environment in environments(2, 2)]
    assert shares == ["4,5", "6,7"]
    assert sampler._arguments == {
        "dtype": "float32", "tensor_parallel_size": 2,
    }  # fmt: skip
    assert device_arguments(0.5, 100) == {"gpu_memory_utilization": 0.5}
    with pytest.raises(UserError, match=r"4 GPUs, and .*data_parallel=3 and .* ask for 6:"):
        VLLMSampler(tensor_parallel=2, data_parallel=3)


def test_what_cannot_be_parallel_is_refused_at_start_up() -> None:
    def settings(**changed: int) -> Any:
        return SimpleNamespace(**{"tensor_parallel": 1, "data_parallel": 1, **changed})

    check_parallel(settings(data_parallel=2), "vllm")
    check_parallel(settings(), "transformers")
    for key in ("tensor_parallel", "data_parallel"):
        with pytest.raises(UserError, match=f"sample.{key} is 0; it must be at least 1"):
            check_parallel(settings(**{key: 0}), "vllm")
        with pytest.raises(UserError, match=f"sample.{key} is 2, but the transformers sampler"):
            check_parallel(settings(**{key: 2}), "transformers")
    with pytest.raises(UserError, match=r"tensor_parallel=2 spreads an engine over GPUs, .* none"):
        check_parallel(settings(tensor_parallel=2), "vllm")


def test_the_likeliest_tokens_without_the_one_that_stands_there(model: Path, log: Path) -> None:
    with VLLMSampler() as sampler:
        found = list(sampler.top_logps(model_in(model), [([1, 3], [20, 1]), ([4], [50])], 2))
        assert found == [
            ([[0, 1], [0, 1]], [[-1.0, -2.0], [-1.0, -2.0]]),
            ([[0, 1]], [[-1.0, -2.0]]),
        ]
        assert list(sampler.top_logps(model_in(model), [], 2)) == []


def test_response_logps(model: Path, log: Path) -> None:
    with VLLMSampler() as sampler:
        found = sampler.response_logps(model_in(model), [([1, 3], [20, 30]), ([4], [50])])
        assert list(found) == [[-0.2, -0.3], [-0.5]]
        assert list(sampler.response_logps(model_in(model), [])) == []
    params = events(log, "add")[0]["params"]
    assert params["prompt_logprobs"] == 0


def test_longer_than_the_positions_is_refused(model: Path, log: Path) -> None:
    with VLLMSampler() as sampler, pytest.raises(UserError, match="exceed the 512 positions"):
        sampled(sampler, model, max_response_tokens=510)
    assert events(log, "start") == []


# How it ends -----------------------------------------------------------------------------------


def test_leaving_early_drops_the_rest(model: Path, log: Path, monkeypatch) -> None:
    monkeypatch.setenv("FAKE_VLLM_STEP", "0.02")
    with VLLMSampler(max_num_seqs=2) as sampler:
        expected = sampled(sampler, model)
        rows = sampler.sample(model_in(model), PROMPTS, options(), "student")
        assert next(rows) == expected[0]
        rows.close()
        assert len(events(log, "abort")) == 1
        assert sampled(sampler, model, PROMPTS[3:5]) == expected[3:5]


def test_close_ends_the_child_and_removes_its_files(model: Path, log: Path) -> None:
    sampler = VLLMSampler()
    rows = sampled(sampler, model)
    (pid,) = {row["pid"] for row in events(log, "start")}
    lock, folder = sorted((home() / "vllm").iterdir())
    assert lock.name == f".{folder.name}.lock"
    # The engine has the weights; its log is left.
    assert [path.name for path in folder.iterdir()] == ["0"]
    sampler.close()
    assert gone(pid, 0.1)
    assert list((home() / "vllm").iterdir()) == []
    assert sampled(sampler, model) == rows  # starts anew
    sampler.close()


@pytest.mark.parametrize(("lives", "patience"), [("1.5", 20.0), ("60", 0.3)])
def test_close_waits_for_the_engines_workers(
    lives: str, patience: float, model: Path, log: Path, monkeypatch
) -> None:
    """With tensor_parallel each holds a GPU, which the training wants next."""
    monkeypatch.setenv("FAKE_VLLM_WORKER", lives)
    monkeypatch.setattr(vllm_process, "PATIENCE", patience)
    with VLLMSampler() as sampler:
        sampled(sampler, model, PROMPTS[:1])
    assert gone(events(log, "worker")[0]["worker"], 0.1)


def test_a_killed_child_is_told(model: Path, log: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FAKE_VLLM_STEP", "0.05")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with VLLMSampler(max_num_seqs=2) as sampler:
        rows = sampler.sample(model_in(model), PROMPTS, options(), "student")
        first = next(rows)
        pid = events(log, "start")[0]["pid"]
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(
            UserError, match=r"was killed, which often means .* ran out of memory"
        ) as error:
            list(rows)
        assert "a library prints to standard output" in str(error.value)
        assert f"rankdistill-vllm-{pid}-" in str(error.value)
        assert sampled(sampler, model)[0] == first  # a new child


def test_an_engine_that_does_not_start_shows_its_last_words(
    model: Path, log: Path, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("FAKE_VLLM_FAILURE", "no room for keys and values")
    with VLLMSampler() as sampler:
        with pytest.raises(UserError, match=r"exit code 1; all of its log is in .*\.log") as error:
            sampled(sampler, model)
        assert str(error.value).endswith("RuntimeError: no room for keys and values")
        monkeypatch.setenv("FAKE_VLLM_FAILURE", "operator torchvision::nms does not exist")
        with pytest.raises(
            UserError, match="run `pip uninstall -y torchvision torchaudio torchcodec`"
        ):
            sampled(sampler, model)


def test_torchvision_for_another_torch_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    for name in ("vllm", "transformers"):
        with pytest.raises(UserError, match="run `pip uninstall -y torchvision"):
            open_sampler(name)


PARENT = """
import sys, time
from rankdistill.models import Model
from rankdistill.sample import SamplingOptions, open_sampler
sampler = open_sampler("vllm")
options = SamplingOptions(1, 1.0, 1.0, 0, 5, 0)
rows = sampler.sample(Model(sys.argv[1], {}), [("a", [5])], options, "x")
print(next(rows), flush=True)
time.sleep(60)
"""


def test_a_killed_parent_leaves_no_child_and_its_files_are_swept(model: Path, log: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert parent.stdout is not None and parent.stdout.readline()
    (pid,) = {row["pid"] for row in events(log, "start")}
    parent.kill()
    parent.wait()
    assert gone(pid)
    left = list((home() / "vllm").iterdir())
    assert len(left) == 2  # its folder, and the lock beside it
    with VLLMSampler() as sampler:
        sampled(sampler, model)
        assert not any(path.exists() for path in left)


def test_the_worker_ends_with_its_input() -> None:
    """Also where nothing asks the kernel to end it with its parent."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "rankdistill.vllm_worker"], stdin=subprocess.PIPE
    )
    assert worker.stdin is not None
    worker.stdin.close()
    assert worker.wait(timeout=60) == 0
