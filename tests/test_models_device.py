"""What is on the accelerator, and that nothing stays there without a user."""

from __future__ import annotations

import gc
import io
import platform
import resource
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from ranking_trainer_data import TOKENIZER, config, ragged_groups
from tiny_models import build_model
from tiny_run import PPO, TINY, run_here
from transformers import PreTrainedModel

from rankdistill import RankingTrainer, vllm_worker
from rankdistill.forward import bind
from rankdistill.models import claim_device, device, load_model, release
from rankdistill.models import model as model_module
from rankdistill.models.model import Loading, Model
from rankdistill.stages.run import Run
from rankdistill.trainer import progress
from rankdistill.trainer.progress import peak_memory


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # collections of a test look through what it made
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_bound_model_is_gone_with_its_last_user() -> None:
    model = bind(bind(build_model(layers=1)), "packed")
    seen = weakref.ref(model)
    del model
    assert seen() is None


@pytest.mark.usefixtures("no_collector")
def test_a_trained_model_is_gone_with_its_last_user(tmp_path: Any) -> None:
    def train() -> list[weakref.ref]:
        model = build_model(layers=1)
        settings = config(tmp_path, per_device_train_batch_size=2)
        trainer = RankingTrainer(model, settings, ragged_groups(2), processing_class=TOKENIZER)
        trainer.train()
        return [weakref.ref(x) for x in (model, trainer, trainer.optimizer)]

    assert [seen() for seen in train()] == [None] * 3


@pytest.mark.parametrize(
    ("kind", "asked", "precision", "attention"),
    [("cpu", "bfloat16", "float32", "sdpa"), ("cuda", "float32", "float32", "sdpa"),
     ("cuda", "bfloat16", "bfloat16", "flash_attention_2")],
)  # fmt: skip
def test_a_sampler_of_this_process_takes_the_models_precision_on_an_accelerator(
    kind: str, asked: str, precision: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the key of what it writes says so, where it is not what a CPU's is."""
    monkeypatch.setattr(model_module, "device", lambda: torch.device(kind))
    written = Model("x", {}, Loading(asked, "nf4", "flash_attention_2"))
    found = written.for_sampling.loading
    assert found == Loading(precision, None, attention)
    run: Any = object.__new__(Run)
    run.settings, run.sampler_name = SimpleNamespace(sampler=None), "transformers"
    expected = None if precision == "float32" else precision
    assert run.sampled_by(written) == {"sampler": "transformers", "dtype": expected}


def test_a_bound_model_is_saved_as_what_it_is(tmp_path: Any) -> None:
    bind(build_model(layers=1)).save_pretrained(tmp_path)
    assert type(load_model(str(tmp_path))).__name__ == "LlamaForCausalLM"


def test_what_is_free_on_an_accelerator_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for one: the circle is found, and its allocator asked."""
    emptied: list[str] = []
    found = torch.device("cuda")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: found)
    module = SimpleNamespace(empty_cache=lambda: emptied.append("cuda"))
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    circle: Any = torch.nn.Linear(1, 1)
    circle.hook = circle.forward
    seen = weakref.ref(circle)
    del circle
    release()
    assert seen() is None and emptied == ["cuda"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc")
@pytest.mark.skipif(torch.accelerator.is_available(), reason="about a machine without one")
def test_on_a_cpu_what_tensors_give_back_stays_until_it_is_released() -> None:
    def bytes_of_new_pages(times: int) -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            torch.ones(2**24)  # 64 MiB
        pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        return pages * resource.getpagesize()

    claim_device()
    bytes_of_new_pages(5)  # until there is room for it wherever it begins
    assert bytes_of_new_pages(5) < 2**24
    held = psutil.Process().memory_info().rss
    release()
    assert held - psutil.Process().memory_info().rss > 0.9 * 2**26
    assert bytes_of_new_pages(1) > 0.9 * 2**26


@pytest.mark.parametrize(("rank", "index"), [(None, 2), ("3", 3), ("9", 2)])
def test_a_process_of_a_launch_has_the_accelerator_of_its_rank(
    rank: str | None, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything has been told so; of a machine with eight, of which the third is current."""
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 8)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert device() == torch.device("cuda", index)


