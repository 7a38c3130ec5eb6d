"""A ranked set that exists already, read as the groups that a run can start from, or row by row."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.models import (
    Thoughts,
    decode_response,
    encode_answers,
    encode_prompt,
    encode_response,
    tokenizer_digest,
)
from rankdistill.prompts import encoded_length, kept_columns, per_set, prompt_id, read_rows
from rankdistill.prompts.formats import unread_columns
from rankdistill.prompts.odd_rows import REASONS, OddRow, OddRows
from rankdistill.prompts.similarity import Evaluated
from rankdistill.prompts.splits import SPLITS, Splitter
from rankdistill.rank.formats import prompt_column, ranked_row, with_answers
from rankdistill.rank.preferences import columns_of
from rankdistill.rank.ranking import distinct, rank_group
from rankdistill.rank.write import recorded_tokenizer
from rankdistill.rows import Group, Message, Response, Split
from rankdistill.schema import PromptsConfig, RankConfig
from rankdistill.store import Shards
from rankdistill.store.sequences import selected
from rankdistill.store.written import check_run, is_run_folder
from rankdistill.thoughts import has_no_answer, has_thoughts


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
        for group in _all_groups(reader, rank.sets):
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


def _all_groups(reader: _RankedReader, sets: Collection[str]) -> Iterator[Group]:
    """The groups in the order of the sets, those of unpaired responses at the end."""
    for name in sets:
        for row in set_rows(name):
            yield from reader.groups(*row, name if len(sets) > 1 else None)
    yield from reader.unpaired()


class _RankedReader:
    """Makes groups of a set's rows, one after the other, and counts what becomes of the rest."""

    def __init__(
        self, rank: RankConfig, prompts: PromptsConfig, tokenizer: Any, evaluated: Evaluated | None
    ) -> None:
        self._rank, self._prompts, self._tokenizer = rank, prompts, tokenizer
        self._evaluated = evaluated
        self._tokenizer_digest = tokenizer_digest(tokenizer)
        self._columns = columns_of(rank.columns)
        self._names: Counter[str] = Counter()
        self._unpaired: dict[str, _Row] = {}
        self.splitter = Splitter(asdict(prompts.splits), asdict(prompts.limit), seed=0)
        self.odd = OddRows(rank.named, prompts.strict)
        self.counts: Counter[str] = Counter(read=0, too_long=0)

    def groups(
        self, where: str, row: Mapping[str, Any], written_by: str | None, of: str | None
    ) -> list[Group]:
        """Of the next row: one, or none, which is counted; or it waits for its prompt's others."""
        self.counts["read"] += 1
        try:
            read = self._read(where, row, written_by, of)
        except OddRow as error:
            self.odd.add(error)
            return []
        if read is None:
            return []
        if read.responses[0].get("unpaired"):
            first = self._unpaired.setdefault(read.content, replace(read, responses=[]))
            first.responses.extend(read.responses)
            return []
        name = str(row.get("prompt_id") or read.content)
        self._names[name] += 1
        if self._names[name] > 1:  # pairs of the same prompt are rankings of their own
            name = f"{name}-{self._names[name]}"
        return self._grouped(read, name)

    def unpaired(self) -> list[Group]:
        """The groups of rows that have one response each, after the last row."""
        return [group for name, row in self._unpaired.items() for group in self._grouped(row, name)]

    def _read(
        self, where: str, row: Mapping[str, Any], written_by: str | None, of: str | None
    ) -> _Row | None:
        """The row's parts; None where its prompt stays out, which is counted."""
        rank, prompts = self._rank, self._prompts
        asked = prompt_column(row, prompts.column, self._columns)
        self.odd.add_unread(unread_columns(row, asked), where)
        messages, given = ranked_row(
            row, where, column=prompts.column, score=rank.score_column, columns=self._columns
        )
        length = encoded_length(self._tokenizer, messages, where) if messages else 0
        if not messages or length > prompts.max_prompt_tokens:
            self.counts["too_long" if messages else "empty"] += 1
            return None
        # By what it says, whatever it is called: equal prompts share a split.
        content = prompt_id(messages)
        stated = row.get(prompts.split_column) if prompts.split_column else None
        beside = kept_columns(row, prompts.keep, where) if prompts.keep else None
        split = self.splitter.split_of(content, stated, where)
        if self._evaluated and split != "heldout" and self._evaluated.has_part_of(messages):
            self.counts["contaminated"] += 1
            return None
        behind = row.get("prompt_tokens")
        behind = behind if isinstance(behind, int) and behind > 0 else None
        same = None if written_by is None else written_by == self._tokenizer_digest
        return _Row(content, split, messages, given, beside, behind, same, of)

    def _grouped(self, row: _Row, name: str) -> list[Group]:
        """The row as a group; none where it teaches nothing, or the template refuses an answer."""
        try:
            group = row.group(name, self._tokenizer, self._rank, self.counts)
        except UserError as error:
            self.odd.add(OddRow("refused_by_template", str(error)))
            return []
        return [] if group is None else [group]


