"""``python -m rankdistill.doctor``: what is broken here, and what mends it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from textwrap import fill

from rankdistill import shell
from rankdistill.doctor.checks import checks

SIGNS = {"ok": "ok", "note": "-", "broken": "BROKEN"}


@shell.says_mistakes
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a line per check, and what mends it; exit code 1 where something is broken, 2 on a
    person's mistake."""
    parser = shell.parser(
        "doctor",
        "Look at versions, broken installations, GPU and driver, the store, missing "
        "extras; each with the command that mends it.",
    )
    parser.add_argument(
        "--no-imports", action="store_true", help="do not import torch, transformers, trl and vLLM"
    )
    given = parser.parse_args(arguments)
    broken = 0
    for check in checks(imports=not given.no_imports):
        broken += check.state == "broken"
        lead = f"{SIGNS[check.state]:<7}{check.what:<20}"
        under = " " * len(lead)
        told = lead + check.found
        print(fill(told, shell.columns(), subsequent_indent=under, break_long_words=False))
        if check.remedy:
            print(f"{'':<27}{check.remedy}")
        sys.stdout.flush()
    print(f"\n{broken} broken." if broken else "\nNothing is broken.")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(shell.run(main))
