"""ifbench: verdicts by classes of others, in IFEval's form; what they lack is told at start-up."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from suite_rows import suite, write
from tiny_run import refusal, run_here

from rankdistill.errors import UserError
from rankdistill.suites.instructions import _Checks, verdicts

pytestmark = pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed")
MODULE = """
class Kind:
    def __init__(self, name):
        self.name = name

    def build_description(self, *, least=None, word=None, prompt=None):
        self.least, self.word, self.prompt = least, word, prompt or getattr(self, "prompt", None)

    def get_instruction_args(self):
        return None


class Length(Kind):
    def check_following(self, text):
        return len(text) >= self.least


class Word(Kind):
    def check_following(self, text):
        return text.split()[-1] == self.word


class Echo(Kind):
    def get_instruction_args(self):
        return {"prompt": self.prompt}

    def check_following(self, text):
        return text == self.prompt


class Third(Kind):
    def check_following(self, text):
        return bool(text.split()[2])


class Tagged(Kind):
    def check_following(self, text):
        raise LookupError("\\n**\\n  Resource 'punkt_tab' not found.\\n  Please use ..")


class Yellow(Kind):
    def check_following(self, text):  # as NLTK 3.9 writes it
        raise LookupError("\\n**\\n  Resource \\x1b[93mpunkt_tab\\x1b[0m not found.\\n  ..")


INSTRUCTION_DICT = {
    "count:length": Length, "words:last": Word, "repeat:echo": Echo, "words:third": Third,
    "words:tagged": Tagged, "words:yellow": Yellow,
}
"""
NONE = {"least": None, "word": None}
"""As in IFBench's rows: every argument of every kind is there."""


