"""What the shared prompt saves, measured: `python -m rankdistill.bench forward|sample|warmup|all`.

A benchmark is a module here with `run(settings) -> list[ResultRow]`, named in `NAMES`. It lets the
ways to compute the same thing take turns in one process (`measure.take_turns`), and holds what they
compute against each other: a faster way to another result is no row but an error (`Unequal`).
"""

from __future__ import annotations

NAMES = ("forward", "sample", "warmup")
"""The benchmarks, in the order in which `all` runs them."""
