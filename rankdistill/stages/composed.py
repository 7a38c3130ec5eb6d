"""The configuration of a finished run, from its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rankdistill.errors import UserError, first_line


def read_config(folder: Path, *groups: str) -> dict[str, Any]:
    """The configuration in a run folder, as it was composed.

    Args:
        groups: It must have these.

    Raises:
        UserError: the file is missing, is no YAML, or no configuration of a run.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"there is no config.yaml in {folder}; run its recipe again to write it.")
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # OmegaConf's, yaml's and those of bytes that are no text
        why = first_line(error)[:-1]
        raise UserError(f"{path} is not a configuration ({why}); run it again.") from None
    if not isinstance(config, dict) or not all(isinstance(config.get(g), dict) for g in groups):
        raise UserError(f"{path} is not the configuration of a run; run it again.")
    return config
