"""The two stages of a search: what a retriever finds, in the order of a run's re-ranker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankdistill.errors import UserError
from rankdistill.forward import TokenGroup, bind
from rankdistill.models import device, encode_prompt, load_tokenizer
from rankdistill.retrieval.search import Retriever, cut_passage, open_retriever, read_collection
from rankdistill.schema import RetrievalConfig
from rankdistill.stages.composed import read_config
from rankdistill.store.written import check_run
from rankdistill.train.reward.model import load_reward_model, rewards

REWARD_MODEL = "reward_model"


@dataclass(frozen=True)
class RerankedSearch:
    """A corpus, its retriever and the re-ranker that a run has trained."""

    settings: RetrievalConfig
    passages: dict[str, str]
    """Texts by id."""
    retriever: Retriever
    model: Any
    """The re-ranker, bound."""
    tokenizer: Any

    @classmethod
    def open(cls, run: Path) -> RerankedSearch:
        """Of a run folder; reads the corpus that its configuration names again.

        Raises:
            UserError: the run is not finished or no search, or its corpus is not there.
        """
        check_run(run, REWARD_MODEL)
        config = read_config(run, "student", "train")
        if not config.get("retrieval"):
            raise UserError(f"'{run}' is no run of recipe=reranker: it has no corpus to search.")
        settings = RetrievalConfig(**config["retrieval"])
        passages = read_collection(settings).passages
        folder, student = str(run / REWARD_MODEL), config["student"]
        model: Any = load_reward_model(folder, trust_remote_code=student["trust_remote_code"])
        return cls(
            settings,
            passages,
            open_retriever(settings.encoder, list(passages.values())),
            bind(model.to(device()), config["train"]["layout"]),
            load_tokenizer(folder),
        )

    def orders(self, query: str) -> tuple[list[str], list[str]]:
        """Ids of what is found for a query, the best first: as the retriever and as the re-ranker
        order them."""
        names = list(self.passages)
        found = [names[i] for i in self.retriever.top(query, self.settings.passages)]
        scores = self.scores(query, found)
        return found, [found[i] for i in sorted(range(len(found)), key=lambda i: -scores[i])]

    def scores(self, query: str, names: Sequence[str]) -> list[float]:
        """The re-ranker's rewards of the passages with these ids."""
        prompt = encode_prompt(self.tokenizer, [{"role": "user", "content": query}])
        most = self.settings.max_passage_tokens
        texts = [cut_passage(self.tokenizer, self.passages[name], most)[1] for name in names]
        return rewards(self.model, [TokenGroup(prompt, texts)])[0]

    def told(self, query: str, count: int, width: int) -> Iterator[str]:
        """Both orders as lines of at most `width`."""
        before, after = self.orders(query)
        yield query
        for title, order in ((self.retriever.label, before), ("re-ranker", after)):
            yield f"  {title}"
            for place, name in enumerate(order[:count], 1):
                was = f"was {before.index(name) + 1:2}  " if order is after else ""
                text = " ".join(self.passages[name].split())
                yield f"  {place:3}  {was}{name}  {text}"[:width]
        yield ""
