"""A user's own YAML: whatever is in it, and whatever a group is set to, is told in one sentence."""

from __future__ import annotations

import re

import pytest
from omegaconf import OmegaConf
from tiny_run import _compose, composed, refusal

from rankdistill.app.config_errors import composition_errors, explain
from rankdistill.errors import UserError, suggest
from rankdistill.stages import settings

NAN, INF = float("nan"), float("inf")
HEAD = b"# @package _global_\n"
FILES = [
    ("train:\n\tepochs: 3\n", "mine.yaml, line 3 is no YAML that is read: it has a tab"),
    ("seed: *a\n", "line 2 .*an alias"),
    ("seed: !!python/object/apply:os.system ['touch hacked']\n", "line 2 .*a tag such as"),
    ("seed: 1\nseed: 2\n", "line 3 .*one key twice"),
    ("seed: [1\n", "line 3 is no YAML"),
    ("base: a\0b\n", "mine.yaml is no YAML"),
    (bytes(range(256)), r"mine.yaml is no text in UTF-8 \(byte 149\): save it as UTF-8"),
    ("base: größe\n".encode("latin-1"), "mine.yaml is no text in UTF-8"),
    ("defaults: hello\n", "the `defaults` of 'recipe/mine' are no list"),
    ("defaults: {a: 1}\n", "the `defaults` of 'recipe/mine' are no list"),
    ("defaults: [5]\n", "an entry of the `defaults` of one of recipe=mine is no name"),
    ("defaults: [null]\n", "is no name: give names of files"),
    ("defaults: [{rank: 5, prompts: [3]}]\n", "is no name: give names of files"),
    ("defaults: [mine]\n", "comes back to its own file, .*recipe=mine"),
    ("5\n", "holds a single value"),
    ("objective: null\n", "objective is null; it must be one of the group's options"),
    ("defaults: [override /objective: null]\n", "objective is null; it must be one of"),
    ("eval: 3\n", "eval is 3; it must be one of the group's options"),
    ("seed: 1e999\n", "seed takes a whole number"),
]


@pytest.mark.parametrize(("text", "told"), FILES)
def test_a_file_of_ones_own(tmp_path, monkeypatch, text, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe").mkdir()
    body = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "recipe" / "mine.yaml").write_bytes((b"" if text == "5\n" else HEAD) + body)
    sentence = _told(f"hydra.searchpath=[file://{tmp_path}]", "recipe=mine")
    assert re.search(told, sentence), sentence
    assert "\n" not in sentence and not (tmp_path / "hacked").exists()


def _told(*arguments: str) -> str:
    try:
        settings.build(_compose(arguments))
    except UserError as error:
        return str(error)
    except (*composition_errors(), OSError) as error:
        return explain(error, arguments)
    return ""


@pytest.mark.parametrize("argument", ["objective=null", "eval=null", "objective=5"])
def test_an_option_that_is_no_name(argument):
    group, _, value = argument.partition("=")
    assert f"there is no {group} named '{value}': valid" in _told("recipe=likelihood", argument)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("report_to", 5, "there is no tracker '5' (report_to): valid names are"),
        ("report_to", [5], "there is no tracker '5' (report_to): valid names are"),
        ("student.lora.target_modules", 5, "target_modules is 5; it must be all-linear, or names"),
        ("rank.path", "", "rank.path is empty: give a value, or null"),
        ("score.through", "http://[::1/v1", "score.through is 'http://[::1/v1', which is no URL"),
        ("score.through", "http://", "score.through is 'http://', which is no URL"),
        ("seed", -1, "seed is -1; it must be at least 0"),
        ("seed", 99999999999999999999, "seed is 1e+20; it must be a number below"),
        ("rounds", -1, "rounds is -1; it must be in [0, 1000]"),
        ("student.lora.r", 1_000_000, "student.lora.r is 1000000; it must be in [1, 16384]"),
        ("train.epochs", 1e300, "train.epochs is 1e+300; it must be a number below"),
        ("train.weight_decay", -1, "train.weight_decay is -1.0; it must be in [0, 1]"),
        ("sample.transformers.batch_size", 0, "sample.transformers.batch_size is 0; it must be at"),
        ("train.learning_rate_grid", [float("nan")], "train.learning_rate_grid[0] is nan; it must"),
        ("train.learning_rate_scale", float("nan"), "train.learning_rate_scale is nan; it must be"),
    ],
)
def test_what_a_key_is_set_to(key, value, told):
    config = composed("recipe=likelihood")
    OmegaConf.update(config, key, value, merge=False)
    with pytest.raises(UserError, match=re.escape(told)):
        settings.build(config)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("train.warmup_ratio", [-1, 2, NAN]),
        ("train.max_grad_norm", [-1, NAN, INF]),
        ("train.save_steps", [-1, 0]),
        ("train.epochs", [0, NAN, INF]),
        ("train.learning_rate", [-1, NAN]),
        ("train.weight_decay", [NAN]),
        ("train.prompts_per_step", [-3, 0]),
        ("sample.transformers.batch_size", [-1]),
        ("sample.temperature", [-1, NAN]),
        ("sample.top_p", [0, 2, NAN]),
        ("sample.max_response_tokens", [-1, 0]),
        ("rank.tie_margin", [NAN, INF]),
        ("prompts.splits.train", [NAN]),
        ("student.keep_layers", [0, -1]),
    ],
)
def test_a_number_out_of_its_range_is_named(key, values):
    for value in values:
        config = composed("recipe=likelihood")
        OmegaConf.update(config, key, value, merge=False)
        with pytest.raises(UserError) as refused:
            settings.build(config)
        told = str(refused.value)
        assert key.rpartition(".")[2] in told and "\n" not in told, told


