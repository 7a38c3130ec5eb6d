"""The first stage of a search: passages in the order of a cheap score.

Passages and queries are the standard library's docstrings, a folder of Markdown files, or files of
one's own.
"""

from __future__ import annotations

import ast
import hashlib
import json
import logging
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rankdistill.errors import UserError
from rankdistill.models import decode_response, device, encode_response, identity, locate
from rankdistill.models.load import from_pretrained, refusal
from rankdistill.prompts import read_rows
from rankdistill.retrieval.markdown import known_sections
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
    group: str | None = None
    """Queries with the same one are in the same split; None: each is drawn by itself."""


@dataclass(frozen=True)
class Collection:
    """A corpus and its queries."""

    passages: dict[str, str]
    """Texts by id."""
    queries: list[Query]

    @property
    def digest(self) -> str:
        """SHA-256 of all of it but where it was read, which is there for messages."""
        queries = [asdict(replace(query, where="")) for query in self.queries]
        for query in queries:
            if query["group"] is None:
                del query["group"]
        content = [self.passages, queries]
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
    folder = Path(settings.corpus).expanduser()
    passages, sections = known_sections(folder) if folder.is_dir() else (_passages(settings), [])
    if len(passages) < 2:
        raise UserError(
            f"retrieval.corpus {settings.corpus} has fewer than two passages"
            f"{' in files that end in .md' if folder.is_dir() else ''}."
        )
    if settings.queries is not None:
        return Collection(passages, _queries(settings, passages))
    if not sections:
        raise UserError(
            f"retrieval.corpus is {settings.corpus}, and there is nothing to search it for: give "
            "retrieval.queries, a file with `text` in every row."
        )
    by_file = len({file for _, _, file in sections}) >= LEAST_FILES
    return Collection(
        passages,
        [
            Query(heading, relevant, None, file, file if by_file else None)
            for heading, relevant, file in sections
        ],
    )


LEAST_FILES = 10
"""With fewer of them a split by files would have hardly any in the smaller splits."""


def _passages(settings: RetrievalConfig) -> dict[str, str]:
    passages: dict[str, str] = {}
    for where, name, row in _rows(settings.corpus):
        if name in passages:
            raise UserError(f"The id '{name}' in {where} is another passage's: ids are unique.")
        passages[name] = row["text"]
    return passages


def _queries(settings: RetrievalConfig, passages: Mapping[str, str]) -> list[Query]:
    queries = []
    for where, _, row in _rows(str(settings.queries)):
        relevant = [str(name) for name in row.get("relevant") or []]
        if unknown := next((name for name in relevant if name not in passages), None):
            raise UserError(
                f"'{unknown}', relevant in {where}, is no id of retrieval.corpus {settings.corpus}."
            )
        queries.append(Query(row["text"], relevant, row.get("split"), where))
    return queries


def _rows(path: str) -> Iterator[tuple[str, str, dict]]:
    """Place, id (without one, the place) and row."""
    for where, row in read_rows(path):
        if not str(row.get("text") or "").strip():
            raise UserError(f"There is no `text` in {where}: a row is an `id` and a `text`.")
        yield where, str(row.get("id") or where), dict(row)


WITHOUT = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "site-packages", "__pycache__"}
"""Folders that are no library, or not there in every installation."""

LEAST_WORDS = 4
"""Of a summary line; and three times as many of what follows it."""


def known_items(library: Path | None = None) -> list[tuple[str, str, str]]:
    """(name, query, passage) of every docstring whose summary line no other one has.

    It is known-item search in a small real corpus. A query is the summary line of a docstring; its
    one relevant passage is the same docstring without that line, under its signature. What else may
    answer a query does not count.

    Sources are parsed, never imported. What is found depends on the version of Python.

    Args:
        library: A folder with modules; None is the standard library.
    """
    root = library or Path(sysconfig.get_paths()["stdlib"])
    items = []
    for file in _sources(root):
        module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        items += _documented(ast.parse(file.read_bytes()), module)
    summaries = Counter(query.lower() for _, query, _ in items)
    return [item for item in items if summaries[item[1].lower()] == 1]


