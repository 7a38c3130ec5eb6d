"""Which teacher orders what a search finds better than the search: writes Markdown tables.

python docs/figures/search_teachers.py MANUALS CACHE

MANUALS is made by manuals.py. Two kinds of queries that no model wrote, each taken out of its
passage: headings of manuals, and first sentences of docstrings of installed packages. A prompt and
the weights of a sum are chosen on other packages than those that the tables are of. CACHE keeps the
language model's scores: an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import sysconfig
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rankdistill.forward import TokenGroup, bind
from rankdistill.models import encode_prompt, load_model, load_tokenizer, locate
from rankdistill.retrieval.markdown import known_sections
from rankdistill.retrieval.search import BM25, BiEncoder, known_items
from rankdistill.score.likelihood import Reader
from rankdistill.stages.reranker import ndcg, reciprocal_rank
from rankdistill.statistics import bootstrap, paired_difference

MODEL, ENCODER = "bundled/smollm2-135m-instruct", "bundled/all-minilm-l6-v2"
MOST_TOKENS = 64
"""Of a passage that the language model reads."""
PASSAGES_AT_ONCE = 8
CHAT = "chat: "
PROMPTS = {
    "search query": CHAT + "Passage: {passage}\n\nWrite a search query that this passage answers.",
    "plain": "{passage}\n\nThis text answers the question:",
}


@dataclass(frozen=True)
class Search:
    """Queries, what was found for each, and what is relevant."""

    name: str
    passages: dict[str, str]
    queries: list[tuple[str, list[str], str]]
    """(text, relevant ids, package or file)."""
    found: list[dict[str, tuple[float, float]]]
    """By id the scores of BM25 and the bi-encoder, of the union of their first ones."""

    def only(self, places: Sequence[int]) -> Search:
        """With the queries at these places alone."""
        queries, found = [self.queries[i] for i in places], [self.found[i] for i in places]
        return replace(self, queries=queries, found=found)


Items = tuple[dict[str, str], list[tuple[str, list[str], str]]]


def headings(folder: Path, names: Sequence[str], most: int, asked: int) -> Items:
    """Passages of the pages that `names` match, and headings of them."""
    passages, queries = known_sections(folder)
    pages = [key for key in passages if any(name in key for name in names)][:most]
    queries = [query for query in queries if set(query[1]) <= set(pages)]
    return {key: passages[key] for key in pages}, _drawn(queries, asked)


def sentences(packages: Sequence[str], most: int, asked: int) -> Items:
    """Docstrings of installed packages without their first sentence, and these sentences."""
    passages, queries = {}, []
    for package in packages:
        items = known_items(Path(sysconfig.get_paths()["purelib"]) / package)
        for name, query, passage in _drawn(items, most):
            key = f"{package}.{name}"
            passages[key] = passage
            queries.append((query, [key], package))
    return passages, _drawn(queries, asked)


def searched(name: str, items: Items, depth: int, kept: Path) -> Search:
    """The first `depth` of each retriever, with the scores of both."""
    passages, queries = items
    file = kept / f"{name}-{_digest([passages, queries, depth])}.json"
    if file.exists():
        return Search(name, passages, queries, json.loads(file.read_text()))
    names, texts = list(passages), list(passages.values())
    bm25, encoder = BM25(texts), BiEncoder(ENCODER, texts)
    found = []
    for text, _, _ in queries:
        words = bm25._index.get_scores(bm25._tokens([text])[0])
        cosine = (encoder._passages @ encoder.encode([text])[0]).numpy()
        union = {int(i) for scores in (words, cosine) for i in np.argsort(-scores)[:depth]}
        found.append({names[i]: (float(words[i]), float(cosine[i])) for i in sorted(union)})
    file.write_text(json.dumps(found))
    return Search(name, passages, queries, found)


def likelihoods(
    search: Search, prompt: str, kept: Path, model: Callable[[], Any], until: float
) -> tuple[Search, list[dict[str, float]]]:
    """By id log p(query | passage) per token of the query, of the queries that were read before
    the time `until`."""
    wanted: dict[str, list[int]] = {}
    for i, found in enumerate(search.found):
        for key in found:
            wanted.setdefault(key, []).append(i)
    file = kept / f"{search.name}-{prompt}-{_digest([search.queries, search.passages])}.jsonl"
    done = {row[0]: row[1] for row in _lines(file)}
    left = [key for key in wanted if key not in done]
    while left and time.monotonic() < until:
        chunk, left = left[:PASSAGES_AT_ONCE], left[PASSAGES_AT_ONCE:]
        bound, tokenizer = model()
        groups = []
        for key in chunk:
            queries = [search.queries[i][0] for i in wanted[key]]
            groups.append(_group(tokenizer, PROMPTS[prompt], search.passages[key], queries))
        logps, lengths = Reader(bound, "shared", groups).logps(range(len(groups)))
        with file.open("a") as out:
            for key, row in zip(chunk, (logps / lengths).tolist(), strict=True):
                done[key] = row[: len(wanted[key])]
                out.write(json.dumps([key, done[key]]) + "\n")
    read = [i for i, found in enumerate(search.found) if found.keys() <= done.keys()]
    values = [{key: done[key][wanted[key].index(i)] for key in search.found[i]} for i in read]
    return search.only(read), values


def _group(tokenizer: Any, prompt: str, passage: str, queries: Sequence[str]) -> TokenGroup:
    ids = tokenizer.encode(passage, add_special_tokens=False)[:MOST_TOKENS]
    text = prompt.replace("{passage}", tokenizer.decode(ids))
    if prompt.startswith(CHAT):
        message = {"role": "user", "content": text.removeprefix(CHAT)}
        before, space = encode_prompt(tokenizer, [message]), ""
    else:
        before, space = tokenizer.encode(text, add_special_tokens=False), " "
    encoded = [tokenizer.encode(space + query, add_special_tokens=False) for query in queries]
    return TokenGroup(before, encoded)


def mixtures(search: Search, read: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The scores that can be summed, each of mean 0 and deviation 1 over a query's passages."""
    columns = []
    for found, likelihood in zip(search.found, read, strict=True):
        table = np.array([[*found[key], likelihood[key]] for key in found])
        spread = table.std(axis=0)
        columns.append((table - table.mean(axis=0)) / np.where(spread > 0, spread, 1.0))
    return {"ids": [list(found) for found in search.found], "columns": columns}


