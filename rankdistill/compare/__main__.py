"""``python -m rankdistill.compare DIR... [--to DIR] [--contrast A-B]``: which run is better, if one
is?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill

from rankdistill import shell
from rankdistill.compare import FILES, compare_and_tell


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the comparison, prints who won and where it is; exit code 2 on a person's mistake."""
    parser = shell.parser(
        "compare",
        f"Compare finished runs: {', '.join(FILES)}.",
    )
    parser.add_argument(
        "folders", metavar="DIR", type=Path, nargs="+", help="folder of a finished run or a sweep"
    )
    parser.add_argument(
        "--to", metavar="DIR", type=Path, default=Path("comparison"),
        help="folder that the comparison is written to (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--contrast", metavar="A-B", action="append", dest="contrasts",
        help="a difference named before the run, such as dpo-rrhf or dpo-control (the strongest "
        "control; before and teacher go as well); may be repeated (default: those that the runs "
        "name by the key contrasts)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    for folder in given.folders:
        shell.check_run_folder(folder)
    page, told = compare_and_tell(given.folders, given.to, given.contrasts)
    for line in told.splitlines():
        print(fill(line, get_terminal_size().columns) if sys.stdout.isatty() else line)
    for path in map(page.with_name, FILES):
        if path.is_file():
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(shell.run(main))
