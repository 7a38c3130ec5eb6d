"""gsm8k, hellaswag and ifeval: equal to lm-eval run by hand, resumable, on local data."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from suite_rows import HELLASWAG, IFEVAL, gsm8k, suite, write
from tiny_models import BUNDLED, model_in
from tiny_run import TINY, run_here

from rankdistill.models import locate
from rankdistill.suites import harness
from rankdistill.suites.harness import hellaswag_text, task_rows

# Not imported here: every process of the tests would do it, for seconds.
pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")


def by_hand(path: str, task: str, files: dict[str, Path], folder: Path, **options: Any) -> dict:
    """lm-eval's Python API on the same data: its task, our files."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tasks = Path(lm_eval.__file__).parent / "tasks" / task
    own = folder / f"{task}.yaml"
    own.write_text(
        f"include: {tasks / task}.yaml\ntask: {task}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs:\n  data_files: {json.dumps({k: str(v) for k, v in files.items()})}\n"
        f"  cache_dir: {folder / 'cache'}\n"
        + ("" if "train" in files else "training_split: null\nfewshot_split: null\n")
    )
    lm = HFLM(pretrained=path, dtype="float32", device="cpu", batch_size=4)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    results: Any = lm_eval.simple_evaluate(
        lm, tasks=[str(own)], task_manager=manager, bootstrap_iters=0, **options
    )
    return results["results"][task]


def evaluated(monkeypatch, tmp_path: Path, *arguments: str) -> dict[str, Any]:
    folder = run_here(monkeypatch, tmp_path, "recipe=evaluate", *arguments)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert "Evaluation suites" in (folder / "report.md").read_text()
    assert "Evaluation suites" in (folder / "report.html").read_text()
    return metrics["suites"]


def test_the_text_form_of_hellaswag_has_the_columns_of_the_hub(tmp_path):
    file = tmp_path / "val.txt"
    file.write_text(HELLASWAG)
    rows = list(hellaswag_text("eval.hellaswag.path", file))
    assert [row["ctx_b"] for row in rows] == ["she", "he", "", "they"]
    assert rows[1]["ctx_a"] == "A man gets on his bike. The road is wet."
    assert rows[2]["ctx_a"].endswith("A dark room helps.") and rows[2]["label"] == "1"
    assert rows[3]["activity_label"] == "Swimming" and rows[3]["endings"][3] == "splash and laugh."


def compare(monkeypatch, tmp_path: Path, model: str, tokens: int, backend: str = "hf") -> None:
    text = tmp_path / "val.txt"
    text.write_text(HELLASWAG)
    data = gsm8k(tmp_path / "gsm8k")
    found = evaluated(
        monkeypatch, tmp_path, f"teacher.path={model}", "eval=[hellaswag,gsm8k]",
        f"eval.hellaswag.path={text}", "eval.hellaswag.batch_size=4",
        f"eval.gsm8k.path={data}", "eval.gsm8k.limit=2", "eval.gsm8k.shots=2",
        f"eval.gsm8k.max_response_tokens={tokens}", "eval.gsm8k.batch_size=4",
        f"eval.hellaswag.backend={backend}", f"eval.gsm8k.backend={backend}",
    )  # fmt: skip
    rows = write(tmp_path / "val.jsonl", task_rows("key", text, ()))
    path = locate(model)
    files = {"hellaswag": {"validation": rows}, "gsm8k": {
        split: data / f"{split}.jsonl" for split in ("test", "train")}}  # fmt: skip
    kept = {"num_fewshot": 2, "limit": 2, "gen_kwargs": {"max_gen_toks": tokens}}
    for task, options in (("hellaswag", {}), ("gsm8k", kept)):
        expected = by_hand(path, task, files[task], tmp_path, **options)
        (model_name,) = found[task]["models"]
        figures = found[task]["models"][model_name]["figures"]
        assert figures
        for key, figure in figures.items():
            assert figure["mean"] == pytest.approx(expected[key], abs=1e-12), (task, key)


def test_a_tiny_model_has_the_figures_of_lm_eval_by_hand(monkeypatch, tmp_path, tiny_dir):
    compare(monkeypatch, tmp_path, str(tiny_dir), 4)