def measured(search: Search, tables: dict[str, Any], weights: Sequence[float]) -> np.ndarray:
    """[queries, 2]: MRR@10 and NDCG@10 of the order by the weighted sum."""
    rows = []
    for (_, relevant, _), ids, table in zip(
        search.queries, tables["ids"], tables["columns"], strict=True
    ):
        scores = table @ np.array(weights)
        order = [ids[i] for i in np.argsort(-scores, kind="stable")]
        gains = dict.fromkeys(relevant, 1.0)
        rows.append((reciprocal_rank(order, gains), ndcg(order, gains)))
    return np.array(rows)


FIGURES = ("MRR@10", "NDCG@10")
SOURCES = ("BM25", "bi-encoder", "likelihood")
TEACHERS = {
    "BM25": (0,), "bi-encoder": (1,), "likelihood": (2,), "BM25 + bi-encoder": (0, 1),
    "likelihood + BM25": (0, 2), "likelihood + bi-encoder": (1, 2), "all three": (0, 1, 2),
}  # fmt: skip


def chosen(search: Search, tables: dict[str, Any], parts: Sequence[int]) -> tuple[float, ...]:
    """The weights in steps of 0.1 with the highest sum of both figures."""
    grid = [w for w in itertools.product(range(11), repeat=len(parts)) if sum(w) == 10 and all(w)]
    best = max(grid, key=lambda w: measured(search, tables, _weights(parts, w)).mean())
    return _weights(parts, best)


def _weights(parts: Sequence[int], values: Iterable[float]) -> tuple[float, ...]:
    given = dict(zip(parts, values, strict=True))
    return tuple(round(given.get(i, 0) / sum(given.values()), 2) for i in range(len(SOURCES)))


