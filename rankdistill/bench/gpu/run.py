"""Runs the parts, each in its own process, and tells what became of the claims."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rankdistill.bench.gpu import PARTS, Claim, Part
from rankdistill.console import say
from rankdistill.errors import UserError
from rankdistill.store.faults import put

PRELOADED = sorted({part.function.partition(":")[0] for part in PARTS})
"""Imported once, before the parts are forked: libraries take a process some seconds."""


@dataclass(frozen=True)
class GPUOptions:
    """Of a call.

    Args:
        tiny: Random models of 2 layers: everything runs, and times mean nothing.
        device: `cuda` or `cpu`.
        only: Numbers of parts.
        log: What the parts print.
        with_vllm: Start engines too, which takes minutes.
    """

    tiny: bool
    device: str
    only: Sequence[int]
    log: Path
    with_vllm: bool = False


def run(options: GPUOptions, json_file: Path | None) -> int:
    """Prints a line per claim as soon as its part has ended; 1 where one is refuted, else 0."""
    from rankdistill.bench import results

    facts = results.machine()
    say(results.machine_line(facts))
    say("claim | figure | target | holds/refuted/not run")
    found: list[dict[str, Any]] = []
    put(options.log, b"", "make its folder writable or make space, or give another --log")
    for part in PARTS:
        if part.number not in options.only:
            continue
        started = time.monotonic()
        claims = _ended(part, options)
        seconds = round(time.monotonic() - started, 1)
        for claim in claims:
            say(f"{part.number} {claim.line}")
            found.append({"part": part.number, "seconds": seconds, **asdict(claim)})
    if json_file is not None:
        report = {"machine": facts, "tiny": options.tiny, "device": options.device, "claims": found}
        results.write(json_file, report)
    say(f"all that the parts said: {options.log}")
    return int(any(claim["verdict"] == "refuted" for claim in found))


def numbers(text: str | None) -> list[int]:
    """Parts by number: `1-11`, `2,7`; None: all.

    Raises:
        UserError: no such part.
    """
    known = [part.number for part in PARTS]
    if text is None:
        return known
    chosen: list[int] = []
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise UserError(f"--only {text} names no parts: give numbers, such as 1-11 or 2,7.")
        chosen += range(int(first), int(last or first) + 1)
    if unknown := sorted(set(chosen) - set(known)):
        raise UserError(
            f"--only {text}: there is no part {unknown[0]}; they go from 1 to {known[-1]}."
        )
    return chosen


def _ended(part: Part, options: GPUOptions) -> list[Claim]:
    """The claims of a part, or one that says how it ended without them."""
    # Not a fork of this process: CUDA does not survive one. The server of forks has never used it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # A library that asks for a GPU while it is imported must not start CUDA in the server.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    with tempfile.TemporaryDirectory(prefix="rankdistill-bench-") as folder:
        answer = Path(folder, "claims.json")
        child: Any = context.Process(target=_try, args=(part, options, str(answer)))
        child.start()
        child.join(part.seconds)
        if child.is_alive():
            child.kill()
            child.join()
            return [_refuted(part, f"no end within {part.seconds} s")]
        if not answer.is_file():
            return [_refuted(part, f"ended with code {child.exitcode}, see the log")]
        return [Claim(**row) for row in json.loads(answer.read_text())]


def _refuted(part: Part, figure: str) -> Claim:
    return Claim(part.what, figure, "it runs", "refuted")


def _try(part: Part, options: GPUOptions, answer: str) -> None:
    """In the process of the part."""
    log = os.open(options.log, os.O_WRONLY | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    print(f"\n== {part.number} {part.what}", flush=True)
    from rankdistill.bench.gpu.parts import Bench

    module, _, name = part.function.partition(":")
    try:
        bench = Bench(options.tiny, options.device, options.with_vllm)
        claims = getattr(import_module(module), name)(bench)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    Path(answer).write_text(json.dumps([asdict(claim) for claim in claims]))