@pytest.mark.slow
@pytest.mark.bundled
def test_the_bundled_model_has_the_figures_of_lm_eval_by_hand(monkeypatch, tmp_path, bundled_home):
    monkeypatch.setenv("RANKDISTILL_HOME", bundled_home)
    compare(monkeypatch, tmp_path, BUNDLED, 24)


@pytest.mark.slow
@pytest.mark.bundled
@pytest.mark.vllm
def test_through_vllm_the_figures_are_those_through_transformers(monkeypatch, tmp_path, shallow):
    """Both suites ask one engine."""
    from rankdistill.suites import resuming

    threads = torch.set_num_threads
    start, engines = resuming.vllm_model, []

    @contextmanager
    def one_engine(*arguments: Any) -> Iterator[Any]:
        engines[:] = engines or [opened.enter_context(start(*arguments))]
        yield engines[0]

    monkeypatch.setattr(resuming, "vllm_model", one_engine)
    with ExitStack() as opened:
        compare(monkeypatch, tmp_path, str(shallow), 12, backend="vllm")
        assert not multiprocessing.active_children()  # the engine is in this process
    assert engines and not torch.distributed.is_initialized()
    assert torch.set_num_threads is threads
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in os.environ


def test_an_engine_ends_with_its_suite_however_that_ends(monkeypatch, tiny_dir):
    pytest.importorskip("vllm")
    from rankdistill.suites import resuming

    ended: list[str] = []
    core = SimpleNamespace(shutdown=lambda: ended.append("engine"))
    lm = SimpleNamespace(model=SimpleNamespace(llm_engine=SimpleNamespace(engine_core=core)))
    back_end = SimpleNamespace(VLLM=lambda **_: lm)
    monkeypatch.setattr(resuming, "_back_end", lambda: back_end)
    monkeypatch.setattr(resuming, "_in_this_process", nullcontext)  # it imports vLLM
    options = SimpleNamespace(dtype="float32", gpu_memory_utilization=0.5)
    run: Any = SimpleNamespace(settings=SimpleNamespace(sample=SimpleNamespace(vllm=options)))
    with pytest.raises(KeyError), resuming.vllm_model(run, model_in(tiny_dir), 4) as asked:
        assert asked is lm and not ended
        raise KeyError
    assert ended == ["engine"]


def test_base_student_and_teacher_stand_in_one_table_and_are_measured_once(
    monkeypatch, tmp_path, tiny_dir, teacher, capsys
):
    file = write(tmp_path / "ifeval.jsonl", IFEVAL)
    arguments = [
        "eval=[ifeval]", f"eval.ifeval.path={file}", "eval.ifeval.max_response_tokens=4",
        "eval.ifeval.checker=own", f"teacher.path={teacher}", f"student.path={tiny_dir}",
    ]  # fmt: skip
    one = evaluated(monkeypatch, tmp_path, *arguments)
    assert [m["label"] for m in one["ifeval"]["models"].values()] == ["student", "teacher"]
    capsys.readouterr()
    three = evaluated(monkeypatch, tmp_path, *arguments, f"base={teacher}")
    assert [m["label"] for m in three["ifeval"]["models"].values()] == ["base", "student"]
    assert three["ifeval"]["models"]["trained"] == one["ifeval"]["models"]["trained"]
    # The terminal has one line for all; the log has the answers and the verdicts of each.
    assert "reused    evaluate" in capsys.readouterr().out
    assert (tmp_path / "run" / "rankdistill.log").read_text().count("evaluate reused, ") == 4


def test_a_training_run_has_its_models_on_a_suite_beside_the_built_in_figures(
    monkeypatch, tmp_path, teacher
):
    file = write(tmp_path / "ifeval.jsonl", IFEVAL)
    folder = run_here(
        monkeypatch, tmp_path, "recipe=rrhf", *TINY, f"teacher.path={teacher}",
        "eval=[quick,ifeval]", "eval.quick.sharpening_control=false",
        f"eval.ifeval.path={file}", "eval.ifeval.max_response_tokens=2",
        "eval.ifeval.checker=own",
    )  # fmt: skip
    metrics = json.loads((folder / "metrics.json").read_text())
    names = ["start", "warmed_up", "trained", "teacher"]
    assert list(metrics["suites"]["ifeval"]["models"]) == names == list(metrics["models"])


