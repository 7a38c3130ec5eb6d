"""Do the tests bite? Draws small mistakes by a seed, and runs each against the tests of its module.

    python tests/mutations.py [--number 300] [--seed 0] [--groups store rank] [--out FOLDER]

Each mistake is tried in a fork of this process, which has imported torch but nothing of the
package: the child's import of the module yields the mutated source, and no file changes. First each
test file runs once as it is, to learn which tests reach which lines (kept in FOLDER); a mistake
then meets only the tests that reach its line, the quickest first. Strings, messages, annotations,
docstrings and decorators are left alone, and what `equivalent.py` lists is not tried. Prints the
survivors as diffs, and counts them.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import random
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from equivalent import EQUIVALENT

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rankdistill"
# Modules, and the test files that hold them: those that run in their own process, and quickly.
GROUPS: dict[str, tuple[str, str]] = {
    "objectives": (
        "objectives/*.py",
        "objectives objectives_loops objectives_values objectives_own ranking_trainer"
        " warmup_divergences",
    ),
    "forward": (
        "forward/*.py",
        "forward forward_batch forward_binding forward_head forward_flex evaluate_tokens",
    ),
    "losses": (
        "train/ppo/losses.py train/ppo/experience.py train/reward/trainer.py train/ranking.py"
        " train/groups.py warmup/head.py warmup/logits.py trainer/steps.py"
        " trainer/batches.py",
        "ppo_losses ppo_experience reward_loss ranking_trainer ranking_trainer_rows warmup_head"
        " warmup_support warmup_stages warmup_hidden ranking_trainer_reference out_of_memory ppo"
        " ranking_trainer_resume token_teachers distillation reward_model store_columns"
        " imported_answers",
    ),
    "statistics": (
        "statistics.py compare/statistics.py",
        "evaluate_statistics compare_statistics verified_figures report_quality compare_verified",
    ),
    "rank": (
        "rank/*.py",
        "rank rank_aggregate rank_diagnostics rank_existing rank_export rank_placebo rows_shapes"
        " rows_of_others rows_set_aside writers imported_answers",
    ),
    "store": (
        "store/*.py",
        "store store_cli store_columns store_damage store_faults store_files store_full_disk"
        " store_inputs store_foreign store_remote store_s3 store_waiting written leftovers"
        " run_folder sharing asked_places",
    ),
}
LEFT_OUT = {"__init__.py", "__main__.py", "words.py", "schema.py"}
SWAPS = {
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"), ast.And: ("and", "or"), ast.Or: ("or", "and"),
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "any": "all", "all": "any", "sum": "mean", "mean": "sum",
    "argmax": "argmin", "argmin": "argmax", "cumsum": "cumprod", "sorted": "list",
}  # fmt: skip
MESSAGES = set("warn warning info debug error print heading note line detail".split())  # noqa: SIM905
SHARED = ["torch", "transformers", "trl", "datasets", "peft", "hydra", "hypothesis", "scipy.stats"]
# Of a processor: the machine may be busy.
TIMEOUT_S = 60
# Further tests of a line, slowest last, are not tried beyond this, measured while lines are noted.
TESTS_S = 30.0


@dataclass(frozen=True)
class Mutation:
    path: str
    """Below the package."""
    line: int
    start: int
    end: int
    """Characters of the source that are replaced."""
    text: str

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


def mutations(path: Path) -> list[Mutation]:
    """All that can be made of a file."""
    source = path.read_text()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    if not source.isascii():  # ast counts bytes
        source = source.encode("ascii", "replace").decode()

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    found: list[Mutation] = []
    for node in _walk(ast.parse(path.read_text())):
        for old, start, end, new in _changes(node, source, at):
            if source[start:end] == old:
                place = str(path.relative_to(PACKAGE))
                found.append(Mutation(place, source.count("\n", 0, start) + 1, start, end, new))
    return sorted(set(found), key=lambda m: (m.start, m.end, m.text))


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes whose change may change a result."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.Import | ast.ImportFrom | ast.Assert):
        if isinstance(node, ast.Raise):
            yield node
        return
    if isinstance(node, ast.Call) and _name(node.func) in MESSAGES:
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def _changes(node: Any, source: str, at: Any) -> Iterator[tuple[str, int, int, str]]:
    """What stands where, and what may stand there in its place."""
    if not hasattr(node, "lineno"):
        return
    start, end = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
    whole = source[start:end]

    def between(left: Any, right: Any, operator: Any) -> Iterator[tuple[str, int, int, str]]:
        if type(operator) in SWAPS:
            old, new = SWAPS[type(operator)]
            a = at(left.end_lineno, left.end_col_offset)
            b = at(right.lineno, right.col_offset)
            if (place := source.find(old, a, b)) >= 0:
                yield old, place, place + len(old), new

    match node:
        case ast.Compare():
            for left, operator, right in zip(
                [node.left, *node.comparators], node.ops, node.comparators, strict=False
            ):
                yield from between(left, right, operator)
        case ast.BinOp() if not any(_is_text(side) for side in (node.left, node.right)):
            yield from between(node.left, node.right, node.op)
        case ast.BoolOp():
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from between(left, right, node.op)
        case ast.UnaryOp(op=ast.Not()):
            yield "not", start, start + len("not"), ""
        case ast.UnaryOp(op=ast.USub()):
            yield "-", start, start + len("-"), "+"
        case ast.Constant(value=bool(value)):
            yield whole, start, end, str(not value)
        case ast.Constant(value=int(value)):
            yield whole, start, end, str(value + 1)
        case ast.Constant(value=float(value)):
            yield whole, start, end, str(value * 2 or 1.0)
        case ast.If() | ast.While() | ast.IfExp():
            test = node.test
            a, b = at(test.lineno, test.col_offset), at(test.end_lineno, test.end_col_offset)
            yield source[a:b], a, b, f"(not ({source[a:b]}))"
        case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
            yield whole, start, end, "pass"
        case ast.Continue():
            yield whole, start, end, "break"
        case ast.Call() if (name := _name(node.func)) in NAMES:
            b = at(node.func.end_lineno, node.func.end_col_offset)
            yield name, b - len(name), b, NAMES[name]


def _name(node: ast.AST) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def forked(work: Any, log: Path, timeout_s: int) -> int | None:
    """The exit code of a child that does `work`; None where it took too long."""
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1), os.dup2(out, 2)
        # A loop that no longer ends must take neither all memory nor all time.
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), used + (4 << 30)))
        resource.setrlimit(resource.RLIMIT_CPU, (timeout_s, timeout_s))
        code = 70
        with contextlib.suppress(BaseException):
            code = int(work())
        os._exit(code)
    until = time.monotonic() + 20 * timeout_s
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(status)
            return None if code in (-signal.SIGXCPU, -signal.SIGKILL) else code
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def run_tests(tests: list[str], *plugins: object) -> int:
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        # Time is limited by `forked`.
        options = ["-x", "-q", "-o", "timeout=0", "-p", "no:cacheprovider", "-p", "no:xdist"]
        options += ["--basetemp", folder]
        return pytest.main([*options, *tests], [*plugins])


class Reach:
    """A pytest plug-in: which lines of the package each test runs, and how long it takes."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.lines: dict[str, list[str]] = {}
        self.seconds: dict[str, float] = {}
        self._now: set[tuple[str, int]] = set()

    def _call(self, frame: FrameType, event: str, _: object) -> Any:
        return self._line if frame.f_code.co_filename.startswith(f"{PACKAGE}/") else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self._now.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._now, began = set(), time.process_time()
        sys.settrace(self._call), threading.settrace(self._call)
        try:
            return (yield)
        finally:
            sys.settrace(None), threading.settrace(None)  # type: ignore[arg-type]
            self.seconds[item.nodeid] = round(time.process_time() - began, 3)
            self.lines[item.nodeid] = sorted(
                f"{os.path.relpath(path, PACKAGE)}:{line}" for path, line in self._now
            )

    def pytest_sessionfinish(self) -> None:
        self.out.write_text(json.dumps({"lines": self.lines, "seconds": self.seconds}))


