"""Where the shipped configurations of accelerate are.

accelerate launch --config_file $(python -m rankdistill.accelerate fsdp2_8gpu) -m rankdistill ...

With `--machines 2` the numbers of machines and processes follow the path, as arguments.
"""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from pathlib import Path

from rankdistill import shell
from rankdistill.errors import UserError, suggest
from rankdistill.shell import says_mistakes

USAGE = (
    "usage: accelerate launch --config_file $(python -m rankdistill.accelerate NAME "
    "[--machines N]) -m rankdistill ..."
)


def configurations() -> dict[str, str]:
    """Paths by name."""
    folder = files("rankdistill.conf") / "accelerate"
    found = {entry.name.removesuffix(".yaml"): str(entry) for entry in folder.iterdir()}
    return dict(sorted(found.items()))


def path_of(name: str) -> str:
    """The file of a configuration.

    Raises:
        UserError: there is none of that name.
    """
    known = configurations()
    if name not in known:
        raise UserError(f"There is no configuration '{name}' of accelerate: {suggest(name, known)}")
    return known[name]


def of_machines(name: str, machines: int) -> str:
    """A configuration for several machines, each with as many GPUs as it is for.

    Raises:
        UserError: there is none of that name, or no such number of machines.
    """
    path = path_of(name)
    if machines < 1:
        raise UserError(f"--machines is {machines}; it must be at least 1.")
    found = re.search(r"^num_processes: (\d+)$", Path(path).read_text("utf-8"), re.MULTILINE)
    assert found is not None
    return f"{path} --num_machines {machines} --num_processes {int(found[1]) * machines}"


@says_mistakes
def main() -> None:
    """Prints a path for its name; without one, the names."""
    match sys.argv[1:]:
        case [name] if not name.startswith("-"):
            print(path_of(name))
        case [name, "--machines", number] if number.lstrip("-").isdecimal():
            print(of_machines(name, int(number)))
        case _:
            print("\n".join([USAGE, *configurations()]))


if __name__ == "__main__":
    sys.exit(shell.run(main))