@pytest.fixture
def checker(tmp_path, monkeypatch) -> str:
    (tmp_path / "kinds_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "kinds_of_mine", raising=False)
    return "kinds_of_mine"


def row(number: int, *asked: tuple[str, dict[str, object]]) -> dict[str, object]:
    names, given = [name for name, _ in asked], [{**NONE, **more} for _, more in asked]
    return {"key": number, "prompt": "Go.", "instruction_id_list": names, "kwargs": given}


def said_of(checker: str, response: str, *asked: tuple[str, dict[str, object]]) -> dict:
    kinds = __import__(checker).INSTRUCTION_DICT
    return verdicts(row(1, *asked), [response], _Checks(checker, kinds).follows)


def test_strict_and_loose_are_what_the_classes_say(checker):
    asked = (("count:length", {"least": 9}), ("words:last", {"word": "end"}))
    assert said_of(checker, "to the end", *asked) == {
        "prompt_level_strict_acc": True, "inst_level_strict_acc": [True, True],
        "prompt_level_loose_acc": True, "inst_level_loose_acc": [True, True],
    }  # fmt: skip
    # Without its last line the text ends with the word, and is too short for the other one.
    assert said_of(checker, "the end\nbye", *asked) == {
        "prompt_level_strict_acc": False, "inst_level_strict_acc": [True, False],
        "prompt_level_loose_acc": True, "inst_level_loose_acc": [True, True],
    }  # fmt: skip
    short = said_of(checker, "an *end*", *asked)
    assert (short["inst_level_strict_acc"], short["inst_level_loose_acc"]) == (
        [False, False],
        [False, True],
    )


def test_a_class_that_asks_for_the_prompt_has_it_and_blanks_follow_nothing(checker):
    assert said_of(checker, "Go.", ("repeat:echo", {}))["inst_level_strict_acc"] == [True]
    assert said_of(checker, "No.", ("repeat:echo", {}))["inst_level_loose_acc"] == [False]
    assert said_of(checker, " \n", ("count:length", {"least": 0}))["inst_level_strict_acc"] == [
        False
    ]


def test_a_check_that_fails_is_told_once_and_is_not_followed(checker, capsys):
    checks = _Checks(checker, __import__(checker).INSTRUCTION_DICT)
    rows = [verdicts(row(1, ("words:third", {})), [text], checks.follows) for text in ("a", "b")]
    assert [each["inst_level_strict_acc"] for each in rows] == [[False], [False]]
    assert verdicts(row(1, ("words:third", {})), ["a b c"], checks.follows)[
        "prompt_level_strict_acc"
    ]
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("kinds_of_mine fails at a response to 'words:third' (IndexError:") == 1
    assert "count as not following" in told


@pytest.mark.parametrize("kind", ["words:tagged", "words:yellow"])
def test_what_a_check_lacks_is_no_answer_that_does_not_follow(checker, kind):
    with pytest.raises(UserError, match=rf"cannot check '{kind}' .*\(NLTK's punkt_tab\)"):
        said_of(checker, "Some text.", (kind, {}))


def test_a_kind_of_the_hub_s_data_that_a_module_has_not_is_no_answer_that_does_not_follow(checker):
    with pytest.raises(UserError, match="'count:lenght', which kinds_of_mine does not know"):
        said_of(checker, "Some text.", ("count:lenght", {}))


def refused(**changes: object) -> str:
    with pytest.raises(UserError) as raised:
        suite("ifbench", **changes).check(None)
    return str(raised.value)


def test_mistakes_are_told_at_start_up(checker, tmp_path):
    good = write(tmp_path / "good.jsonl", [row(1, ("count:length", {"least": 2}))])
    suite("ifbench", checker=checker, path=str(good)).check(None)
    assert "pip install ifbench" in refused(path=str(good), checker="nothing_like_it.registry")
    assert "has no INSTRUCTION_DICT" in refused(path=str(good), checker="json")
    (tmp_path / "broken_kinds.py").write_text("INSTRUCTION_DICT = {1 / 0: None}\n")
    said = refused(path=str(good), checker="broken_kinds")
    assert "checker=broken_kinds cannot be imported (division by zero)" in said
    rows = [row(1, ("count:length", {"least": 2})), row(2, ("count:lenght", {}))]
    other = write(tmp_path / "other.jsonl", rows)
    said = refused(path=str(other), checker=checker)
    assert "row 2" in said and "'count:lenght'" in said and "eval.ifbench.checker" in said
    tagged = write(tmp_path / "tagged.jsonl", [row(1, ("words:tagged", {}))])
    said = refused(path=str(tagged), checker=checker)
    assert "python -m nltk.downloader punkt_tab stopwords averaged_perceptron_tagger_eng" in said


@pytest.mark.parametrize("kwargs", [[], {"least": 2}, [{}, {}]])
@pytest.mark.parametrize("name", ["ifbench", "ifeval"])
def test_rows_without_arguments_for_every_kind(checker, tmp_path, name, kwargs):
    kind = "count:length" if name == "ifbench" else "punctuation:no_comma"
    rows = [row(1, (kind, {"least": 2})), {**row(2, (kind, {})), "kwargs": kwargs}]
    by = {"checker": checker if name == "ifbench" else "own"}
    with pytest.raises(UserError, match=rf"row 2 of eval\.{name}\.path has not one set"):
        suite(name, path=str(write(tmp_path / "rows.jsonl", rows)), **by).check(None)


def test_kinds_that_ifeval_has_not_are_told_before_answers_are_written(tmp_path):
    file = write(tmp_path / "rows.jsonl", [row(1, ("count:numbers", {}))])
    with pytest.raises(UserError) as raised:
        suite("ifeval", path=str(file), checker="own").check(None)
    said = str(raised.value)
    assert said.startswith("row 1 of eval.ifeval.path: There is no instruction 'count:numbers'")
    assert "eval=[ifbench]" in said


def answering(monkeypatch, text: str) -> list[int]:
    """Models write this text: what tiny ones do is blank. Requests of each call, as they come."""
    from rankdistill.suites.shared_contexts import SharedContexts

    calls: list[int] = []

    def generate_until(_: object, asked: list[object], **__: object) -> list[str]:
        calls.append(len(asked))
        return [text] * len(asked)

    monkeypatch.setattr(SharedContexts, "generate_until", generate_until)
    return calls


def test_models_are_measured_by_a_module_of_ones_own(
    checker, monkeypatch, tmp_path, tiny_dir, teacher
):
    answering(monkeypatch, "A text.")
    file = write(
        tmp_path / "rows.jsonl",
        [row(1, ("count:length", {"least": 1})), row(2, ("words:last", {"word": "never"}))],
    )
    folder = run_here(
        monkeypatch, tmp_path, "recipe=evaluate", "eval=[ifbench]", f"eval.ifbench.path={file}",
        f"eval.ifbench.checker={checker}", "eval.ifbench.max_response_tokens=4",
        f"teacher.path={teacher}", f"student.path={tiny_dir}",
    )  # fmt: skip
    found = json.loads((folder / "metrics.json").read_text())["suites"]["ifbench"]
    assert found["about"].endswith(f", {checker}") and "chat template" in found["about"]
    for model in found["models"].values():
        figures = {key: figure["mean"] for key, figure in model["figures"].items()}
        assert figures["prompt_level_loose_acc,none"] == figures["mean_loose"] == 0.5
    assert "ifbench, prompts, loose" in (folder / "report.md").read_text()


def test_another_check_asks_no_model_again(checker, monkeypatch, tmp_path, teacher):
    calls = answering(monkeypatch, "A text of five words.")
    file = write(tmp_path / "rows.jsonl", [row(1, ("count:length", {"least": 21}))])

    def followed() -> float:
        folder = run_here(
            monkeypatch, tmp_path, "recipe=evaluate", "eval=[ifbench]", f"teacher.path={teacher}",
            f"eval.ifbench.path={file}", f"eval.ifbench.checker={checker}",
        )  # fmt: skip
        found = json.loads((folder / "metrics.json").read_text())["suites"]["ifbench"]
        [model] = found["models"].values()
        return model["figures"]["mean_strict"]["mean"]

    assert (followed(), calls) == (1.0, [1])
    (tmp_path / "kinds_of_mine.py").write_text(MODULE.replace(">= self.least", "> self.least"))
    monkeypatch.delitem(sys.modules, checker)
    importlib.invalidate_caches()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert (followed(), calls) == (0.0, [1])


def test_lm_evals_checker_and_ours_judge_the_same_answers(monkeypatch, tmp_path, teacher):
    import nltk

    calls = answering(monkeypatch, "<<Tea>> without commas")
    kinds = ("detectable_format:title", {}), ("startend:quotation", {})
    file = write(tmp_path / "rows.jsonl", [row(1, *kinds), row(2, ("punctuation:no_comma", {}))])
    monkeypatch.setattr(nltk.data, "find", lambda *_: True)  # of what these kinds do not need

    def figures(who: str) -> dict[str, float]:
        folder = run_here(
            monkeypatch, tmp_path, "recipe=evaluate", "eval=[ifeval]", f"teacher.path={teacher}",
            f"eval.ifeval.path={file}", f"eval.ifeval.checker={who}",
        )  # fmt: skip
        found = json.loads((folder / "metrics.json").read_text())["suites"]["ifeval"]
        assert found["about"].endswith({"own": "our checker", "lm_eval": "lm-eval's checker"}[who])
        [model] = found["models"].values()
        return {key: figure["mean"] for key, figure in model["figures"].items()}

    ours = figures("own")
    assert (ours["prompt_level_strict_acc,none"], ours["inst_level_strict_acc,none"]) == (
        0.5,
        2 / 3,
    )
    assert (figures("lm_eval"), calls) == (ours, [2])


def test_prompts_are_asked_as_lm_eval_asks_them(tmp_path):
    """Its definition of IFEval has a checker besides, whose import looks for NLTK's download."""
    import lm_eval

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda *_: None)
    file = Path(lm_eval.__file__).parent / "tasks/ifeval/ifeval.yaml"
    theirs = yaml.load(file.read_text(), Loader)
    rows = write(tmp_path / "rows.jsonl", [row(1, ("count:length", {"least": 1}))])
    task = suite("ifeval").task({"train": str(rows)}, tmp_path)
    ours = task.config.to_dict()
    for key in ("output_type", "test_split", "num_fewshot", "doc_to_text", "generation_kwargs"):
        assert ours[key] == theirs[key], key
    assert suite("ifeval").hub == theirs["dataset_path"]
    assert {name.removesuffix(",none") for name in suite("ifeval").metrics} == {
        metric["metric"] for metric in theirs["metric_list"]
    }


def test_a_changed_check_is_not_taken_from_the_store(checker, tmp_path, monkeypatch):
    """Of a module within a package, those beside it count too: the classes are in one of them."""
    alone = suite("ifbench", checker=checker).code_identity()
    package = tmp_path / "kinds_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "registry.py").write_text("from kinds_package.classes import INSTRUCTION_DICT\n")
    (package / "classes.py").write_text(MODULE)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    within = suite("ifbench", checker="kinds_package.registry")
    before = within.code_identity()
    assert before == within.code_identity() != alone
    (package / "classes.py").write_text(MODULE.replace(">= self.least", "> self.least"))
    assert within.code_identity() != before


def test_a_module_that_is_missing_is_one_sentence_of_a_run(monkeypatch, capsys, tmp_path, teacher):
    said = refusal(
        monkeypatch, capsys, tmp_path, "recipe=evaluate", "eval=[ifbench]",
        f"eval.ifbench.path={write(Path(tmp_path) / 'r.jsonl', [row(1)])}",
        f"teacher.path={teacher}", "eval.ifbench.checker=nothing_like_it",
    )  # fmt: skip
    assert "eval.ifbench.checker=nothing_like_it cannot be imported" in said
