"""The key of an output: a hash of what determines its content, written in one canonical way."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

KEY_DIGITS = 16
_STAGE = r"[a-z][a-z0-9_]*"
KEY_PATTERN = rf"{_STAGE}-[0-9a-f]{{{KEY_DIGITS}}}"
_KEY = re.compile(KEY_PATTERN)


def key_of(stage: str, identity: Mapping[str, Any]) -> str:
    """``<stage>-<16 hex digits>`` of the SHA-256 of the canonical JSON of stage and identity.

    Raises:
        TypeError: the identity holds something whose content JSON cannot say (a Path, an object).
        ValueError: the stage's name is not lower-case letters, digits and underscores, or a number
            is not finite.
    """
    if not re.fullmatch(_STAGE, stage):
        raise ValueError(f"stage name {stage!r} is not lower-case letters, digits and underscores")
    text = canonical_json({"stage": stage, "identity": identity})
    return f"{stage}-{hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]}"


def is_key(name: str) -> bool:
    """Whether `key_of` could have made the name, so that what is called so is the store's."""
    return _KEY.fullmatch(name) is not None


def canonical_json(value: Any) -> str:
    """JSON that is the same text for equal values: sorted keys, no spaces, one spelling per number.

    ``1e-4`` and ``0.0001`` are the same, and so are ``1`` and ``1.0``: whether a YAML file writes
    the point must not make a stage run again. A tuple is a list.
    """
    plain = canonical(value)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def canonical(value: Any, where: str = "identity") -> Any:
    """`value` in JSON's own types, numbers normalised; TypeError names the place of what is not."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which has no JSON form")
        return int(value) if value.is_integer() else float(value)
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where} has the key {name!r}, and keys must be strings")
        return {str(name): canonical(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [canonical(item, f"{where}[{i}]") for i, item in enumerate(value)]
    raise TypeError(
        f"{where} is a {type(value).__name__}, and only None, bool, int, float, str, mappings and "
        "lists determine content: put in what identifies it (a hash, a version, a key)"
    )
