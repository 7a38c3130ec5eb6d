"""What a key was computed of must still be there when the output is published under it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_store import rows_of
from tiny_models import build_model, model_in
from tiny_run import TINY, refusal

from rankdistill.errors import UserError
from rankdistill.models import identity, load_model
from rankdistill.models.check import check_loading
from rankdistill.stages import pipeline
from rankdistill.stages.rank import _identity as set_identity
from rankdistill.store import Partial, Store
from rankdistill.store.inputs import check_unchanged, sha256, watched


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "prompts.jsonl"
    found.write_text("first")
    return found


def edited(file: Path) -> None:
    stat = file.stat()
    file.write_text("other")  # of the same size, and of the same time
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replaced(file: Path) -> None:
    file.with_suffix(".new").write_text("other")
    file.with_suffix(".new").replace(file)


def test_what_this_user_may_not_read_is_named(file: Path, tiny_dir: Path, monkeypatch: Any) -> None:
    def denied(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("rankdistill.store.inputs.sha256_of", denied)
    for named, ask in ((file, sha256), (tiny_dir, lambda folder: identity(str(folder)))):
        with pytest.raises(UserError, match=rf"^'{named}.*' can't be read \(Permission denied\)"):
            ask(named)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UserError, match=r"The teacher's file .*safetensors' can't be read by this"):
        check_loading("teacher", model_in(tiny_dir), None)


CHANGES = {"edited": edited, "replaced": replaced, "removed": Path.unlink}


@pytest.mark.parametrize("change", CHANGES)
def test_an_input_that_changes_before_publishing_fails_its_stage(file: Path, change: str) -> None:
    store, seen = Store(), []

    def make(partial: Partial) -> None:
        seen.append(partial.shards().rows())
        (partial.scratch / "checkpoint").write_text(file.read_text())
        partial.shards().append(rows_of(1))
        if len(seen) == 1:
            CHANGES[change](file)

    with watched(), pytest.raises(UserError, match=r"prompts\.jsonl' was changed while") as told:
        store.output("sample", {"file": sha256(file)}, make)
    assert "\n" not in str(told.value)
    assert not list(store.root.glob("outputs/*")) and not list(store.root.rglob("checkpoint"))
    file.write_text("first")
    with watched():
        store.output("sample", {"file": sha256(file)}, make)
    assert seen == [[], []], "what may be made of both contents is not continued"


def test_a_link_that_leads_elsewhere_is_a_change(file: Path) -> None:
    link, other = file.with_suffix(".link"), file.with_suffix(".other")
    other.write_text("other")
    link.symlink_to(file)
    with watched():
        sha256(link)
        link.unlink()
        link.symlink_to(other)
        with pytest.raises(UserError, match=r"prompts\.link' was changed while"):
            check_unchanged()


@pytest.mark.parametrize("change", ["added", "removed"])
def test_a_part_of_a_ranked_set_more_or_less_is_a_change(tmp_path: Path, change: str) -> None:
    parts = [tmp_path / "set" / f"{name}.jsonl" for name in ("a", "b")]
    parts[0].parent.mkdir()
    for part in parts if change == "removed" else parts[:1]:
        part.write_text("{}")
    with watched():
        set_identity(str(parts[0].parent))
        parts[1].write_text("{}") if change == "added" else parts[1].unlink()
        with pytest.raises(UserError, match="was changed while"):
            check_unchanged()


def test_rows_of_a_changed_input_are_not_kept_and_earlier_ones_are(file: Path) -> None:
    store, seen = Store(), []

    def make(partial: Partial) -> None:
        seen.append(partial.shards().rows())
        partial.shards().append(rows_of(1))
        if len(seen) == 1:
            edited(file)
        partial.shards().append(rows_of(2))

    for _ in range(2):
        with watched():
            key = {"file": sha256(file)}
            if not seen:
                with pytest.raises(UserError, match="was changed while"):
                    store.output("sample", key, make)
        file.write_text("first")
    with watched():
        store.output("sample", {"file": sha256(file)}, make)
    assert seen == [[], rows_of(1)]


def test_each_of_several_inputs_is_looked_at(file: Path) -> None:
    others = [file.with_name(name) for name in ("second", "third")]
    with watched():
        sha256(file)
        for other in others:
            other.write_text("first")
            sha256(other)
        os.utime(others[0])
        check_unchanged()
        edited(others[1])
        with pytest.raises(UserError, match="third' was changed while"):
            check_unchanged()


def test_another_stamp_of_the_same_content_is_none(file: Path) -> None:
    def make(partial: Partial) -> None:
        os.link(file, file.with_suffix(".link"))
        os.utime(file)
        file.chmod(0o600)

    with watched():
        assert Store().output("sample", {"file": sha256(file)}, make)


def test_an_input_counts_for_its_own_run_only(file: Path) -> None:
    with watched():
        sha256(file)
    edited(file)
    assert Store().output("sample", {}, lambda partial: None)
    with watched():
        sha256(file)
        assert Store().output("train", {}, lambda partial: None)
        file.write_text("third")
        with pytest.raises(UserError, match="was changed while"):
            sha256(file)  # two keys of one run are never of two contents


def test_a_model_that_changes_is_not_loaded(tiny_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_dir, tmp_path / "model"))
    with watched():
        identity(str(folder))
        assert load_model(str(folder))
        build_model(seed=7).save_pretrained(folder)
        with pytest.raises(UserError, match="model' was changed while"):
            load_model(str(folder))
    with watched():
        identity(str(folder))
        (folder / "chat_template.json").write_text("{}")
        with pytest.raises(UserError, match="model' was changed while"):
            load_model(str(folder))


def test_scores_of_a_teacher_that_was_changed_meanwhile_poison_nothing(
    monkeypatch, capsys, teacher: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(teacher, tmp_path / "own"))
    score = pipeline.score

    def late(*given: Any) -> Any:
        build_model(layers=3, seed=9).save_pretrained(own)
        return score(*given)

    monkeypatch.setattr(pipeline, "score", late)
    told = refusal(monkeypatch, capsys, tmp_path, "recipe=rrhf", f"teacher.path={own}", *TINY)
    assert "own' was changed while the run was using it" in told
    assert not list(Store().root.glob("outputs/score-*"))
