"""The code of a test in a fork (`forked.py`), as `python -c CODE ARGUMENTS` runs it."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    code = sys.argv.pop(1)
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
