"""What becomes of a configuration: overrides, and what has no place, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Carried:
    """Overrides by their key; and what was not carried, or not exactly."""

    given: Mapping[str, Any]
    """The configuration; `take` marks what has been looked at."""
    groups: dict[str, Any] = field(default_factory=dict)
    """Choices of options, as `objective: dpo`."""
    values: dict[str, Any] = field(default_factory=dict)
    """Values by dotted key."""
    left: dict[str, str] = field(default_factory=dict)
    """Reasons by the key of the configuration."""
    remarks: list[str] = field(default_factory=list)
    """What differs although it was carried."""
    _seen: set[str] = field(default_factory=set)

    def take(self, key: str, default: Any = None) -> Any:
        """The value of a key, null counted as absent."""
        self._seen.add(key)
        value = self.given.get(key)
        return default if value is None else value

    def leave(self, key: str, reason: str) -> None:
        """A key that is there, and has no place."""
        self._seen.add(key)
        if key in self.given:
            self.left[key] = reason

    def unseen(self) -> list[str]:
        """Keys that nothing has looked at."""
        return [key for key in self.given if key not in self._seen]
