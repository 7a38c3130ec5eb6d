"""How long a run may take on this machine, as the planner works it out."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from rankdistill.stages.settings import Settings

GPUS = {"H100": "h100", "H200": "h100", "A100": "a100", "RTX 4090": "rtx4090"}
"""The planner's machine by a part of a GPU's name."""


def planned(settings: Settings) -> str:
    """``about 15 min on two cores``; empty where the planner does not know machine or models.

    Stages whose output is kept already are counted too.
    """
    import torch
    from omegaconf import OmegaConf

    from rankdistill.plan.config import HardwareConfig, PlanConfig
    from rankdistill.plan.planner import Planner
    from rankdistill.plan.stages import stages
    from rankdistill.report.stages import duration

    name, where = "cpu2", "on two cores"
    if torch.accelerator.is_available():
        where = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
        name = next((GPUS[part] for part in GPUS if part in where), "")
        where = f"on one {where}"
    if not name:
        return ""
    hardware: Any = OmegaConf.merge(OmegaConf.structured(HardwareConfig), _hardware(name))
    plan: Any = OmegaConf.merge(OmegaConf.structured(PlanConfig), _read("plan.yaml")["plan"])
    try:
        planner = Planner(settings, OmegaConf.to_object(plan), OmegaConf.to_object(hardware))  # type: ignore[arg-type]
        seconds = sum(stage.seconds for stage in stages(planner))
    except (
        Exception
    ):  # a part of one's own need not have what the planner reads; it runs all the same
        return ""
    return f"about {duration(seconds)} {where}, if nothing is reused"


def _hardware(name: str) -> Any:
    """A machine of `conf/hardware/` over those that it begins with."""
    from omegaconf import OmegaConf

    given = _read(f"hardware/{name}.yaml")
    below = [part for part in given.pop("defaults") if part not in ("_self_",) and "/" not in part]
    return OmegaConf.merge(*map(_hardware, below), given)


def _read(path: str) -> Any:
    from omegaconf import OmegaConf

    text = (files("rankdistill.conf") / path).read_text(encoding="utf-8")
    return OmegaConf.create(text)
