"""A run's model as people use it: ``python -m rankdistill.export RUN``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rankdistill.export.exporting import ExportOptions, current_export, export
    from rankdistill.export.source import Source, open_source

__all__ = ["ExportOptions", "Source", "current_export", "export", "open_source"]


def __getattr__(name: str) -> Any:
    """Import what loads torch only when it is asked for: `--help` needs none of it."""
    for module in ("exporting", "source") if name in __all__ else ():
        if hasattr(found := import_module(f"rankdistill.export.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module 'rankdistill.export' has no attribute '{name}'")
