"""What is imported is no garbage: none is looked for until all tests are there."""

from __future__ import annotations

import gc

gc.disable()


def keep() -> None:
    """From here on garbage is looked for, in what is made from here on."""
    gc.freeze()
    gc.enable()