def table(search: Search, tables: dict[str, Any], weights: dict[str, tuple[float, ...]]) -> str:
    """A row per teacher; differences by query, and once where whole files or packages are drawn."""
    values = {name: measured(search, tables, w) for name, w in weights.items()}
    groups = [group for _, _, group in search.queries]
    head = ["teacher", "weights"]
    for figure in FIGURES:
        head += [figure, "- BM25", "- bi-encoder", "by file or package"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, of_name in values.items():
        cells = [name, " ".join(f"{w:g}" for w in weights[name])]
        for column in range(len(FIGURES)):
            cells.append(f"{of_name[:, column].mean():.3f}")
            for base in ("BM25", "bi-encoder"):
                d = paired_difference(
                    of_name[:, column].tolist(), values[base][:, column].tolist(), seed=0
                )
                between = "" if d.low == d.high else f" [{d.low:+.3f}, {d.high:+.3f}]"
                cells.append(f"{d.mean:+.3f}{between}")
            cells.append(_clustered((of_name - values["bi-encoder"])[:, column], groups))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _clustered(values: np.ndarray, groups: Sequence[str]) -> str:
    """The interval of a mean where whole files or packages are drawn."""
    names = sorted(set(groups))
    sums = np.array(
        [[values[[g == n for g in groups]].sum(), sum(g == n for g in groups)] for n in names]
    )
    if not values.any():
        return ""

    def ratio(total: Any, count: Any, axis: int = -1) -> Any:
        return total.sum(axis=axis) / count.sum(axis=axis)

    low, high = bootstrap([sums[:, 0], sums[:, 1]], ratio, 0)
    return f"[{low:+.3f}, {high:+.3f}]"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def _lines(file: Path) -> Iterable[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _drawn(items: Sequence[Any], most: int) -> list[Any]:
    return random.Random(0).sample(list(items), min(most, len(items)))


SETS: dict[str, dict[str, Callable[[Path], Items]]] = {
    "headings": {
        "validation": lambda manuals: headings(manuals / "python", ["faq/", "howto/"], 500, 16),
        "test": lambda manuals: headings(manuals / "perl", ["perlfaq"], 2000, 100),
    },
    "sentences": {
        "validation": lambda _: sentences(["scipy"], 200, 24),
        "test": lambda _: sentences(
            ["matplotlib", "networkx", "nltk", "pandas", "sklearn"], 80, 60
        ),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manuals", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--precision", default="bfloat16", help="of the language model")
    parser.add_argument("--prompt", choices=PROMPTS, help="instead of the best on validation")
    parser.add_argument("--minutes", type=float, default=1e9, help="for reading, at most")
    given = parser.parse_args()
    given.cache.mkdir(parents=True, exist_ok=True)

    @cache
    def model() -> tuple[Any, Any]:
        folder = locate(MODEL)
        return bind(load_model(folder, precision=given.precision).eval(), "shared"), load_tokenizer(
            folder
        )

    until = time.monotonic() + 60 * given.minutes
    prompt = given.prompt
    for kind, of_kind in SETS.items():
        search = searched(f"{kind}-test", of_kind["test"](given.manuals), 10, given.cache)
        weights = {name: _weights(parts, [1] * len(parts)) for name, parts in TEACHERS.items()}
        if given.prompt is None:
            items = of_kind["validation"](given.manuals)
            validation = searched(f"{kind}-validation", items, 6, given.cache)
            tried = {}
            for name in [prompt] if prompt else PROMPTS:
                tried[name] = likelihoods(validation, name, given.cache, model, float("inf"))
                alone = measured(tried[name][0], mixtures(*tried[name]), (0, 0, 1))
                print(kind, name, alone.mean(axis=0).round(3))
            prompt = prompt or max(
                tried, key=lambda n: measured(tried[n][0], mixtures(*tried[n]), (0, 0, 1)).mean()
            )
            tables = mixtures(*tried[prompt])
            weights = {n: chosen(validation, tables, parts) for n, parts in TEACHERS.items()}
        every = mixtures(search, [dict.fromkeys(found, 0.0) for found in search.found])
        unread = {name: w for name, w in weights.items() if not w[2]}
        print(_about(kind, search, "none"), table(search, every, unread), sep="\n\n", flush=True)
        part, read = likelihoods(search, prompt, given.cache, model, until)
        if read:
            told = table(part, mixtures(part, read), weights)
            print(_about(kind, part, prompt), told, sep="\n\n", flush=True)


def _about(kind: str, search: Search, prompt: str) -> str:
    pairs = zip(search.queries, search.found, strict=True)
    found = sum(not found.keys().isdisjoint(query[1]) for query, found in pairs)
    return (
        f"\n{len(search.queries)} {kind}, {len(search.passages)} passages, a relevant one among "
        f"those found for {found}; {sum(map(len, search.found))} pairs; prompt: {prompt}"
    )


if __name__ == "__main__":
    main()
