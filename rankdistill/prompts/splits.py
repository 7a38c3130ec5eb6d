"""Which split a prompt belongs to, drawn from its id alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from rankdistill.errors import UserError, suggest
from rankdistill.fields import Amount
from rankdistill.prompts.turns import filled
from rankdistill.rows import Prompt, Split

SPLITS: tuple[Split, ...] = get_args(Split)
_NAMES: dict[str, Split] = {
    **{name: name for name in SPLITS},
    "training": "train", "val": "validation", "valid": "validation", "dev": "validation",
    "development": "validation", "test": "heldout", "testing": "heldout", "held-out": "heldout",
    "held_out": "heldout", "holdout": "heldout", "eval": "heldout", "evaluation": "heldout",
}  # fmt: skip


def require_splits(counts: Mapping[str, int], source: str, *needed: Split) -> None:
    """UserError unless each needed split has a prompt; `source` is where they come from."""
    for split in needed:
        if not counts.get(split):
            raise UserError(
                f"{source} leaves no prompt for the {split} split: give more rows, or a larger "
                f"prompts.splits.{split} or prompts.limit.{split}."
            )


class Splitter:
    """Draws splits by hash: equal shares, seed and id give the same split in every data set.

    Args:
        shares: Share of each split, not negative, adding up to 1.
        limit: Most prompts of a split; None, or no entry, is all.
        seed: Another seed is another draw.

    Raises:
        UserError: unknown split, or shares or limits out of range.
    """

    def __init__(
        self, shares: Mapping[str, float], limit: Mapping[str, int | None], seed: int
    ) -> None:
        for name in [*shares, *limit]:
            if name not in SPLITS:
                raise UserError(f"There is no split '{name}': {suggest(name, SPLITS)}")
        self._shares: dict[Split, float] = {name: shares.get(name, 0.0) for name in SPLITS}
        total = sum(self._shares.values())
        if min(self._shares.values()) < 0 or abs(total - 1) > 1e-6:
            listed = ", ".join(f"{name} {share:g}" for name, share in self._shares.items())
            raise UserError(
                f"The shares of the splits ({listed}) must be at least 0 and add up to 1."
            )
        for name, most in limit.items():
            if most is not None and most < 0:
                raise UserError(
                    f"The limit of the split '{name}' is {most}: give null or 0 or more."
                )
        self._limit, self._seed = limit, seed

    def split_of(self, prompt_id: str, stated: Any, where: str) -> Split:
        """The split that the data states, else the drawn one."""
        if filled(stated):
            name = str(stated).strip().lower()
            # The hub's sets have several of a kind: train_sft, test_prefs, validation_matched.
            for word in (name, name.partition("_")[0], name.partition("-")[0]):
                if word in _NAMES:
                    return _NAMES[word]
            raise UserError(
                f"The split '{stated}' in {where} is unknown (prompts.split_column=null draws the "
                f"splits instead): {suggest(name, SPLITS)}"
            )
        draw, bound = self._draw(prompt_id), 0.0
        for name, share in self._shares.items():
            bound += share
            if draw < bound:
                return name
        # The shares may add up to a little less than 1.
        return max(SPLITS, key=self._shares.__getitem__)

    def mixed(self, prompts: Iterable[Prompt], sets: Mapping[str, Amount]) -> list[Prompt]:
        """Of each set as much as is asked for, those that the hash draws first.

        Args:
            prompts: With `set`, where there are several sets.
            sets: The name of each set, and how much is taken: a share of each split, or a number of
                train prompts, and of the other splits as large a share.

        Raises:
            UserError: a set has fewer train prompts than are asked for.
        """
        kept: list[Prompt] = []
        by_set: dict[str, list[Prompt]] = {name: [] for name in sets}
        alone = next(iter(sets))
        for prompt in sorted(prompts, key=lambda prompt: self._draw(prompt["prompt_id"])):
            by_set[prompt.get("set", alone)].append(prompt)
        for name, amount in sets.items():
            of_set = by_set[name]
            share = 1.0 if amount is None else amount
            if isinstance(share, int):
                there = sum(prompt["split"] == "train" for prompt in of_set)
                if there < share:
                    raise UserError(
                        f"{share} train prompts of '{name}' are asked for, which has {there}: ask "
                        "for fewer, or give a larger prompts.splits.train."
                    )
                share = share / there
            for split in SPLITS:
                members = [prompt for prompt in of_set if prompt["split"] == split]
                kept += members[: round(share * len(members))]
        return kept

    def ordered(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """By split, then by the draw, and of each split no more than its limit."""
        by_split: dict[Split, list[Prompt]] = {name: [] for name in SPLITS}
        for prompt in sorted(prompts, key=lambda prompt: self._draw(prompt["prompt_id"])):
            by_split[prompt["split"]].append(prompt)
        return [prompt for name in SPLITS for prompt in by_split[name][: self._limit.get(name)]]

    def _draw(self, prompt_id: str) -> float:
        """Uniform in [0, 1)."""
        digest = hashlib.sha256(f"{self._seed} {prompt_id}".encode()).digest()
        # 53 bits, so that no draw is rounded up to 1.
        return (int.from_bytes(digest[:8]) >> 11) / 2**53
