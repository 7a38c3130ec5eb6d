"""How long a run may take, for its first line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_run import TINY, composed

from rankdistill.plan.estimate import planned
from rankdistill.stages.settings import build


@pytest.fixture
def settings(teacher):
    return build(composed("recipe=rrhf", *TINY, f"teacher.path={teacher}"))


def test_a_machine_without_a_gpu(settings, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    told = planned(settings)
    assert told.startswith("about ") and told.endswith(" on two cores, if nothing is reused")


def test_a_gpu_that_is_known_and_one_that_is_not(settings, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert " on one NVIDIA H100 80GB HBM3" in planned(settings)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Unheard of")
    assert planned(settings) == ""


def test_what_the_planner_cannot_read_stops_no_run(settings, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert planned(replace(settings, warmup=object())) == ""
