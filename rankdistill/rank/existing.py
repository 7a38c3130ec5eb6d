"""A ranked set that exists already, read as the groups that a run can start from, or row by row."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.parallel import in_order
from rankdistill.prompts import per_set, prompt_id, read_rows
from rankdistill.prompts.formats import unread_columns
from rankdistill.prompts.odd_rows import REASONS, OddRow, OddRows
from rankdistill.prompts.similarity import Evaluated
from rankdistill.prompts.splits import SPLITS, Splitter
from rankdistill.rank.formats import prompt_column, ranked_row, with_answers
from rankdistill.rank.ranking import rank_group
from rankdistill.rank.row import RankedRow, Read, RowReader
from rankdistill.rank.write import recorded_tokenizer
from rankdistill.rows import Group, Response
from rankdistill.schema import PromptsConfig, RankConfig
from rankdistill.store import Shards
from rankdistill.store.sequences import selected
from rankdistill.store.written import check_run, is_run_folder
from rankdistill.thoughts import has_no_answer


def read_ranked(
    rank: RankConfig,
    prompts: PromptsConfig,
    tokenizer: Any,
    evaluated: Evaluated | None = None,
    spool: Path | None = None,
) -> tuple[Sequence[Group], dict[str, int]]:
    """The groups of a ranked set, with a `score` in every response, and what became of the rest.

    Formats of rows: `rankdistill.rank.formats`. A folder is what a run wrote as `ranked/`. Prompts
    are measured, split and limited as those of a prompt file are; rows with the same prompt share
    its split. Rows that could teach nothing (a score missing, one distinct response, all scores
    equal) do not count towards a limit.

    Args:
        evaluated: Train and validation prompts that say what it asks are left out (`contaminated`).
        spool: A folder that takes the groups while the set is read, for a set that is larger than
            the memory; what it had is removed. None keeps them in memory.

    Returns:
        The groups, train first, each split in the order of the hash; and the counts `read`,
        `too_long`, what `rank_group` counts, `cut` (responses), what could not be read by its
        reason (`rankdistill.prompts.odd_rows`), and kept by split.

    Raises:
        UserError: no such set, or no row of it left; with `prompts.strict` the first row that
            cannot be read, named by its place.
    """
    reader = _RankedReader(rank, prompts, tokenizer, evaluated)
    drawn: list[Any] = []  # what decides which groups are kept, and their places

    def read() -> Iterator[Group]:
        for group in reader.groups():
            known = {key: group.get(key) for key in ("prompt_id", "split", "set") if key in group}
            drawn.append({**known, "place": len(drawn)})
            yield group

    groups: Sequence[Any]
    if spool is None:
        groups = list(read())
    else:
        on_disk = Shards(spool)
        on_disk.put(read())
        groups = on_disk.rows()
    counts, odd, splitter = reader.counts, reader.odd, reader.splitter
    odd.tell()
    chosen: list[Any] = splitter.ordered(splitter.mixed(drawn, rank.sets))
    kept: Sequence[Group] = selected(groups, [group["place"] for group in chosen])
    if not kept:
        raise UserError(
            odd.nothing_left(counts["read"]) or _nothing_left(rank, prompts, counts + odd.counts)
        )
    for name in ("groups", "ranked", "pairs", "tied_pairs"):  # the rank stage counts those it gets
        counts.pop(name, None)
    counts["cut"] = 0
    for response in (response for group in kept for response in group["responses"]):
        counts["cut"] += response["finish_reason"] == "length"
        if has_no_answer(response["text"]):
            counts["thoughts_without_answer"] += 1
    counts.update(odd.counts)
    counts.update({name: sum(g["split"] == name for g in chosen) for name in SPLITS})
    return kept, counts | per_set(chosen, rank.sets)


class _RankedReader:
    """Makes groups of the rows of some sets, and counts what becomes of the others."""

    def __init__(
        self, rank: RankConfig, prompts: PromptsConfig, tokenizer: Any, evaluated: Evaluated | None
    ) -> None:
        self._rank = rank
        self._names: Counter[str] = Counter()
        self._unpaired: dict[str, RankedRow] = {}
        self.splitter = Splitter(asdict(prompts.splits), asdict(prompts.limit), seed=0)
        self._rows = RowReader(rank, prompts, tokenizer, self.splitter, evaluated)
        self.odd = OddRows(rank.named, prompts.strict)
        self.counts: Counter[str] = Counter(read=0, too_long=0)

    def groups(self) -> Iterator[Group]:
        """In the order of the sets and their rows, those of unpaired responses at the end."""
        sets = self._rank.sets
        placed = (
            (*row, name if len(sets) > 1 else None) for name in sets for row in set_rows(name)
        )
        for read in in_order(self._rows.read, placed):
            yield from self._of(read)
        for row in in_order(self._rows.tokenised, self._unpaired.values()):
            yield from self._grouped(row, row.content)

    def _of(self, read: Read) -> list[Group]:
        """Of the next row: one, or none, which is counted; or it waits for its prompt's others."""
        self.counts["read"] += 1
        self.odd.add_unread(read.unread, read.where)
        row = read.row
        if isinstance(row, OddRow):
            self.odd.add(row)
            return []
        if isinstance(row, UserError):
            raise row
        if isinstance(row, str):
            self.counts[row] += 1
            return []
        if row.unpaired:
            first = self._unpaired.setdefault(row.content, replace(row, given=[]))
            first.given.extend(row.given)
            return []
        self._names[row.name] += 1
        if (number := self._names[row.name]) > 1:  # pairs of the same prompt are rankings
            return self._grouped(row, f"{row.name}-{number}")
        return self._grouped(row, row.name)

    def _grouped(self, row: RankedRow, name: str) -> list[Group]:
        """The row as a group; none where it teaches nothing, or the template refuses an answer."""
        self.counts.update(row.counts)
        if isinstance(row.responses, OddRow):
            self.odd.add(row.responses)
            return []
        assert row.responses is not None
        responses = _drawn(row.responses, self._rank.responses_per_prompt, name)
        group = Group(prompt_id=name, split=row.split, messages=row.messages, responses=responses)
        if row.prompt_tokens is not None:
            group["prompt_tokens"] = row.prompt_tokens
        if row.columns is not None:
            group["columns"] = row.columns
        if row.set is not None:
            group["set"] = row.set
        return [] if rank_group(group, 0.0, self.counts) is None else [group]