@pytest.mark.parametrize(
    ("free", "share"), [((80, 80), 0.85), ((80, 40), 0.48), ((60, 80), 0.73), ((0, 80), 0.0)]
)
def test_an_engine_asks_for_what_is_free(free: Any, share: float, monkeypatch: Any) -> None:
    """On the fuller one of two GPUs of 80; 0.85 is the most."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free[gpu], 80))
    assert vllm_worker.free_share(0.85) == pytest.approx(share)


def test_an_engine_is_started_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    class LLM:
        def __init__(self, gpu_memory_utilization: float) -> None:
            asked.append(gpu_memory_utilization)

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=LLM))
    monkeypatch.setattr(vllm_worker, "free_share", lambda most: most / 2)
    vllm_worker.Worker(io.StringIO()).start({"gpu_memory_utilization": 0.5})
    assert asked == [0.25]


@pytest.mark.parametrize(
    ("recipe", "more"),
    [("recipe=dpo", ["warmup.teacher_outputs=hidden"]), ("recipe=ppo", [*PPO, "warmup=none"])],
)
@pytest.mark.usefixtures("no_collector")
def test_no_stage_leaves_a_model_behind(
    recipe: str, more: list[str], monkeypatch: Any, tmp_path: Path, teacher: Path
) -> None:
    """As on an accelerator, where a stage ends with a search for circles; no other finds any here.

    What a sampler has open (on a CPU also that of PPO), or an evaluation reads, stays so long.
    """
    made: list[weakref.ref] = []
    left: dict[str, list[str]] = {}
    own_init, own_stage = PreTrainedModel.__init__, Run.stage

    def init(self: Any, *arguments: Any, **options: Any) -> None:
        made.append(weakref.ref(self))
        own_init(self, *arguments, **options)

    def stage(self: Run, name: str, *arguments: Any, **options: Any) -> Any:
        output = own_stage(self, name, *arguments, **options)
        left.setdefault(name, [type(each()).__name__ for each in made if each() is not None])
        return output

    monkeypatch.setattr(PreTrainedModel, "__init__", init)
    monkeypatch.setattr(Run, "stage", stage)
    for module in ("stages.run", "score.likelihood"):
        monkeypatch.setattr(f"rankdistill.{module}.device", lambda: torch.device("cuda"))
    monkeypatch.setattr("rankdistill.stages.run.release", gc.collect)
    small = [x for x in TINY if "warmup=none" not in more or "warmup" not in x]
    run_here(
        monkeypatch, tmp_path, recipe, *small, *more, f"teacher.path={teacher}",
        "eval.quick.sharpening_control=false",
    )  # fmt: skip
    assert {"score", "train"} < left.keys() and len(made) > 5
    if recipe == "recipe=ppo":
        assert len(left.pop("train")) <= 2
    assert {name for name in left if left[name]} <= {"sample", "evaluate"}, left
    assert [each() for each in made] == [None] * len(made)


def test_the_memory_of_a_card_is_that_of_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine's too, which PyTorch knows nothing of. A card of 80 MiB, of which 50 are taken."""
    taken = [30, 50, 40]
    card = torch.device("cuda", 1)
    monkeypatch.setattr(progress, "device", lambda: card)
    for name, value in (
        ("is_available", True), ("reset_peak_memory_stats", None), ("max_memory_allocated", 9 << 20)
    ):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda *asked, value=value: value)

    def free(asked: torch.device) -> tuple[int, int]:
        assert asked == card
        return (80 - (taken.pop(0) if len(taken) > 1 else taken[0])) << 20, 80 << 20

    monkeypatch.setattr(torch.cuda, "mem_get_info", free)
    monkeypatch.setattr(progress, "INTERVAL_S", 0.001)
    with peak_memory() as memory:
        while len(taken) > 1:
            time.sleep(0.001)
    assert memory["peak_mib"] > 0
    assert (memory["peak_gpu_mib"], memory["peak_card_mib"]) == (9, 50)
