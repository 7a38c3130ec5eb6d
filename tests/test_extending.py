"""What docs/extending.md shows, from a folder of one's own."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from tiny_run import TINY, run_here

from rankdistill.plan.__main__ import main as plan

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


@pytest.fixture
def user_folder(tmp_path, monkeypatch) -> Path:
    """The page's files whose first line is their name; what has the same name is joined."""
    for name, text in re.findall(r"```(?:python|yaml)\n# ([\w/]+\.\w+)\n(.*?)```", PAGE, re.DOTALL):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as open_file:
            open_file.write(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("mine", None)


def test_a_scorer_of_ones_own_is_not_said_to_be_the_teachers(
    user_folder, teacher, monkeypatch, capsys
):
    folder = run_here(
        monkeypatch, user_folder, "--config-dir=my_conf", "recipe=likelihood", *TINY,
        "score=few_commas", f"teacher.path={teacher}", "eval.quick.sharpening_control=false",
    )  # fmt: skip
    assert "few_commas under" not in capsys.readouterr().out
    judge = json.loads((folder / "metrics.json").read_text())["judge"]
    assert (judge["name"], judge["is_training_teacher"]) == ("few_commas", False)


ASKING = """

class Asking(FewCommas):
    by_rule, uses_teacher, max_batch_tokens = False, True, 1000


class Writing(Asking):
    def questions(self, responses):
        return Questions(count=responses, shown=1, answer_tokens=5)
"""


@pytest.mark.parametrize(
    ("kind", "planned"),
    [
        ("FewCommas", None),
        ("Asking", " by few_commas"),
        ("Writing", " questions to a judge"),
    ],
)
def test_a_scorer_of_ones_own_is_planned_for_as_it_says(
    kind, planned, user_folder, teacher, monkeypatch, capsys
):
    with (user_folder / "mine.py").open("a") as file:
        file.write(f"from rankdistill.score import Questions\n{ASKING}")
    (user_folder / "my_conf/score/own.yaml").write_text(f"_target_: mine.{kind}\n")
    monkeypatch.chdir(user_folder)
    limits = ["prompts.limit.train=20", "prompts.limit.validation=4"]
    asked = ["--config-dir=my_conf", "recipe=likelihood", "score=own", f"teacher.path={teacher}"]
    assert plan([*asked, *limits, "sample.responses_per_prompt=4", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    scored = [row["what"] for row in stages if row["stage"] == "score"]
    assert all(what.endswith(planned or "-") for what in scored), scored
    assert bool(scored) == (planned is not None)


def test_one_that_is_no_scorer_is_refused(user_folder, teacher, monkeypatch, capsys):
    file = user_folder / "mine.py"
    file.write_text(file.read_text().replace("(Scorer)", ""))
    with pytest.raises(SystemExit):
        run_here(
            monkeypatch, user_folder, "--config-dir=my_conf", "recipe=likelihood", *TINY,
            "score=few_commas", f"teacher.path={teacher}",
        )  # fmt: skip
    told = " ".join(capsys.readouterr().err.split())
    assert "FewCommas, which 'score' names, is no scorer: let the class inherit from" in told


KEPT = """

from rankdistill.warmup.none import NoWarmup
from rankdistill.warmup.lessons import Lessons


@dataclass(frozen=True)
class Keeping(NoWarmup):
    epochs: float
    lessons = Lessons(source="teacher")
    identity = {"warmup": "keeping"}
    stored = {"kind": "a note"}

    def store(self, student, teacher, groups, folder, how, sampler):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "note").write_text(teacher.path)
        return {"notes": 1}

    def __call__(self, student, teacher, groups, out, how):
        assert (how.cache / "note").read_text() == teacher.path
        return super().__call__(student, teacher, groups, out, how)
"""


def stages(folder: Path) -> list[str]:
    return [row["stage"] for row in json.loads((folder / "metrics.json").read_text())["stages"]]


def test_a_warm_up_of_ones_own_has_rounds_and_a_store(user_folder, teacher, monkeypatch):
    with (user_folder / "mine.py").open("a") as file:
        file.write(KEPT)
    (user_folder / "my_conf/warmup/keeping.yaml").write_text("_target_: mine.Keeping\nepochs: 1\n")
    run = [
        "--config-dir=my_conf", "recipe=likelihood", *TINY, f"teacher.path={teacher}",
        "eval.quick.sharpening_control=false",
    ]  # fmt: skip
    in_rounds = run_here(monkeypatch, user_folder, *run, "warmup=self_taught")
    assert stages(in_rounds).count("warmup") == 2
    kept = run_here(monkeypatch, user_folder, *run, "warmup=keeping", "student.keep_layers=null")
    assert stages(kept).count("teacher") == stages(kept).count("warmup") == 1


def test_a_sampler_of_ones_own_writes_the_responses(user_folder, teacher, monkeypatch, capsys):
    run = [
        "--config-dir=my_conf", "recipe=likelihood", *TINY, f"teacher.path={teacher}",
        "sample=beam_search", "eval.quick.sharpening_control=false",
    ]  # fmt: skip
    folder = run_here(monkeypatch, user_folder, *run, "sample.sampler.beams=5")
    assert "(beam_search, train and validation)" in " ".join(capsys.readouterr().out.split())
    manifest, *_ = (user_folder / "home/outputs").glob("sample-*/manifest.json")
    identity = json.loads(manifest.read_text())["identity"]
    assert identity["own_sampler"] == {"code": 1, "beams": 5}
    again = run_here(monkeypatch, user_folder, *run, "sample.sampler.beams=5")
    made = [
        {row["key"] for row in json.loads((path / "metrics.json").read_text())["stages"]}
        for path in (folder, again)
    ]
    assert made[0] == made[1]
    file = user_folder / "mine.py"
    file.write_text(file.read_text().replace('"beam_search"', '"vllm"'))
    sys.modules.pop("mine", None)
    with pytest.raises(SystemExit):
        run_here(monkeypatch, user_folder, *run)
    assert "the sampler BeamSearch is called 'vllm': rename it" in capsys.readouterr().err


def test_a_suite_of_ones_own_measures_every_model(user_folder, teacher, monkeypatch):
    folder = run_here(
        monkeypatch, user_folder, "--config-dir=my_conf", "recipe=evaluate", "eval=[counting]",
        f"teacher.path={teacher}", f"student.path={teacher}", "eval.counting.most=3",
        "sample.sampler=transformers",
    )  # fmt: skip
    block = json.loads((folder / "metrics.json").read_text())["suites"]["counting"]
    assert block["about"] == "up to 3, greedily"
    [model] = block["models"].values()
    assert model["figures"]["counts"]["items"] == 2
