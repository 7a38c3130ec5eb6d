"""Work on rows that the processes of a training share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object

Item = TypeVar("Item")
Made = TypeVar("Made")


def by_shares(items: Sequence[Item], work: Callable[[list[Item]], Sequence[Made]]) -> list[Made]:
    """What `work` makes of the items, in their order: a share by each process, all for everyone.

    A process that did it alone would have the others wait in a collective, which ends a launch
    after half an hour.

    Args:
        work: Makes as many results of its items; they go from process to process, pickled.
    """
    state = PartialState()
    mine = range(state.process_index, len(items), state.num_processes)
    made = work([items[i] for i in mine])
    everyone: list[Any] = gather_object(list(zip(mine, made, strict=True)))
    return [result for _, result in sorted(everyone, key=itemgetter(0))]
