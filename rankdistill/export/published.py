"""What of a run's record may be passed on: names and figures, no place of this machine."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rankdistill.export.source import Source

_DATA = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".gguf", ".md", ".yaml")
_PATH = re.compile(r"(?<![\w:/.~-])(?:~|\.{1,2})?/[^\s,'\"\[\]{}]*[^\s,'\"\[\]{}/]/?")


def published(source: Source) -> Source:
    """The same with the last part of every local path in place of the path.

    A hub's name stays. The command keeps its keys.
    """
    config, metrics = source.config or {}, source.metrics
    names = {path: _last(path) for path in _texts(config) if _is_local(path)}
    names[str(source.folder.absolute())] = source.folder.absolute().name
    found = _mapped(metrics, names)
    if found and found.get("command"):
        found["command"] = _command(found["command"])
    return replace(source, config=_mapped(source.config, names), metrics=found)


def _mapped(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _mapped(inner, names) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(inner, names) for inner in value]
    if isinstance(value, str):
        for path in sorted(names, key=len, reverse=True):
            value = value.replace(path, names[path])
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def _is_local(text: str) -> bool:
    if text.startswith(("/", "~", "./", "../", "file:")):
        return bool(_last(text))
    if "/" not in text or "://" in text or "\n" in text:
        return False
    return text.lower().endswith(_DATA) or Path(text).exists()


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _command(line: str) -> str:
    try:
        words = shlex.split(line)
    except ValueError:
        return _PATH.sub(lambda found: _last(found[0]), line)
    shown = []
    for word in words:
        key, equals, value = word.rpartition("=")
        bare = value.strip("'\"")
        value = _last(bare) if _is_local(bare) else _PATH.sub(lambda f: _last(f[0]), value)
        shown.append(f"{key}{equals}{value}")
    return shlex.join(shown)
