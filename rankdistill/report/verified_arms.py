"""The arms of a verified run, in the order and with the titles that tables and pictures share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, Any]
MODELS = ("start", "warmed_up", "trained", "teacher")
"""Each with its ways to answer below it; the same-entropy control is one of the second."""


@dataclass(frozen=True)
class Arm:
    """A model with a way to have it answer."""

    name: str
    """Key in the block's `arms`."""
    model: str
    """Key in `models`, for its colour."""
    title: str
    """`greedy`, `best of 4`; the model's own heading where it is sampled as usual."""
    under: str = ""
    """The model's heading; empty where it is the title."""
    best_of: int | None = None
    """Of how many answers the best is taken."""


def arms_of(metrics: Metrics) -> list[Arm]:
    """All arms that were measured: each model, then what was done with it."""
    block = metrics["verified"]
    known = block["arms"]
    found = [arm for model in MODELS for arm in _of_model(model, block) if arm.name in known]
    taken = {arm.name for arm in found}
    return found + [Arm(name, name, known[name]["label"]) for name in known if name not in taken]


def unit(block: Metrics, count: int | None = None) -> str:
    """`150 base prompts`: what intervals resample; prompts where they were made of no others."""
    count = block["clusters"] if count is None else count
    made = any(arm["own_minus_opposite"]["trained"] for arm in block["arms"].values())
    word = "base prompt" if made else "held-out prompt"
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def fewer_prompts(block: Metrics) -> int | None:
    """How many prompts the best of n was sampled for, where that is not all of them."""
    arms = block["arms"]
    few = min((arm["prompts"] for name, arm in arms.items() if "_best_of_" in name), default=None)
    return few if few != max(arm["prompts"] for arm in arms.values()) else None


def _of_model(model: str, block: Metrics) -> Iterator[Arm]:
    known = block["arms"]
    if model not in known:
        return
    label = known[model]["label"]
    yield Arm(model, model, label)
    if model == "warmed_up" and "sharpened" in known:
        # Its label is the model's with the temperature behind it.
        temperature = known["sharpened"]["label"].rpartition(", ")[2]
        yield Arm("sharpened", "sharpened", f"same entropy, {temperature}", label)
    yield Arm(f"{model}_greedy", model, "greedy", label)
    way = (block["prompting"] or {}).get("chosen", "")
    yield Arm(f"{model}_prompted", model, f"better prompt: {way}", label)
    start = f"{model}_best_of_"
    for n in sorted(int(name.removeprefix(start)) for name in known if name.startswith(start)):
        yield Arm(f"{start}{n}", model, f"best of {n}", label, n)
