"""A run's report: `metrics.json`, and a table, a Markdown file and an HTML page made from it.

metrics = write_report(report, folder)  # of a RunReport that the run has filled
print_tables(metrics, console)

``python -m rankdistill.report RUN_FOLDER`` makes the files again from `metrics.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rankdistill.report.answers import write_answers, write_demands
from rankdistill.report.html import html_report
from rankdistill.report.markdown import markdown_report
from rankdistill.report.metrics import metrics_of, read_metrics, write_metrics
from rankdistill.report.run_report import RunReport, Stage
from rankdistill.report.summary import print_summary
from rankdistill.report.terminal import print_tables, terminal_table, terminal_tables

__all__ = [
    "RunReport",
    "Stage",
    "metrics_of",
    "print_summary",
    "print_tables",
    "read_metrics",
    "render",
    "terminal_table",
    "terminal_tables",
    "write_report",
]


def write_report(report: RunReport, folder: Path) -> dict[str, Any]:
    """Writes `metrics.json`, `config.yaml`, `answers.jsonl`, `report.md` and `report.html`, of a
    verified run `demands.parquet` as well; returns the metrics."""
    metrics = metrics_of(report)
    write_metrics(metrics, folder)
    write_answers(report.groups, folder)
    if report.verified is not None:
        write_demands(report.verified.rows, folder)
    (folder / "config.yaml").write_text(report.config_yaml, encoding="utf-8")
    render(metrics, report.config_yaml, folder)
    return metrics


def render(metrics: Mapping[str, Any], config_yaml: str, folder: Path) -> None:
    """Writes `report.md` and `report.html` from what `metrics.json` holds."""
    pages = {"report.md": markdown_report, "report.html": html_report}
    for name, page in pages.items():
        # Half a surrogate pair, which an imported data set can hold, has no UTF-8.
        text = page(metrics, config_yaml).encode("utf-8", errors="replace")
        (folder / name).write_bytes(text)
