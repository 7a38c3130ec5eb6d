"""Trackers: what `report_to` may say, and that figures arrive where they are looked for."""

from __future__ import annotations

import os

import pytest
from tiny_run import TINY, run_here

from rankdistill import trackers
from rankdistill.errors import UserError
from rankdistill.trackers import chosen_trackers, tracked


def test_a_name_or_a_list():
    assert chosen_trackers([]) == [] and chosen_trackers(None) == []
    assert chosen_trackers("tensorboard") == chosen_trackers(["tensorboard"]) == ["tensorboard"]


def test_an_unknown_or_missing_tracker_is_told_at_startup(monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"no tracker 'tensorbord'.*did you mean 'tensorboard'"):
        chosen_trackers("tensorbord")
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'rankdistill\[mlflow\]'\.$"):
        chosen_trackers(["mlflow"])
    with pytest.raises(UserError, match=r"pip install tensorboard\.$"):
        chosen_trackers("tensorboard")


def test_a_folder_is_no_package(monkeypatch, tmp_path):
    (tmp_path / "zz_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trackers, "TRACKERS", ("zz_tracker",))
    with pytest.raises(UserError, match="needs a package"):
        chosen_trackers("zz_tracker")


def test_what_a_person_sets_wins_and_nothing_is_left_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_NAME", "mine")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    with tracked(tmp_path / "run", "train"):
        assert os.environ["WANDB_NAME"] == "mine"
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "run/tensorboard/train")
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ and os.environ["WANDB_NAME"] == "mine"


def test_tensorboard_and_mlflow_get_the_losses(monkeypatch, tmp_path, teacher):
    mlflow = pytest.importorskip("mlflow")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    where = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where)
    folder = run_here(
        monkeypatch, tmp_path, "recipe=rrhf", *TINY, f"teacher.path={teacher}",
        "eval.quick.sharpening_control=false", "report_to=[tensorboard,mlflow]",
    )  # fmt: skip
    (events,) = {path.parent for path in (folder / "tensorboard" / "train").rglob("events.*")}
    written = EventAccumulator(str(events))
    written.Reload()
    shown = [event.value for event in written.Scalars("train/loss")]
    mlflow.set_tracking_uri(where)
    runs = mlflow.search_runs(experiment_names=["rankdistill"], output_format="list")
    assert len(runs) == 2  # the warm-up and the training
    client = mlflow.MlflowClient(where)
    kept = [client.get_metric_history(run.info.run_id, "loss") for run in runs]
    trained = next(losses for losses in kept if len(losses) == 2)
    assert [metric.value for metric in trained] == pytest.approx(shown, rel=1e-6)
