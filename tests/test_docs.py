"""What the pages show: every command composes, and what this machine can run runs, in small."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from tiny_run import TINY, composed, quickly, run_here, shrunk

from rankdistill.app import catalogue

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = re.compile(
    r"^ *(?:PYTHONPATH=\. )?(?:torchrun|accelerate|python)\b(?:.*)-m rankdistill (.*)"
)


def points() -> list[str]:
    """The overrides of every command of the pages, those of a sweep one by one; shell-quoted."""
    found: dict[str, None] = {}
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
        for line in text.splitlines():
            if (shown := SHOWN.match(line)) and "=" in shown[1] and "my_dpo" not in shown[1]:
                # README's column of remarks
                arguments = shlex.split(re.split(r"\s{2,}|\s#", shown[1])[0], comments=True)
                found |= dict.fromkeys(map(shlex.join, _points(arguments)))
    return list(found)


def _points(arguments: list[str]) -> list[list[str]]:
    overrides = [a for a in arguments if "=" in a]
    if "-m" not in arguments:
        return [overrides]
    parsed = OverridesParser.create().parse_overrides(overrides)
    return [list(point) for batch in BasicSweeper.split_arguments(parsed, None) for point in batch]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The files that the pages show or name."""
    folder = tmp_path_factory.mktemp("pages")
    for page in PAGES:
        blocks = re.findall(
            r"```(?:python|yaml)\n# (\S+\.\w+)\n(.*?)```", page.read_text(), re.DOTALL
        )
        for name, content in blocks:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with (folder / name).open("a", encoding="utf-8") as file:  # mine.py goes on
                file.write(content)
    (folder / "my_conf/objective/mine.yaml").write_text("_target_: rankdistill.objectives.PRO\n")
    words = [f"word {i} and {i + 1}" for i in range(30)]
    prompts = [{"prompt": f"Say {word}.", "answer": i} for i, word in enumerate(words)]
    for name in ("my.jsonl", "gsm8k.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in prompts))
    ranked = [
        row | {"responses": [{"text": f"{row['prompt']} {n}", "score": n} for n in range(4)]}
        for row in prompts
    ]
    for name in ("ranked.jsonl", "ranked_replies.jsonl"):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in ranked))
    named = [
        {"question": f"Say {word}.", "answer_a": word, "answer_b": "No.", "winner": "ab"[i % 2]}
        for i, word in enumerate(words)
    ]
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named))
    return folder


def others_slow(commands: list[str]) -> list[Any]:
    """The first command that gives its keys, and those with something of one's own; slow others."""
    seen, found = set(), []
    for point in commands:
        keys = tuple(part.partition("=")[0] for part in shlex.split(point))
        again = keys in seen and not re.search("=mine|few_commas", point)
        found.append(pytest.param(point, marks=[pytest.mark.slow] * again))
        seen.add(keys)
    return found


def test_there_are_commands_and_the_options_that_they_name(folder):
    assert len(points()) > 40
    groups = catalogue.groups()
    for part in {part for point in points() for part in shlex.split(point)}:
        group, _, option = part.partition("=")
        if group in groups and not option.startswith("["):
            own = folder / "my_conf" / group / f"{option}.yaml"
            assert option in {*groups[group], "none"} or own.is_file(), part


@pytest.mark.parametrize("point", others_slow(points()))
def test_every_command_of_the_pages_composes(point, folder):
    config = composed(*shlex.split(point), f"hydra.searchpath=[file://{folder / 'my_conf'}]")
    assert config.train


ELSEWHERE = (
    "endpoint", "score=judge", "score=reward_model", "score=ensemble", "score=verifier",
    "score.through", "bfloat16", "zephyr", "recipe=warmup_comparison", "recipe=ppo",
    "recipe=distilbert", "recipe=ifeval_dpo", "heldout=152",
    "pro_ranking_length", "recipe=evaluate", "eval=", "recipe=reranker", "optuna", "hardware=",
    "learning_rate_grid", "hydra/", "report_to", "sample.writers", "{a.jsonl",
    "teacher.prompt_template", "train=distillation", "train=ppo", "cluster=",
)  # fmt: skip
"""What tests of its own run: endpoints, hub models, vLLM, suites, warm-ups, PPO."""


def to_run() -> list[str]:
    """Of the points those that are more than a recipe by itself, which test_recipes.py runs."""
    here = [p for p in points() if not any(word in p for word in ELSEWHERE)]
    more = [p for p in here if re.search(r" (?!seed=)", p)]
    return sorted({p for p in more if not re.search("seed=[12]", p)})


@pytest.mark.parametrize("point", others_slow(to_run()))
def test_commands_run(point, folder, shared_home, teacher, monkeypatch, tmp_path):
    monkeypatch.setenv("RANKDISTILL_HOME", str(shared_home))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "figures"))  # the rules of what was measured
    shown = (
        "my.jsonl",
        "mine.jsonl",
        "gsm8k.jsonl",
        "ranked.jsonl",
        "ranked_replies.jsonl",
        "my_conf",
    )
    for name in shown:
        (tmp_path / name).symlink_to(folder / name)
    overrides = [re.sub(r"Qwen/\S+", str(teacher), part) for part in shlex.split(point)]
    given = {part.split("=")[0] for part in overrides}
    recipe = re.search(r"recipe=(\w+)", point)
    small = [p for p in (shrunk(recipe[1]) if recipe else TINY) if p.split("=")[0] not in given]
    if "warmup=none" in point:
        small = [part for part in small if not part.startswith("warmup.")]
    if "score" in given:
        small = [part for part in small if not part.startswith("score.")]
    if "teacher.path" not in given:
        small.append(f"teacher.path={teacher}")
    run = run_here(monkeypatch, tmp_path, "--config-dir", "my_conf", *overrides, *quickly(small))
    assert json.loads((run / "metrics.json").read_text())["stages"]


@pytest.fixture
def program(teacher) -> str:
    """The program of the quick start, with a model that is here."""
    page = (ROOT / "docs" / "index.md").read_text()
    shown = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert shown is not None and shown[1] in (ROOT / "README.md").read_text()
    return shown[1].replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(teacher))


def test_the_program_of_the_quick_start(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "quick start", "exec"), {})
    assert (tmp_path / "out").is_dir()


@pytest.mark.slow
def test_the_program_of_the_quick_start_in_a_notebook(program, tmp_path, monkeypatch):
    """In a cell, whose kernel is a process of its own: the bar, and what was trained."""
    nbclient = pytest.importorskip("nbclient", reason="the extra `dev` has it")
    from nbformat.v4 import new_code_cell, new_notebook

    for name in ("IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    (tmp_path / "cell").mkdir()
    notebook = new_notebook(cells=[new_code_cell(program)])
    nbclient.NotebookClient(
        notebook, timeout=240, resources={"metadata": {"path": str(tmp_path / "cell")}}
    ).execute()
    assert (tmp_path / "cell" / "out").is_dir()
    outputs = notebook.cells[0].outputs
    shown = " ".join(str(out.data) for out in outputs if "data" in out)
    assert "<progress" in shown and "TrainOutput" in shown


@pytest.mark.slow
def test_the_site_has_no_broken_link(tmp_path):
    pytest.importorskip("material", reason="the site is built by mkdocs-material")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)],
        cwd=ROOT, check=True, env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert "recipe=rrhf" in (tmp_path / "recipes.html").read_text()
