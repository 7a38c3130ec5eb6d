"""What a configuration of accelerate spreads over the devices."""

from __future__ import annotations

from pathlib import Path

import yaml

from rankdistill.accelerate import path_of
from rankdistill.plan.memory import Spread


def spread_of(name: str | None, devices: int) -> Spread:
    """The spread of a shipped configuration by its name; None: a copy on every device.

    Raises:
        UserError: there is none of that name.
    """
    if name is None:
        return Spread(devices)
    given = yaml.safe_load(Path(path_of(name)).read_text(encoding="utf-8"))
    if "fsdp_config" in given:
        offloaded = given["fsdp_config"]["fsdp_offload_params"]
        return Spread(devices, True, True, True, offloaded, offloaded)
    deepspeed = given["deepspeed_config"]
    stage = deepspeed["zero_stage"]
    return Spread(
        devices,
        weights=stage >= 3,
        gradients=stage >= 2,
        optimiser=True,
        offloaded_optimiser=deepspeed["offload_optimizer_device"] == "cpu",
        offloaded_weights=deepspeed.get("offload_param_device") == "cpu",
    )
