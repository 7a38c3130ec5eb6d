"""What a 4-bit quantisation needs besides the weights: texts like those that the student writes."""

from __future__ import annotations

import json
from pathlib import Path

from rankdistill.errors import UserError
from rankdistill.export.deployment import write_template
from rankdistill.export.source import Source
from rankdistill.rank.load import load_groups

ROWS = 256


def check_calibration(source: Source) -> None:
    """UserError where there are no texts to calibrate on."""
    if not (source.folder / "ranked").is_dir():
        raise UserError(
            f"--quantize awq-ready takes its texts from ranked/, which '{source.folder}' has not: "
            "give a run that ranks responses."
        )


def write_calibration(source: Source, to: Path) -> None:
    """Writes `calibration.jsonl`, conversations with their best response, and `quantize_awq.py`."""
    rows = []
    for group in load_groups(source.folder):
        best = min(group["responses"], key=lambda response: response.get("rank") or 0)
        answer = {"role": "assistant", "content": best["text"]}
        rows.append({"messages": [*map(dict, group["messages"]), answer]})
        if len(rows) == ROWS:
            break
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (to / "calibration.jsonl").write_text(lines, encoding="utf-8", errors="replace")
    write_template("quantize_awq.py", to)