def _sources(root: Path) -> Iterator[Path]:
    for folder, inside, files in os.walk(root):
        inside[:] = sorted(set(inside) - WITHOUT)
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str, str]]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        inner = f"{name}.{child.name}"
        summary, _, body = (ast.get_docstring(child) or "").partition("\n\n")
        query, passage = " ".join(summary.split()), " ".join(body.split())
        words = len(query.split())
        if words >= LEAST_WORDS and len(passage.split()) >= 3 * LEAST_WORDS:
            yield inner, query, f"{inner}{_arguments(child)}\n{passage}"
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, inner)


def _arguments(node: ast.AST) -> str:
    return "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"  # type: ignore[attr-defined]


BATCH = 32
"""Passages that are encoded at once."""


class Retriever(Protocol):
    """Looks passages up."""

    @property
    def label(self) -> str:
        """Its heading in the report."""
        ...

    def top(self, query: str, count: int) -> list[int]:
        """Places of the `count` best passages, the best first; fewer if there are fewer."""
        ...


class BiEncoder:
    """Cosine of embeddings, each the mean of a text's last hidden states: sentence-BERT (Reimers
    and Gurevych 2019, arXiv:1908.10084). Texts are cut at the encoder's longest input.

    Args:
        path: What `locate` takes.

    Raises:
        UserError: no such model, or none that transformers can encode with.
    """

    label = "bi-encoder"

    def __init__(self, path: str, passages: Sequence[str]) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder, what = locate(path), f"retrieval.encoder '{path}' cannot be loaded"
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        except Exception as error:
            raise refusal(path, what, error) from error
        # A pooler sees the last hidden states; the mean of these is taken here.
        model = from_pretrained(AutoModel, path, what, new=r"(.*\.)?pooler\.")
        self._model: Any = model.eval().to(device())
        self._longest = int(getattr(self._model.config, "max_position_embeddings", 512))
        by_length = sorted(range(len(passages)), key=lambda i: len(passages[i]))
        rows: dict[int, Tensor] = {}
        for start in range(0, len(by_length), BATCH):
            part = by_length[start : start + BATCH]
            rows |= dict(zip(part, self.encode([passages[i] for i in part]), strict=True))
        self._passages = torch.stack([rows[i] for i in range(len(passages))])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """[N, D] of length 1."""
        batch = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._longest,
            return_tensors="pt",
        ).to(self._model.device)  # fmt: skip
        hidden = self._model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return torch.nn.functional.normalize(mean, dim=-1)

    def top(self, query: str, count: int) -> list[int]:
        """See `Retriever`."""
        similarity = self._passages @ self.encode([query])[0]
        return similarity.topk(min(count, len(similarity))).indices.tolist()


class BM25:
    """Words in common (Robertson and Zaragoza 2009), by the package bm25s, with its defaults.

    Raises:
        UserError: the package is not installed.
    """

    label = "BM25"

    def __init__(self, passages: Sequence[str]) -> None:
        self._bm25s = require_bm25s()
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._index = self._bm25s.BM25()
        self._count = len(passages)
        self._index.index(self._tokens(passages), show_progress=False)

    def top(self, query: str, count: int) -> list[int]:
        """See `Retriever`."""
        found = self._index.retrieve(
            self._tokens([query]), k=min(count, self._count), show_progress=False
        )
        return found.documents[0].tolist()

    def _tokens(self, texts: Sequence[str]) -> Any:
        return self._bm25s.tokenize(list(texts), return_ids=False, show_progress=False)


def require_bm25s() -> Any:
    """The package. UserError: it is not installed."""
    try:
        import bm25s
    except ImportError as error:
        raise UserError(
            "retrieval.encoder is null, and BM25 needs a package: `pip install "
            "'rankdistill[retrieval]'`, or name an encoder."
        ) from error
    return bm25s


def cut_passage(tokenizer: Any, text: str, most: int) -> tuple[str, list[int]]:
    """A passage as a re-ranker reads it, and its tokens, EOS among them: at most `most`."""
    token_ids = encode_response(tokenizer, text)
    if len(token_ids) > most:
        text = decode_response(tokenizer, token_ids[: most - 1])
        token_ids = encode_response(tokenizer, text)
    return text, token_ids


def open_retriever(encoder: str | None, passages: Sequence[str]) -> Retriever:
    """The bi-encoder, or BM25 where there is none."""
    return BM25(passages) if encoder is None else BiEncoder(encoder, passages)


def retriever_identity(encoder: str | None) -> dict[str, Any]:
    """What determines an order besides the texts. UserError: there is no such encoder."""
    return {"retriever": "bm25"} if encoder is None else dict(identity(encoder))
