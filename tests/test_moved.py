"""A YAML that names a class by where it was before it moved."""

from __future__ import annotations

import pytest
from hydra.utils import get_class

from rankdistill.compare import runs
from rankdistill.errors import UserError
from rankdistill.migrate.__main__ import main
from rankdistill.stages.moved import MOVED
from rankdistill.stages.settings import _plug_in

OLD, NEW = "rankdistill.evaluate.suites.Pairs", "rankdistill.suites.Pairs"

SUITE = """# @package eval.mine
# Pairs of our own.
defaults: [/schema/eval/pairs@_here_, _self_]
_target_: %s  # a class of rankdistill's
path: pairs.jsonl
"""


@pytest.mark.parametrize("new", sorted(set(MOVED.values())))
def test_every_new_name_is_a_class(new):
    assert isinstance(get_class(new), type)
    assert new not in MOVED


def test_an_old_name_is_one_sentence_with_the_new_one():
    with pytest.raises(UserError) as told:
        _plug_in("eval.mine", {"_target_": OLD, "version": 1})
    assert str(told.value) == (
        f"'eval.mine' names `{OLD}`, which is `{NEW}` now: write that, or have "
        "`python -m rankdistill.migrate FILE` rewrite the file."
    )


def test_migrate_rewrites_the_name_and_nothing_else(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(SUITE % OLD)
    assert main([str(file)]) == 0
    assert file.read_text() == SUITE % NEW
    assert f"{OLD} is {NEW} now" in capsys.readouterr().out
    assert main([str(file)]) == 0
    assert file.read_text() == SUITE % NEW
    assert "nothing that has moved" in capsys.readouterr().out


def test_migrate_writes_elsewhere_where_it_is_asked_to(tmp_path):
    file, to = tmp_path / "mine.yaml", tmp_path / "new/mine.yaml"
    file.write_text(f'suite: {{"_target_": "{OLD}"}}\n')
    assert main([str(file), "--to", str(to)]) == 0
    assert OLD in file.read_text()
    assert to.read_text() == f'suite: {{"_target_": "{NEW}"}}\n'


def test_a_file_that_cannot_be_written_is_told(tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(SUITE % OLD)
    assert main([str(file), "--to", str(file / "x.yaml")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_run_from_before_has_the_settings_of_one_from_now(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "read_metrics", lambda folder: {})
    for name, target in (("before", OLD), ("now", NEW)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(f"eval: {{mine: {{_target_: {target}}}}}\n")
    before, now = (runs._read(tmp_path / name).config for name in ("before", "now"))
    assert before == now == {"eval.mine._target_": NEW}