def test_a_class_that_is_no_sampler_is_refused():
    config = composed("recipe=likelihood")
    config.sample.sampler = {"_target_": "rankdistill.objectives.DPO"}
    with pytest.raises(UserError, match=r"DPO, which 'sample.sampler' names, is no sampler: let"):
        settings.build(config)


def test_no_name_is_suggested_for_itself():
    assert suggest("dir.gguf", ["dir.gguf", "dir2.gguf"]) == "did you mean 'dir2.gguf'?"
    assert suggest("a", ["a"]) == "there is no other."


def test_a_key_of_a_group_that_a_value_took_the_place_of(tmp_path):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\neval: 3\n")
    where = f"hydra.searchpath=[file://{tmp_path}]"
    sentence = _told(where, "recipe=mine", "eval.quick.sharpening_control=false")
    assert "did you mean" not in sentence and "eval" in sentence


def test_the_command_ends_with_2_and_one_line(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "conf" / "recipe"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_bytes(HEAD + b"defaults: [mine]\n")
    found = refusal(monkeypatch, capsys, tmp_path, "--config-dir", "conf", "recipe=mine")
    assert "comes back to its own file" in found


CLASSES = """
from dataclasses import dataclass
from rankdistill.objectives import Candidates, ObjectiveOutput

@dataclass(frozen=True)
class Mine:
    needs_reference: bool = False

    def __call__(self, candidates):
        return ObjectiveOutput(-candidates.logps.mean(1), {})

class Plain:
    needs_reference = False

    def __init__(self, strength):
        if strength < 0:
            raise ValueError("a strength below 0")

    def __call__(self, candidates):
        return ObjectiveOutput(-candidates.logps.mean(1), {})

class NoObjective:
    def __init__(self):
        raise SystemExit("called")

def function(**given):
    raise SystemExit("called")
"""


@pytest.mark.parametrize(
    ("group", "target", "told"),
    [
        ("objective", "sys.exit", "which is a function: name an objective, a class"),
        ("objective", "os.getpid", "which is a function"),
        ("objective", "subprocess.Popen", "Popen, which 'objective' names, is no objective"),
        ("objective", "own_targets.function", "which is a function"),
        ("objective", "own_targets.NoObjective", "NoObjective, which 'objective' names, is no obj"),
        ("objective", "missing.Objective", "could not be built from `_target_: missing.Objective"),
        ("score", "rankdistill.objectives.DPO", "DPO, which 'score' names, is no scorer: let the"),
        ("warmup", "builtins.print", "which is a function: name a warm-up"),
        ("objective", "builtins.type", "type, which 'objective' names, is no objective"),
        (
            "objective",
            "own_targets.Plain",
            r"own_targets.Plain\) has no key 'sft_weight': ",
        ),
        (
            "objective",
            ["os.getpid"],
            "the `_target_` of 'objective' is .'os.getpid'.: name a class",
        ),
        ("score", "sys.path", "which is a list: name a scorer"),
    ],
)
def test_a_target_is_a_class_of_its_group(tmp_path, monkeypatch, group, target, told):
    (tmp_path / "own_targets.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(str(tmp_path))
    config = composed("recipe=likelihood")
    config[group]["_target_"] = target
    with pytest.raises(UserError, match=told):
        settings.build(config)


def test_a_class_of_ones_own_is_taken_and_what_a_key_holds_is_checked(tmp_path, monkeypatch):
    (tmp_path / "own_targets.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(str(tmp_path))
    built = settings._plug_in("objective", {"_target_": "own_targets.Mine"})
    assert not built.needs_reference
    with pytest.raises(UserError, match=r"'own_targets.Plain': ValueError.'a strength below"):
        settings._plug_in("objective", {"_target_": "own_targets.Plain", "strength": -1})
    with pytest.raises(UserError, match=r"'objective.beta' names `_target_: sys.exit`"):
        settings._plug_in(
            "objective", {"_target_": "own_targets.Mine", "beta": {"_target_": "sys.exit"}}
        )
