"""``python -m rankdistill.init DIR``: a recipe, prompts, a scorer and an objective of one's own."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from rankdistill import shell
from rankdistill.errors import UserError
from rankdistill.store.faults import writing

FOLDER = "FOLDER"
"""Stands in the files for the folder as it was typed."""


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the files and says how they are run; exit code 2 on a person's mistake."""
    parser = shell.parser(
        "init",
        "Write a project to begin with: a recipe, prompts, a scorer and an objective "
        "of your own, which run as they are.",
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder to make; never replaced")
    folder: Path = parser.parse_args(arguments).folder
    write_project(folder)
    command = f"python -m rankdistill --config-dir {shlex.quote(str(folder))} recipe=mine"
    print(f"{folder}/README.md says what to change. It runs as it is:\n  {command}")
    return 0


def write_project(folder: Path) -> None:
    """Copies the files of `project/`.

    Raises:
        UserError: the folder holds something already, or cannot be written.
    """
    made: list[Path] = []
    with writing(folder, "make space or make the folder above writable, or give another one"):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"'{folder}' is there already, and is not replaced: give a new folder.")
        try:
            for name, source in _tree(files("rankdistill.init") / "project", ""):
                target = folder / name
                above = [place for place in target.parents if not place.exists()]
                made += [*reversed(above), target]
                target.parent.mkdir(parents=True, exist_ok=True)
                text = source.read_text(encoding="utf-8").replace(FOLDER, folder.as_posix())
                target.write_text(text, encoding="utf-8")
        except BaseException:
            _remove(made)
            raise


def _remove(made: Sequence[Path]) -> None:
    """A half project would be in the way of the next one."""
    for place in reversed(made):
        with suppress(OSError):
            if place.is_dir():
                place.rmdir()
            else:
                place.unlink(missing_ok=True)


def _tree(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    files: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            files += _tree(entry, f"{prefix}{entry.name}/") if entry.name[0] != "_" else []
        else:
            files.append((prefix + entry.name, entry))
    return files


if __name__ == "__main__":
    sys.exit(shell.run(main))
