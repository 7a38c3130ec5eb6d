"""Fixtures of all tests, and the order of their files.

Nothing that takes long is imported here: the process that deals tests to those of pytest-xdist
reads this file too, and runs none.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import frozen
import pytest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# What several test files share asserts too, and should say as much as they do when it fails.
pytest.register_assert_rewrite("tiny_run")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Hydra's log handler writes to the stream of the test that ran it, closed afterwards."""
    root = logging.getLogger()
    before = list(root.handlers)
    yield
    for handler in set(root.handlers).difference(before):
        root.removeHandler(handler)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """A command that was interrupted leaves SIGINT to end its process, here the one of the tests.

    And in the background of a shell SIGINT is ignored from the start: tests see Python's own way.
    """
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


INTERVALS = (
    "test_compare", "test_evaluate", "test_rank_diagnostics", "test_report", "test_reward_model",
    "test_suites_length_control", "test_verified_figures",
)  # fmt: skip
"""Files of tests that look at intervals."""


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are repeated at once, and no key of this machine's is sent."""
    from rankdistill import http_client

    monkeypatch.setattr(http_client, "BACKOFF_S", 0.01)
    monkeypatch.setattr(http_client, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn in tests that are marked `drawn`."""
    from shortcuts import shortcuts

    figures = request.node.get_closest_marker("drawn") is not None
    intervals = request.path.stem.startswith(INTERVALS)
    for place, name, instead in shortcuts(figures=figures, intervals=intervals):
        monkeypatch.setattr(place, name, instead)


@pytest.fixture(autouse=True, scope="module")
def garbage_of_other_files() -> None:
    """What earlier files left is not looked through when a training asks for garbage."""
    with warnings.catch_warnings():  # what is theirs is no error of the test that comes first
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    from tiny_models import build_tokenizer

    return build_tokenizer()


@pytest.fixture(scope="session")
def tiny_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama of 3 layers with its tokenizer, for wherever a model path is asked for."""
    from tiny_models import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("tiny-llama")
    build_model("llama").save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


# Files of ten seconds and more. Docs and Zephyr take stages from the store of the recipes, so they
# come when these are done.
LONGEST = (
    "test_sample_bundled", "test_pipeline_kills", "test_recipes",
    "test_models_device", "test_sweep", "test_suites_harness", "test_docs",
    "test_pipeline_verified", "test_zephyr", "test_configs", "test_pipeline_ppo",
    "test_ranking_trainer", "test_warmup_stages", "test_warmup_recipes", "test_pipeline_faults",
    "test_sharing", "test_cluster", "test_pipeline_processes", "test_plan", "test_lora",
    "test_mixture_runs", "test_pipeline_ranked", "test_ranking_trainer_processes",
    "test_token_teachers", "test_store_processes", "test_warmup_stage",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: one that starts last would hold one of two processes alone."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests of minutes have no limit; what was imported is not looked through for garbage."""
    for item in session.items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(0))
    frozen.keep()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Names a failure at once: a run that is ended from outside never comes to its summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid} ({report.when})", file=sys.__stderr__, flush=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--regenerate-golden", action="store_true", help="record the keys of test_golden_keys.py"
    )


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test has a store of its own."""
    monkeypatch.setenv("RANKDISTILL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RANKDISTILL_REMOTE", raising=False)


@pytest.fixture(scope="session")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for whole runs, whose stages before training are often the same.

    The processes of pytest-xdist share it too: each output is made by whichever asks first.
    """
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared-home"


@pytest.fixture(scope="session")
def bundled_home(shared_home: Path) -> str:
    """Where the bundled model is converted once, by whichever process asks first.

    $RANKDISTILL_TEST_HOME names a store that keeps it from one session to the next.
    """
    return os.environ.get("RANKDISTILL_TEST_HOME") or str(shared_home)


@pytest.fixture(scope="session")
def converted(bundled_home: str) -> Path:
    """The bundled model's folder."""
    from tiny_models import BUNDLED

    from rankdistill.models import locate

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RANKDISTILL_HOME", bundled_home)
        return Path(locate(BUNDLED))


@pytest.fixture(scope="session")
def shallow(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with 4 of its 30 layers: its tokenizer and its shapes, quickly computed."""
    from rankdistill.models import keep_layers, load_model, load_tokenizer, save_model

    folder = tmp_path_factory.mktemp("shallow") / "model"
    model = keep_layers(load_model(str(converted)), [0, 1, 28, 29])
    save_model(model, load_tokenizer(str(converted)), folder)
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved tiny Llama that a smaller student can be made from."""
    from tiny_models import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("teacher")
    build_model("llama", layers=3, seed=1).save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def metrics() -> dict[str, Any]:
    """`metrics.json` of a run that nobody made."""
    from report_rows import run_report

    from rankdistill.report import metrics_of

    return metrics_of(run_report())


@pytest.fixture(scope="session")
def page_text(metrics: dict[str, Any]) -> str:
    """The page of `metrics`."""
    from rankdistill.report.html import html_report

    return html_report(metrics, "seed: 0")
