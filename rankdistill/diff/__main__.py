"""``python -m rankdistill.diff RUN_A RUN_B``: what changed in the answers to the same prompts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rankdistill import shell
from rankdistill.errors import UserError


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, writes a page where that is asked for; exit code 2 on a mistake."""
    parser = shell.parser(
        "diff",
        "Compare two students' first answers to the same held-out prompts word by "
        "word, the most changed first.",
    )
    parser.add_argument("run_a", type=Path, help="folder of a finished run")
    parser.add_argument("run_b", type=Path, help="folder of another on the same prompts")
    parser.add_argument(
        "--to", metavar="FILE", type=Path, help="also write a page: a .html or .md file"
    )
    parser.add_argument(
        "--shown", metavar="N", type=int, default=20, help="rows on the terminal (20)"
    )
    given = parser.parse_args(arguments)

    from rich.console import Console

    from rankdistill.diff.changes import changes, headline, html, markdown, terminal_table
    from rankdistill.store.faults import put

    pages = {".html": html, ".md": markdown}
    if given.to is not None and given.to.suffix not in pages:
        raise UserError(f"--to takes a .html or .md file, and not '{given.to}'.")
    rows = changes(given.run_a, given.run_b)
    names = str(given.run_a), str(given.run_b)
    if given.to is not None:
        text = pages[given.to.suffix](rows, *names)
        remedy = "make its folder writable or make space, or give another --to"
        put(given.to, text.encode("utf-8", errors="replace"), remedy)
    console = Console(highlight=False)
    console.print(headline(rows), soft_wrap=True)
    console.print(terminal_table(rows[: given.shown], *names))
    if given.to is not None:
        console.print(str(given.to), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(shell.run(main))
