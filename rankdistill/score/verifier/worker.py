"""The process that checks responses: what it runs may hang, and is then ended from outside.

Started by `rankdistill.score.verifier.processes`, which gives it one end of a pair of sockets. It
reads a `Rule`, says so, and then answers requests, response by response.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any

from rankdistill.errors import UserError
from rankdistill.score.verifier.answers import Check
from rankdistill.score.verifier.rules import Checked, Rule, check_of

ORPHAN_S = 10.0
"""Seconds beyond the limit after which it ends itself, should nobody be left to do so."""


class _MissingColumn(Exception):
    pass


class _Columns(dict[str, Any]):
    """The kept columns of a prompt."""

    def __missing__(self, name: str) -> Any:
        raise _MissingColumn(name)


def main(descriptor: int) -> None:
    """Answers until the other end is closed."""
    connection = Connection(descriptor)
    given = json.loads(connection.recv_bytes())
    sys.path[:] = given["path"]
    check = check_of(Rule(**given["rule"]))
    connection.send_bytes(b"ready")
    with open(os.devnull, "w") as nowhere:
        while (request := _received(connection)) is not None:
            for text in request["texts"]:
                # A thread in C: it ends the process even where the interpreter is held.
                faulthandler.dump_traceback_later(
                    given["limit_s"] + ORPHAN_S, exit=True, file=nowhere
                )
                answer = answered(check, text, request["columns"])
                faulthandler.cancel_dump_traceback_later()
                connection.send_bytes(json.dumps(asdict(answer)).encode())


def _received(connection: Connection) -> Any:
    try:
        return json.loads(connection.recv_bytes())
    except (EOFError, OSError):
        return None


def answered(check: Check | Callable[..., Any], text: str, columns: Mapping[str, Any]) -> Checked:
    """What a check says of one response, whatever it raises."""
    try:
        value = float(check(text, _Columns(columns)))
    except _MissingColumn as error:
        return Checked(column=str(error))
    except UserError as error:
        # A package that is not installed is missing for all responses, other causes are data's.
        missing = isinstance(error.__cause__, ImportError)
        return Checked(mistake=str(error)) if missing else Checked(failed=str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        said = next(iter(str(error).splitlines()), "")
        return Checked(failed=f"{type(error).__name__}: {said}".removesuffix(": ")[:200])
    return Checked(value=value if math.isfinite(value) else None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
