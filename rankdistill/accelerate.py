"""Where the shipped configurations of accelerate are.

accelerate launch --config_file $(python -m rankdistill.accelerate fsdp2_8gpu) -m rankdistill ...
"""

from __future__ import annotations

import sys
from importlib.resources import files

from rankdistill import shell
from rankdistill.errors import UserError, suggest
from rankdistill.shell import says_mistakes

USAGE = (
    "usage: accelerate launch --config_file $(python -m rankdistill.accelerate NAME) "
    "-m rankdistill ..."
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


@says_mistakes
def main() -> None:
    """Prints a path for its name; without one, the names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("\n".join([USAGE, *configurations()]))
    else:
        print(path_of(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(shell.run(main))
