"""A run's model as people use it: ``python -m rankdistill.export RUN``."""

from rankdistill.export.exporting import Options, current_export, export
from rankdistill.export.source import Source, open_source

__all__ = ["Options", "Source", "current_export", "export", "open_source"]
