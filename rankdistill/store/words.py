"""Sizes and ages as people write them."""

from __future__ import annotations

import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def size_text(size: float) -> str:
    """Bytes in decimal units, three digits: ``272 MB``, ``1.43 GB``."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    unit = units[0]
    return f"{size:.0f} {unit}" if size >= 100 or unit == "B" else f"{size:.3g} {unit}"


def age_text(seconds: float) -> str:
    """A duration in its largest whole unit: ``3 d``, ``5 min``; below a second it is ``now``."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "now"


def parse_age(text: str) -> float | None:
    """Seconds of ``30d``, ``12h``, ``90m``, ``45s`` or ``2w``; None for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    return float(match[1]) * _UNITS[match[2]] if match else None


def counted(number: int, noun: str) -> str:
    """``1 shard``, ``12 shards``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
