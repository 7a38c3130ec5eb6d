"""`python -m rankdistill.migrate FILE`: the command, and what has no place in it.

A file of ours gets the new names of classes that have moved.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rankdistill import shell
from rankdistill.errors import UserError
from rankdistill.migrate.carried import Carried, command, recipe
from rankdistill.migrate.carry import carry
from rankdistill.migrate.source import KINDS, kind_of, read, refuse_others, text_of
from rankdistill.stages.moved import names_ours, renamed
from rankdistill.store.faults import put


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the command; exit code 2 on a person's mistake."""
    given = _parser().parse_args(arguments)
    if names_ours(text := text_of(given.file)):
        text, found = renamed(text)
        if found or given.to is not None:
            _write(given.to or given.file.expanduser(), text)
        _show_renamed(given.to or given.file, found)
        return 0
    try:
        source = read(given.file)
        refuse_others(given.file, source)
        kind = given.kind or kind_of(given.file, source)
        carried = carry(source, kind, given.devices)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"'{given.file}' has a value that is no number ({error}): mend it."
        ) from error
    if given.to is not None:
        _write(given.to, recipe(carried, f"{given.file.name} ({kind})"))
    _show(carried, kind, given.to)
    return 0


def _show_renamed(file: Path, found: Mapping[str, str]) -> None:
    for old, new in found.items():
        print(f"{old} is {new} now")
    print(f"{file}: rewritten" if found else f"{file}: names nothing that has moved")


def _write(file: Path, text: str) -> None:
    remedy = "make its folder writable or make space, or give another --to"
    put(file, text.encode("utf-8"), remedy, parents=True)


def _show(carried: Carried, kind: str, to: Path | None) -> None:
    print(f"# {kind}\n{command(carried)}")
    if to is not None:
        folder = to.absolute().parent
        home = folder.parent if folder.name == "recipe" else "DIR"
        print(f"\n{to}: python -m rankdistill --config-dir {home} recipe={to.stem}")
        if home == "DIR":
            print("(recipes are looked for in a folder named recipe, here DIR/recipe)")
    if carried.left:
        print("\nNot carried over:")
        for key, reason in carried.left.items():
            print(f"  {key}: {reason}")
    if carried.remarks:
        print("\nDifferent here:")
        for remark in carried.remarks:
            print(f"  {remark}")


def _parser() -> argparse.ArgumentParser:
    parser = shell.parser(
        "migrate",
        "A configuration of TRL or the alignment-handbook as overrides of rankdistill.",
    )
    parser.add_argument("file", type=Path, help="YAML of `trl sft|dpo`, of the handbook, or ours")
    parser.add_argument("--kind", choices=KINDS, help="the trainer, where the file does not tell")
    parser.add_argument(
        "--devices", type=int, default=1, metavar="N", help="GPUs that its batch sizes are for (1)"
    )
    parser.add_argument("--to", type=Path, metavar="FILE", help="write a recipe, recipe/NAME.yaml")
    return parser


if __name__ == "__main__":
    sys.exit(shell.run(main))
