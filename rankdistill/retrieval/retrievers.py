"""The first stage of a search: passages in the order of a cheap score."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rankdistill.errors import UserError
from rankdistill.models import device, identity, locate
from rankdistill.models.load import from_pretrained, refusal

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


def open_retriever(encoder: str | None, passages: Sequence[str]) -> Retriever:
    """The bi-encoder, or BM25 where there is none."""
    return BM25(passages) if encoder is None else BiEncoder(encoder, passages)


def retriever_identity(encoder: str | None) -> dict[str, Any]:
    """What determines an order besides the texts. UserError: there is no such encoder."""
    return {"retriever": "bm25"} if encoder is None else dict(identity(encoder))
