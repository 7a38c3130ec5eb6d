"""`python -m rankdistill.bench forward|sample|warmup|all`: a table, and with `--json` a file.

`gpu`, `rows` and `cluster` are benchmarks of another kind, with options of their own.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from rankdistill import shell
from rankdistill.bench import NAMES
from rankdistill.bench.settings import BUNDLED, TINY, BenchSettings
from rankdistill.console import console, quiet, say
from rankdistill.errors import UserError, suggest
from rankdistill.shell import Parser

TABLE_WIDTH = 130
GPU = "gpu"
"""The benchmark that is a list of claims."""
ROWS = "rows"
"""The benchmark of memory."""
CLUSTER = "cluster"
"""The benchmark of replicas."""


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs benchmarks; the exit code: 0, 1 where compared results differ, 2 for a mistake."""
    # Threads that wait sleep, so that CPU seconds are work. Read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    options = _parser().parse_args(arguments)
    if options.benchmark == GPU:
        return _accept(options)
    if options.benchmark == ROWS:
        return _rows(options)
    if options.benchmark == CLUSTER:
        return _cluster(options)
    names = _chosen(options.benchmark)
    return _run(names, BenchSettings(options.model, options.rounds), options.json)


def _run(names: Sequence[str], settings: BenchSettings, file: Path | None) -> int:
    _require_folder(file)
    quiet()
    from rankdistill.bench import results

    facts = results.machine()
    say(results.machine_line(facts))
    rows: list[results.ResultRow] = []
    try:
        for name in names:
            rows += import_module(f"rankdistill.bench.{name}").run(settings)
    except results.Unequal as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = {
        "machine": facts,
        "settings": asdict(settings),
        "rows": [row.as_json() for row in rows],
    }
    _show(results.table(rows), report, file)
    for remark in results.remarks(rows):
        say(remark)
    return 0


def _require_folder(file: Path | None) -> None:
    if file is not None and not file.resolve().parent.is_dir():
        raise UserError(f"The folder of --json {file} does not exist: make it first.")


def _rows(options: argparse.Namespace) -> int:
    """Memory and seconds from a ranked set to training, see `rankdistill.bench.rows`."""
    _require_folder(options.json)
    if not Path("/proc/self/smaps_rollup").exists():
        raise UserError("`bench rows` reads /proc/self/smaps_rollup, which this system has not.")
    try:
        sizes = [int(size) for size in options.groups.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 100 or options.processes < 1:
        raise UserError(
            f"--groups is {options.groups} and --processes {options.processes}: give numbers of "
            "groups of at least 100, such as 1000,4000, and at least one process."
        )
    quiet()
    from rankdistill.bench import results, rows

    facts = results.machine()
    say(results.machine_line(facts))
    found = []
    for row in rows.measure(sizes, options.processes):
        found.append(row)
        say(f"{row['groups']:,} groups, {row['phase']}: {row['uss_mib']:,.0f} MiB")
    _show(rows.table(found), {"machine": facts, "rows": found}, options.json)
    return 0


def _cluster(options: argparse.Namespace) -> int:
    """Rows per second of one replica and of two, see `rankdistill.bench.cluster`."""
    _require_folder(options.json)
    settings = BenchSettings(options.model, options.rounds)
    quiet()
    from rankdistill.bench import cluster, results

    facts = results.machine()
    say(results.machine_line(facts))
    found = []
    for row in cluster.measure(settings.rounds, 8 if settings.model == TINY else 32):
        found.append(row)
        say(f"{row['sampler']}: {row['gain']:.2f}x with a second replica")
    _show(cluster.table(found), {"machine": facts, "rows": found}, options.json)
    return 0


def _show(table: Any, report: Any, file: Path | None) -> None:
    # A pipe has no width, and lines that a narrow terminal wraps read better than narrow columns.
    Console(width=max(TABLE_WIDTH, console.width)).print(table)
    if file is not None:
        from rankdistill.bench import results

        results.write(file, report)


def _accept(options: argparse.Namespace) -> int:
    """The claims about a GPU, see `rankdistill.bench.gpu`."""
    quiet()
    import torch

    from rankdistill.bench.gpu.run import GPUOptions, numbers, run

    here = "cuda" if torch.cuda.is_available() else "cpu"
    device = options.device or here
    if device not in ("cuda", "cpu") or (device == "cuda" and here == "cpu"):
        raise UserError(f"--device {device} is not here: this machine has {here}.")
    tiny = options.model == TINY
    if device == "cpu" and not tiny:
        raise UserError(
            "The models of `bench gpu` are made for a GPU, and there is none: add --model tiny."
        )
    log = options.log or Path("rankdistill-bench-gpu.log")
    wanted = GPUOptions(tiny, device, numbers(options.only), log.resolve(), options.with_vllm)
    return run(wanted, options.json)


def _chosen(name: str) -> Sequence[str]:
    if name == "all":
        return NAMES
    if name not in NAMES:
        known = [*NAMES, "all", GPU, ROWS, CLUSTER]
        raise UserError(f"There is no benchmark '{name}': {suggest(name, known)}")
    return (name,)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m rankdistill.bench",
        description="Measures what computing a prompt once saves, against the usual ways.",
    )
    parser.add_argument(
        "benchmark", metavar="BENCHMARK", help=f"{', '.join(NAMES)}, all, gpu, rows or cluster"
    )
    parser.add_argument(
        "--model",
        default=BUNDLED,
        metavar="M",
        help=f"folder, GGUF file or hub id ({BUNDLED}); {TINY}: a random one, only to try it out",
    )
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="turns of each way (4)")
    parser.add_argument("--device", metavar="D", help="gpu: cuda or cpu; what there is")
    parser.add_argument("--only", metavar="N", help="gpu: parts, such as 1-11 or 2,7; all 15")
    parser.add_argument(
        "--with-vllm", action="store_true", help="gpu: start engines of vLLM too, some minutes"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="gpu: what its parts say")
    parser.add_argument(
        "--groups", default="1000,4000,16000", metavar="N,N", help="rows: sizes (1000,4000,16000)"
    )
    parser.add_argument(
        "--processes", type=int, default=8, metavar="N", help="rows: that load at once (8)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


if __name__ == "__main__":
    sys.exit(shell.run(main))