def set_rows(path: str) -> Iterator[tuple[str, Mapping[str, Any], str | None]]:
    """The rows of a ranked set: where each stands, the row, and what wrote its token ids.

    Args:
        path: A file, a folder of them, or a data set of the hub.

    Raises:
        UserError: as `read_rows`, or a folder without a file to read.
    """
    folder = Path(path).expanduser()
    for part in parts(folder) if folder.is_dir() else [path]:
        written_by = recorded_tokenizer(Path(part).expanduser())
        for where, row in with_answers(read_rows(str(part))):
            yield where, row, written_by


def parts(folder: Path) -> list[Path]:
    """The files of a ranked set that is a folder. UserError: there are none."""
    found = sorted([*folder.glob("*.parquet"), *folder.glob("*.jsonl"), *folder.glob("*.jsonl.gz")])
    if not found:
        raise UserError(f"rank.path '{folder}' has no .parquet and no .jsonl file.")
    return found


def _drawn(responses: list[Response], most: int | None, identifier: str) -> list[Response]:
    """At most `most` of the responses, drawn by the prompt's id, in their order."""
    if most is None or len(responses) <= most:
        return responses
    chosen = sorted(random.Random(identifier).sample(range(len(responses)), most))
    return [responses[i] for i in chosen]


def _nothing_left(rank: RankConfig, prompts: PromptsConfig, counts: Counter[str]) -> str:
    if not counts["read"]:
        return f"The ranked set '{rank.named}' is empty: write one ranked prompt per line."
    why = {
        "too_long": f"with a prompt of more than {prompts.max_prompt_tokens} tokens "
        "(prompts.max_prompt_tokens)",
        "empty": "without a prompt",
        "score_missing": "with a score that is no number",
        "single": "with fewer than two distinct responses",
        "all_tied": "with equal scores throughout",
        **REASONS,
    }
    found = ", ".join(f"{counts[name]} {words}" for name, words in why.items() if counts[name])
    return (
        f"The ranked set '{rank.named}' has no prompt left to train on; of {counts['read']} rows "
        f"there are {found or 'none within prompts.limit'}."
    )


def load_groups(path: Path) -> Iterator[dict[str, Any]]:
    """The groups of a run's folder, of its `ranked/`, or of a file; each response has a `score`.

    What a row of another format lacks (token ids, for example) is not made up; rows that cannot be
    read stay out, and a line says how many and why.

    Raises:
        UserError: there is no such set, or its run is not finished.
    """
    folder = path.expanduser()
    if not folder.exists():
        raise UserError(f"There is no ranked set '{path}': give a run's folder, or a file.")
    if folder.name == "ranked" and is_run_folder(folder.parent):
        folder = folder.parent
    if folder.is_dir() and (folder / "ranked").is_dir():
        if is_run_folder(folder):
            check_run(folder, "ranked")
        folder = folder / "ranked"
    odd = OddRows(str(path))
    unpaired: dict[str, dict[str, Any]] = {}
    for where, row, _ in set_rows(str(folder)):
        odd.add_unread(unread_columns(row, prompt_column(row, None, None)), where)
        try:
            messages, responses = ranked_row(row, where)
        except OddRow as error:
            odd.add(error)
            continue
        group = {
            **(row if row.get("messages") and row.get("responses") else {}),
            "prompt_id": str(row.get("prompt_id") or prompt_id(messages)),
            "split": row.get("split") or "train",
            "messages": messages,
            "responses": responses,
        }
        if responses[0].pop("unpaired", False):  # the rows of a prompt are one ranking
            of_one = unpaired.setdefault(prompt_id(messages), {**group, "responses": []})
            of_one["responses"] += responses
            continue
        yield group
    yield from unpaired.values()
    odd.tell()