def reach(group: str, out: Path) -> dict[str, Any]:
    """Lines and seconds of the tests of a group; measured once per test file."""
    found: dict[str, Any] = {"lines": {}, "seconds": {}}
    for name in GROUPS[group][1].split():
        kept, file = out / f"reach-{name}.json", ROOT / "tests" / f"test_{name}.py"
        if not kept.exists():
            code = forked(lambda f=file, k=kept: run_tests([str(f)], Reach(k)), out / "log", 600)
            assert code == 0, f"{file.name} fails as it is: {(out / 'log').read_text()[-3000:]}"
        for part, values in json.loads(kept.read_text()).items():
            found[part] |= values
    return found


class _Mutated(importlib.machinery.SourceFileLoader):
    source = ""

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec")


@dataclass
class Finder:
    """Gives the import of one module another source."""

    name: str
    path: str
    source: str

    def find_spec(self, name: str, *_: object) -> Any:
        if name != self.name:
            return None
        loader = _Mutated(name, self.path)
        loader.source = self.source
        return importlib.util.spec_from_file_location(name, self.path, loader=loader)


def verdict(mutation: Mutation, known: dict[str, Any], out: Path) -> str:
    """`killed`, `survived`, `timeout`, or `unreached` where no test of the group runs the line."""
    path = PACKAGE / mutation.path
    here = f"{mutation.path}:"
    tests = [t for t, lines in known["lines"].items() if f"{here}{mutation.line}" in lines]
    if not tests and _at_import(path, mutation.line):
        tests = [t for t, ls in known["lines"].items() if any(x.startswith(here) for x in ls)]
    if not tests:
        return "unreached"
    chosen, seconds = [], 0.0
    for test in sorted(tests, key=known["seconds"].__getitem__):
        seconds += known["seconds"][test]
        if chosen and seconds > TESTS_S:
            break
        chosen.append(test)
    name = "rankdistill." + mutation.path.removesuffix(".py").replace("/", ".")
    finder: Any = Finder(name, str(path), mutation.apply(path.read_text()))

    def work() -> int:
        sys.meta_path.insert(0, finder)
        return run_tests(chosen)

    code = forked(work, out / "log", TIMEOUT_S)
    return "timeout" if code is None else "survived" if code == 0 else "killed"