@dataclass(frozen=True)
class _Row:
    """A row that was read, its responses not yet in tokens."""

    content: str
    """The `prompt_id` of its messages."""
    split: Split
    messages: list[Message]
    responses: list[dict[str, Any]]
    columns: str | None
    prompt_tokens: int | None
    """As in `Group`, where the row brings it."""
    same_tokenizer: bool | None
    """Whether this tokenizer wrote the ids that the row brings; None where nothing records it."""
    set: str | None
    """As in `Group`."""

    def group(
        self, name: str, tokenizer: Any, rank: RankConfig, counts: Counter[str]
    ) -> Group | None:
        """The row as a group called `name`; None where it teaches nothing, which is counted."""
        prompt, ids = self._token_ids(tokenizer, counts)
        responses = [
            _response(r, i, tokenizer, rank.max_response_tokens)
            for r, i in zip(self.responses, ids, strict=True)
        ]
        thought = [has_thoughts(given["text"]) for given in self.responses]
        if any(thought):
            thoughts, asked = Thoughts.of(tokenizer), encode_prompt(tokenizer, self.messages)
            responses = [
                thoughts.apart(asked[:prompt], response) if apart else response
                for response, apart in zip(responses, thought, strict=True)
            ]
        responses = _drawn(distinct(responses), rank.responses_per_prompt, name)
        group = Group(prompt_id=name, split=self.split, messages=self.messages, responses=responses)
        if prompt is not None:
            group["prompt_tokens"] = prompt
        if self.columns is not None:
            group["columns"] = self.columns
        if self.set is not None:
            group["set"] = self.set
        return group if rank_group(group, 0.0, counts) is not None else None

    def _token_ids(
        self, tokenizer: Any, counts: Counter[str]
    ) -> tuple[int | None, list[list[int]]]:
        """How many of the prompt's tokens the responses stand behind (None: all), and their ids.

        Ids that the row brings are kept where this tokenizer wrote them: where that is recorded, or
        where they decode to the text and nothing is. Others are counted as `retokenised`.
        """
        own = [own_ids(response, tokenizer, self.same_tokenizer) for response in self.responses]
        texts = [r["text"] for r, ids in zip(self.responses, own, strict=True) if ids is None]
        if not texts:  # as they were written, behind as much of the prompt as then
            return self.prompt_tokens, [ids for ids in own if ids is not None]
        brought = sum(bool(response.get("token_ids")) for response in self.responses)
        counts["retokenised"] += brought - sum(ids is not None for ids in own)
        whole = len(encode_prompt(tokenizer, self.messages))
        prompt, answers = encode_answers(tokenizer, self.messages, texts)
        if len(prompt) < whole and len(texts) < len(own):
            # Some stand behind the whole prompt, so all have to.
            prompt, answers = [0] * whole, [encode_response(tokenizer, text) for text in texts]
        written = iter(answers)
        ids = [
            ids if ids is not None else ended(response, next(written))
            for response, ids in zip(self.responses, own, strict=True)
        ]
        return None if len(prompt) == whole else len(prompt), ids


def ended(response: Mapping[str, Any], token_ids: list[int]) -> list[int]:
    """Without EOS where the response was cut when it was sampled: it must not teach an end."""
    cut = response.get("finish_reason") == "length" and len(token_ids) > 1
    return token_ids[:-1] if cut else token_ids


def own_ids(
    response: Mapping[str, Any], tokenizer: Any, same_tokenizer: bool | None
) -> list[int] | None:
    """The ids that a response brings, where this tokenizer wrote them.

    Args:
        same_tokenizer: Whether it did; None, where nothing records it: as the text says.
    """
    ids = response.get("token_ids")
    if same_tokenizer is False or not isinstance(ids, list | tuple) or not ids:
        return None
    if same_tokenizer:
        return list(ids)
    if not all(isinstance(i, int) and 0 <= i < len(tokenizer) for i in ids):
        return None
    return list(ids) if decode_response(tokenizer, ids) == response["text"] else None


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


def _response(
    given: Mapping[str, Any], token_ids: list[int], tokenizer: Any, most: int | None
) -> Response:
    """A response in tokens, cut to `most` of them; one that is cut has no EOS."""
    score = given["score"]
    whole = given.get("whole_tokens") or len(token_ids)
    response = Response(
        text=given["text"],
        token_ids=token_ids,
        finish_reason=given.get("finish_reason") or "stop",
        source=given["source"],
        whole_tokens=whole,
        scores=dict(given.get("scores") or {"imported": score}),
        score=score,
    )
    if most is None or len(token_ids) <= most:
        return response
    cut = token_ids[:most]
    return {
        **response,
        "text": decode_response(tokenizer, cut),
        "token_ids": cut,
        "finish_reason": "length",
    }


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
