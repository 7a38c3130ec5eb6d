"""What a person has ranked of a set: kept line by line, and written as one more scorer."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rankdistill.errors import UserError
from rankdistill.rank.existing import load_groups, parts
from rankdistill.rank.write import recorded_tokenizer, write_table
from rankdistill.report import tell_moved
from rankdistill.store.faults import writing
from rankdistill.store.files import append_line
from rankdistill.store.written import move_aside

SCORER = "human"


class Review:
    """A ranked set, and the ranks that a person gave.

    Each saved ranking is a line of `<set>.review.jsonl` before `save` returns; a later line for the
    same prompt takes its place. A line says whether the scorers' votes had been shown by then: what
    they say is told after saving, unless it is asked for. `write` makes `<set>-reviewed/`, the same
    groups with the value `human`, which is minus the rank, so that it is one more scorer.

    Args:
        path: A run's folder, its `ranked/`, or a file.

    Raises:
        UserError: there is no such set, or it is empty.
    """

    def __init__(self, path: Path) -> None:
        self.groups: list[dict[str, Any]] = list(load_groups(path))
        if not self.groups:
            raise UserError(f"The ranked set '{path}' is empty: there is nothing to review.")
        folder = path.expanduser().absolute()
        if (folder / "ranked").is_dir():
            folder = folder / "ranked"
        files = parts(folder) if folder.is_dir() else [folder]
        digests = {recorded_tokenizer(file) for file in files}
        # What wrote the token ids; sets of several, or of none that is known, record none.
        self._tokenizer = digests.pop() if len(digests) == 1 else None
        self.title = str(path)
        stem = folder.name.removesuffix(".gz").removesuffix(folder.suffix)
        self.journal = folder.with_name(f"{stem}.review.jsonl")
        self.written_to = folder.with_name(f"{stem}-reviewed")
        self.ranks: dict[int, list[int]] = {}
        self.informed: set[int] = set()
        """Groups that were ranked last after their votes had been shown."""
        self._told: set[int] = set()
        """Groups whose votes were shown."""
        self._read()

    def save(self, number: int, ranks: Sequence[int]) -> None:
        """Keep the ranks of a group's responses, in the set's order; 0 is best, ties share one.

        Raises:
            ValueError: not one rank per response, or not whole numbers from 0.
            UserError: the journal cannot be written.
        """
        group = self.groups[number]
        if not _is_ranking(ranks, group):
            raise ValueError("give one rank, 0 or more, to each response")
        dense = sorted(set(ranks))
        given = [dense.index(rank) for rank in ranks]
        line = {
            "prompt_id": group["prompt_id"],
            "texts": _digest(group),
            "ranks": given,
            "votes_shown": number in self._told,
        }
        with writing(self.journal, "make its folder writable or make space, and save again"):
            append_line(self.journal, json.dumps(line))
        self._keep(number, line)

    def write(self) -> Path:
        """The set with the human ranks as a scorer; groups that nobody ranked have none.

        A person's file in the place of one of its own is moved aside, with a line.

        Raises:
            UserError: it cannot be written; the journal has the ranks.
        """
        rows = []
        for number, group in enumerate(self.groups):
            ranks = self.ranks.get(number)
            responses = [
                {
                    **response,
                    "scores": {
                        **(response.get("scores") or {}),
                        SCORER: float(-ranks[place]) if ranks else math.nan,
                    },
                }
                for place, response in enumerate(group["responses"])
            ]
            rows.append({**group, "responses": responses})
        remedy = f"make space or its folder writable, and write it again: {self.journal} has all"
        with writing(self.written_to, remedy):
            places = {self.written_to / f"{row['split']}.parquet" for row in rows}
            others = [file for file in places if file.exists() and not _has_human_ranks(file)]
            tell_moved([(file, move_aside(file)) for file in sorted(others)])
            write_table(rows, self.written_to, self._tokenizer)
        return self.written_to

    def shown(self, number: int, *, votes: bool = False) -> dict[str, Any]:
        """A group as the page needs it. `order`: places in the order to show them first.

        What nobody has ranked is shuffled, the same way each time, so that its order says nothing,
        and says nothing of scores, sources and votes.

        Args:
            votes: Show them all the same; a ranking that is saved later says so.
        """
        group, ranks = self.groups[number], self.ranks.get(number)
        told = votes or ranks is not None
        if told:
            self._told.add(number)
        places = list(range(len(group["responses"])))
        if ranks is None:
            random.Random(group["prompt_id"]).shuffle(places)
        else:
            places.sort(key=lambda place: ranks[place])
        return {
            "prompt_id": group["prompt_id"],
            "messages": group["messages"],
            "responses": [_shown(response, told) for response in group["responses"]],
            "duels": _duels(group) if told else {},
            "votes": told,
            "informed": number in self.informed,
            "ranks": ranks,
            "order": places,
        }

    def _keep(self, number: int, line: Mapping[str, Any]) -> None:
        self.ranks[number] = line["ranks"]
        # Before there was a word of it, votes were shown unless they were hidden.
        (self.informed.add if line.get("votes_shown", True) else self.informed.discard)(number)

    def _read(self) -> None:
        """The journal's ranks of groups that are still the same; a line that is none, as a crash
        leaves it, is left out."""
        if not self.journal.is_file():
            return
        places = {(g["prompt_id"], _digest(g)): n for n, g in enumerate(self.groups)}
        for line in self.journal.read_bytes().splitlines():
            try:
                row = json.loads(line)
                number = places.get((row["prompt_id"], row["texts"]))
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            if number is not None and _is_ranking(row.get("ranks"), self.groups[number]):
                self._keep(number, row)


def _is_ranking(ranks: Any, group: Mapping[str, Any]) -> bool:
    """Whether it has one rank, 0 or more, for each of a group's responses."""
    return (
        isinstance(ranks, list | tuple)
        and len(ranks) == len(group["responses"])
        and all(type(rank) is int and rank >= 0 for rank in ranks)
    )


def _has_human_ranks(file: Path) -> bool:
    """Whether it is a set as `Review.write` writes it."""
    try:
        response = pq.read_schema(file).field("responses").type.value_type
        return response.field("scores").type.get_field_index(SCORER) >= 0
    except (OSError, KeyError, AttributeError, pa.ArrowException):
        return False


def _digest(group: Mapping[str, Any]) -> str:
    texts = json.dumps([response["text"] for response in group["responses"]])
    return hashlib.sha256(texts.encode()).hexdigest()[:16]


def _shown(response: Mapping[str, Any], told: bool) -> dict[str, Any]:
    if not told:
        return {"text": response["text"]}
    scores = {name: _finite(value) for name, value in (response.get("scores") or {}).items()}
    return {
        "text": response["text"],
        "source": response.get("source") or "",
        "cut": response.get("finish_reason") == "length",
        "rank": response.get("rank"),
        "scores": {name: value for name, value in scores.items() if value is not None},
    }


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _duels(group: Mapping[str, Any]) -> dict[str, list[list[float]]]:
    """`scorer -> [i][j]`: how often its ballots put response i before j, a tie half each."""
    count = len(group["responses"])
    found: dict[str, list[list[float]]] = {}
    for ballot in group.get("ballots") or []:
        wins = found.setdefault(ballot["scorer"], [[0.0] * count for _ in range(count)])
        places = list(zip(ballot["shown"], ballot["ranks"], strict=True))
        for i, a in places:
            for j, b in places:
                if i != j:
                    wins[i][j] += 1.0 if a < b else 0.5 if a == b else 0.0
    return found
