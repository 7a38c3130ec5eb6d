"""What every `python -m rankdistill.NAME` does alike: a mistake is one line, and exit code 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

from rankdistill.errors import UserError

P = ParamSpec("P")

INTERRUPTED = 130
"""The exit code of what Ctrl-C ended, as shells have it."""


def says_mistakes(run: Callable[P, int | None]) -> Callable[P, int]:
    """A command's `main`: says a UserError in one line, without a traceback.

    Returns:
        The exit code: what `run` returned, or 0; 2 for a person's mistake.
    """

    @wraps(run)
    def main(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return run(*args, **kwargs) or 0
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return INTERRUPTED

    return main


class Parser(argparse.ArgumentParser):
    """Says a wrong argument as any other mistake."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[0].upper()}{message[1:]}: see `{self.prog} --help`.")
