"""A small real corpus that every Python brings: the docstrings of its standard library.

It is known-item search. A query is the summary line of a docstring; its one relevant passage is the
same docstring without that line, under its signature. What else may answer a query does not count.
"""

from __future__ import annotations

import ast
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

WITHOUT = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "__pycache__"}
"""Folders that are no library, or not there in every installation."""

LEAST_WORDS = 4
"""Of a summary line; and three times as many of what follows it."""


def known_items(library: Path | None = None) -> list[tuple[str, str, str]]:
    """(name, query, passage) of every docstring whose summary line no other one has.

    Sources are parsed, never imported. What is found depends on the version of Python.

    Args:
        library: A folder with modules; None is the standard library.
    """
    root = library or Path(sysconfig.get_paths()["stdlib"])
    found = []
    for file in _sources(root):
        module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        found += _documented(ast.parse(file.read_bytes()), module)
    summaries = Counter(query.lower() for _, query, _ in found)
    return [item for item in found if summaries[item[1].lower()] == 1]


def _sources(root: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(set(inside) - WITHOUT)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str, str]]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        inner = f"{name}.{child.name}"
        summary, _, body = (ast.get_docstring(child) or "").partition("\n\n")
        query, passage = " ".join(summary.split()), " ".join(body.split())
        words = len(query.split())
        if words >= LEAST_WORDS and len(passage.split()) >= 3 * LEAST_WORDS:
            yield inner, query, f"{inner}{_arguments(child)}\n{passage}"
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, inner)


def _arguments(node: ast.AST) -> str:
    return "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"  # type: ignore[attr-defined]