def _at_import(path: Path, line: int) -> bool:
    """Whether a line is outside of all functions, and so runs at import."""
    functions = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)]
    return not any(f.body[0].lineno <= line <= (f.end_lineno or 0) for f in functions)


def draw(group: str, number: int, seed: int) -> list[Mutation]:
    """So many of a group, the same ones for the same seed and source."""
    files = sorted({f for p in GROUPS[group][0].split() for f in PACKAGE.glob(p)})
    every = [m for f in files if f.name not in LEFT_OUT for m in mutations(f)]
    return random.Random(f"{seed} {group}").sample(every, min(number, len(every)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "mutations")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.dont_write_bytecode = True
    for name in SHARED:
        importlib.import_module(name)
    total: Counter[str] = Counter()
    for group in asked.groups:
        known, counts = reach(group, asked.out), Counter[str]()
        for mutation in draw(group, asked.number // len(asked.groups), asked.seed):
            source = (PACKAGE / mutation.path).read_text()
            line = mutation.apply(source).splitlines()[mutation.line - 1].strip()
            same = line in EQUIVALENT.get(mutation.path, {})
            found = "equivalent" if same else verdict(mutation, known, asked.out)
            counts[found] += 1
            print(".", end="", file=sys.stderr, flush=True)
            if found not in ("survived", "unreached"):
                continue
            changed = difflib.unified_diff(
                source.splitlines(), mutation.apply(source).splitlines(), lineterm="", n=1
            )
            print(f"{found}: {group} {mutation.path}", *list(changed)[2:], sep="\n", flush=True)
        print(f"{group}: {json.dumps(counts)}", flush=True)
        total += counts
    print(f"all: {json.dumps(total)}")


if __name__ == "__main__":
    main()
