"""Look inside a model during its grouped forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from rankdistill.forward import GroupBatch


class Recorder:
    """Keeps what chosen modules of a model return during one forward, where it is armed."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._armed = False
        self._kept: dict[str, Tensor] = {}
        for name, module in modules.items():
            module.register_forward_hook(self._hook(name))

    def arm(self) -> None:
        """Record the next forward."""
        self._armed = True

    def take(self, batch: GroupBatch) -> dict[str, Tensor]:
        """name -> [N, size] at the rows that predict response tokens; called inside the forward."""
        kept, self._kept, self._armed = self._kept, {}, False
        return {
            name: output.flatten(0, 1).index_select(0, batch.predictors)
            for name, output in kept.items()
        }

    def _hook(self, name: str) -> Any:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._armed:  # not when checkpointing computes the layer again
                self._kept[name] = output[0] if isinstance(output, tuple) else output

        return keep
