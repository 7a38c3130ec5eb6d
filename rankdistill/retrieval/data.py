"""Passages to search, and queries: the standard library's docstrings, or files of one's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from rankdistill.errors import UserError
from rankdistill.prompts import read_rows
from rankdistill.retrieval.docstrings import known_items
from rankdistill.schema import RetrievalConfig

DOCSTRINGS = "docstrings"


@dataclass(frozen=True)
class Query:
    """What somebody searches for."""

    text: str
    relevant: list[str]
    """Ids of the passages that answer it; empty: nobody has said."""
    split: str | None
    """As the file states it."""
    where: str


@dataclass(frozen=True)
class Collection:
    """A corpus and its queries."""

    passages: dict[str, str]
    """Texts by id."""
    queries: list[Query]

    @property
    def digest(self) -> str:
        """SHA-256 of all of it but where it was read, which is there for messages."""
        content = [self.passages, [asdict(replace(query, where="")) for query in self.queries]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def judged(self) -> bool:
        """Whether it is known which passages answer the queries."""
        return any(query.relevant for query in self.queries)


def read_collection(settings: RetrievalConfig) -> Collection:
    """The collection that `retrieval.corpus` and `retrieval.queries` name.

    Raises:
        UserError: no such file, a row without a text, an id that is there twice, or a relevant id
            that no passage has.
    """
    if settings.corpus == DOCSTRINGS:
        items = known_items()
        queries = [Query(query, [name], None, name) for name, query, _ in items]
        return Collection({name: passage for name, _, passage in items}, queries)
    if settings.queries is None:
        raise UserError(
            f"retrieval.corpus is {settings.corpus}, and there is nothing to search it for: give "
            "retrieval.queries, a file with `text` in every row."
        )
    passages: dict[str, str] = {}
    for where, name, row in _rows(settings.corpus):
        if name in passages:
            raise UserError(f"The id '{name}' in {where} is another passage's: ids are unique.")
        passages[name] = row["text"]
    queries = []
    for where, _, row in _rows(settings.queries):
        relevant = [str(name) for name in row.get("relevant") or []]
        if unknown := next((name for name in relevant if name not in passages), None):
            raise UserError(
                f"'{unknown}', relevant in {where}, is no id of retrieval.corpus {settings.corpus}."
            )
        queries.append(Query(row["text"], relevant, row.get("split"), where))
    if len(passages) < 2:
        raise UserError(f"retrieval.corpus {settings.corpus} has fewer than two passages.")
    return Collection(passages, queries)


def _rows(path: str) -> Iterator[tuple[str, str, dict]]:
    """Place, id (without one, the place) and row."""
    for where, row in read_rows(path):
        if not str(row.get("text") or "").strip():
            raise UserError(f"There is no `text` in {where}: a row is an `id` and a `text`.")
        yield where, str(row.get("id") or where), dict(row)