def test_an_interrupted_suite_goes_on_with_the_requests_that_are_left(
    monkeypatch, tmp_path, tiny_dir
):
    from rankdistill.suites.resuming import Resuming

    text = tmp_path / "val.txt"
    text.write_text(HELLASWAG)
    arguments = [
        f"teacher.path={tiny_dir}", "eval=[hellaswag]", f"eval.hellaswag.path={text}",
        "eval.hellaswag.batch_size=1",
    ]  # fmt: skip
    asked: list[int] = []
    answers = Resuming._answers

    def stopping(self, kind, requests):
        model, original = self._lm, self._lm.loglikelihood

        def ask(part, **named):
            asked.append(len(part))
            if len(asked) == 2:
                raise KeyboardInterrupt
            return original(part, **named)

        model.loglikelihood = ask
        return answers(self, kind, requests)

    monkeypatch.setattr(Resuming, "_answers", stopping)
    with pytest.raises(SystemExit) as ended:
        evaluated(monkeypatch, tmp_path, *arguments)
    assert ended.value.code == 130
    found = evaluated(monkeypatch, tmp_path, *arguments)
    assert asked == [8, 8, 8]
    assert found["hellaswag"]["models"]["trained"]["counts"]["items"] == 4


def test_our_checker_says_what_that_of_lm_eval_says(monkeypatch):
    """On the kinds that need no download; loose and strict."""
    import nltk

    monkeypatch.setattr(nltk.data, "find", lambda *_: True)
    from lm_eval.tasks.ifeval.utils import process_results

    from rankdistill.suites.instructions import verdicts

    asked = [
        ("punctuation:no_comma", {}), ("detectable_format:json_format", {}),
        ("detectable_format:title", {}), ("startend:quotation", {}),
        ("detectable_content:number_placeholders", {"num_placeholders": 1}),
        ("keywords:existence", {"keywords": ["tea"]}),
        ("startend:end_checker", {"end_phrase": "Bye now."}),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}),
        ("length_constraints:number_words", {"relation": "at least", "num_words": 5}),
    ]  # fmt: skip
    texts = [
        '"A cup of tea."', "<<Tea>>\n* one\n* two", '{"a": 1}', "Sure, here:\n{\"a\": 1}",
        "Write to [name] about tea, please. Bye now.", "", "Well,\nBye now.\nThanks,",
    ]  # fmt: skip
    seen = set()
    for name, kwargs in asked:
        for text in texts:
            doc = {"key": 1, "prompt": "Go.", "instruction_id_list": [name], "kwargs": [kwargs]}
            ours, theirs = verdicts(doc, [text]), process_results(doc, [text])
            assert ours == theirs, (name, text)
            seen.add((ours["prompt_level_strict_acc"], ours["prompt_level_loose_acc"]))
    assert seen == {(True, True), (False, True), (False, False)}


class Heard(logging.Handler):
    """The messages that reach it."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.mark.parametrize("library", ["vllm", "lm_eval"])
def test_other_libraries_say_nothing_while_a_suite_is_measured(library, monkeypatch):
    # Its own level and handlers, whatever a command that ran in this process has set.
    heard, logger = Heard(), logging.getLogger(library)
    monkeypatch.setattr(logger, "handlers", [heard])
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.manager._clear_cache()  # what each logger remembers of its level
    with harness._quiet():
        logging.getLogger(f"{library}.part").error("pretrained model kwarg is not of type str")
    assert heard.messages == []
    logging.getLogger(f"{library}.part").error("later")
    assert heard.messages == ["later"]


def test_what_a_library_logs_to_later_is_open(capsys):
    log = logging.getLogger("first_imported_by_a_suite")
    with harness._quiet():
        handler = logging.StreamHandler()
        log.addHandler(handler)
    log.error("an engine is shut down")
    log.removeHandler(handler)
    assert capsys.readouterr().err == ""


def test_what_a_suite_says_of_itself():
    assert "5-shot, no chat template, lm-eval" in suite("gsm8k").about()
    assert "chat template, the first 3" in suite("ifeval", limit=3, checker="own").about()
