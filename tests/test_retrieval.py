"""Passages found, ranked by the teacher, re-ranked by what learned it."""

from __future__ import annotations

import json
from itertools import permutations
from math import log2
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import load_dataset
from folders import full_disk
from recipe_files import search, write_rows
from tiny_run import run_here, shrunk
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
)

from rankdistill.errors import UserError
from rankdistill.models import encode_prompt, encode_response, load_model, load_tokenizer
from rankdistill.retrieval.markdown import chunks
from rankdistill.retrieval.search import BM25, BiEncoder, known_items, read_collection
from rankdistill.search.__main__ import main
from rankdistill.search.reranked import RerankedSearch
from rankdistill.stages.reranker import graded, ndcg, reciprocal_rank, reordered


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return search(tmp_path)


def run(monkeypatch, folder: Path, teacher, *arguments: str) -> tuple[Path, dict]:
    made = run_here(
        monkeypatch,
        folder,
        "recipe=reranker",
        *shrunk("reranker"),
        f"teacher.path={teacher}",
        *arguments,
    )  # fmt: skip
    return made, json.loads((made / "metrics.json").read_text())


def test_ndcg_by_hand_and_by_brute_force():
    assert ndcg(["a", "b", "c"], {"b": 1.0}) == pytest.approx(1 / log2(3))
    # Two relevant passages, of which one was never retrieved.
    found = ndcg(["a", "b"], {"a": 1.0, "x": 1.0})
    assert found == pytest.approx(1 / (1 + 1 / log2(3)))
    gains = {"a": 0.2, "b": 1.0, "c": 0.0, "d": 0.7}

    def dcg(order):
        return sum(gains[name] / log2(i + 2) for i, name in enumerate(order[:3]))

    best = max(map(dcg, permutations(gains)))
    for order in permutations(gains):
        assert ndcg(order, gains, cutoff=3) == pytest.approx(dcg(order) / best)


def test_ndcg_as_scikit_learn_has_it():
    metrics = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(0)
    gains, scores = torch.rand(5, 30), torch.rand(5, 30)
    ours = []
    for gain, score in zip(gains.tolist(), scores.tolist(), strict=True):
        names = [str(i) for i in range(30)]
        ours.append(ndcg(reordered(names, score), dict(zip(names, gain, strict=True))))
    theirs = metrics.ndcg_score(gains.numpy(), scores.numpy(), k=10)
    assert sum(ours) / len(ours) == pytest.approx(theirs, abs=1e-6)


def test_orders():
    names = [str(i) for i in range(12)]
    assert reciprocal_rank(names, {"3": 1.0}) == 0.25
    assert reciprocal_rank(names, {"11": 1.0}) == 0.0
    assert reciprocal_rank(names, {"2": 0.5, "4": 1.0}) == 0.2
    assert reordered(["a", "b", "c", "d"], [1.0, 2.0, 1.0, 2.0]) == ["b", "d", "a", "c"]
    assert graded([0.3, -1.0, 0.3, 2.0]) == pytest.approx([1 / 3, 0.0, 1 / 3, 1.0])


def test_docstrings_are_split_into_query_and_passage(tmp_path):
    body = "It takes care of every one of the things, in turn, and then it stops."
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "other.py").write_text(
        f'def g():\n    """A b c d.\n\n    {body}"""'
    )
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(
        "raise SystemExit\n"
        "class A:\n"
        f'    def f(self, x=1):\n        """Do what\n        is needed here.\n\n        {body}"""\n'
        f'def twice():\n    """Said more than once.\n\n    {body}"""\n'
        f'def again():\n    """Said more than ONCE.\n\n    {body}"""\n'
        'def bare():\n    """Nothing follows this line."""\n'
    )
    assert known_items(tmp_path) == [
        ("package.A.f", "Do what is needed here.", f"package.A.f(self, x=1)\n{body}")
    ]


def page(number: int, text: str = "") -> str:
    told = " ".join(f"word{number}{letter}" for letter in "abcdefghijklm")
    return f"# How is number {number} made?\n\n{told}\n{text}"


CODE = "## More of it here\n\n```\n# no heading at all\n```\n" + " ".join("abcdefghijklmnop")


def test_headings_of_markdown_ask_for_what_stands_below_them(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.md").write_text("---\ntitle: A page of mine\n---\n" + page(1, CODE))
    (tmp_path / "b.md").write_text(page(1))  # nearly the same, and with the same heading
    (tmp_path / "inner" / "c.md").write_text(page(3, "\n## [Short](x)\n\nToo short.\n"))
    (tmp_path / "d.txt").write_text(page(4))
    found = read_collection(SimpleNamespace(corpus=str(tmp_path), queries=None))
    assert list(found.passages) == ["a.md#1", "a.md#2", "inner/c.md#1"]
    assert found.passages["a.md#1"].split() == page(1).split()[6:]
    assert "# no heading at all" in found.passages["a.md#2"]
    asked = {query.text: (query.relevant, query.group) for query in found.queries}
    assert asked == {
        "How is number 1 made?": (["a.md#1"], None),
        "More of it here": (["a.md#2"], None),
        "How is number 3 made?": (["inner/c.md#1"], None),
    }
    for i in range(10, 20):
        (tmp_path / f"{i}.md").write_text(page(i))
    found = read_collection(SimpleNamespace(corpus=str(tmp_path), queries=None))
    assert {query.group for query in found.queries} >= {"a.md", "10.md", "inner/c.md"}


def test_long_sections_are_cut_between_paragraphs():
    paragraphs = [" ".join(["word"] * count) for count in (50, 20, 30, 90, 5)]
    assert [len(text.split()) for text in chunks("\n\n".join(paragraphs))] == [70, 30, 90, 5]


def save_encoder(folder: Path) -> str:
    """A random BERT that reads words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = ["[PAD]", "[UNK]", "red", "green", "blue", "sky", "sea", "grass"]
    words = {word: i for i, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


def test_the_bi_encoder_takes_the_mean_of_each_text_alone(tmp_path):
    folder = save_encoder(tmp_path / "encoder")
    texts = ["red sky", "green grass green grass", "blue"]
    encoder = BiEncoder(folder, texts)
    model = BertModel.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for text, ours in zip(texts, encoder.encode(texts), strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = hidden.mean(dim=0)
        torch.testing.assert_close(ours, mean / mean.norm(), atol=1e-5, rtol=0)
    assert [encoder.top(text, 1) for text in texts] == [[0], [1], [2]]
    assert sorted(encoder.top("sea " * 20, 9)) == [0, 1, 2]  # cut at the longest input


def test_bm25_finds_the_words():
    bm25 = BM25(["the red sky", "the green grass", "a blue sea"])
    assert bm25.top("grass that is green", 2)[0] == 1
    assert sorted(bm25.top("sea", 9)) == [0, 1, 2]


def test_a_run_on_files(monkeypatch, tmp_path, teacher, files, capfd):
    folder, metrics = run(monkeypatch, tmp_path, teacher, *files)
    suite = metrics["suites"]["reranking"]
    assert list(suite["models"]) == ["retriever", "warmed_up", "trained", "teacher"]
    assert suite["about"].startswith("4 held-out queries, 4 of 12 passages each, a relevant one")
    first = suite["models"]["retriever"]["figures"]
    assert first["ndcg_10"]["mean"] == first["mrr_10"]["mean"] == 1.0  # the fruit's word is rare
    for name in ("warmed_up", "trained", "teacher"):
        figures = suite["models"][name]["figures"]
        assert 0 < figures["ndcg_10"]["mean"] <= 1
        change = figures["ndcg_10_minus_retriever"]["mean"]
        assert change == pytest.approx(figures["ndcg_10"]["mean"] - 1.0)
    assert all(
        m["figures"]["ms"]["items"] == 2 for n, m in suite["models"].items() if n != "warmed_up"
    )
    told = capfd.readouterr().out
    assert "NDCG@10" in told and "re-ranker" in told
    assert "NDCG@10 minus BM25" in (folder / "report.html").read_text()
    assert (folder / "reward_model" / "model.safetensors").exists()
    assert 'rankdistill.search run "' in told
    search_it(folder, capfd)


def search_it(folder: Path, capfd) -> None:
    """The search command gives the orders that the run has measured."""
    search = RerankedSearch.open(folder)
    measured = load_dataset("parquet", data_files=str(folder / "ranked" / "*.parquet"), split="all")
    for row in (row for row in measured if row["split"] == "heldout"):
        before, after = search.orders(row["messages"][0]["content"])
        assert before == json.loads(row["columns"])["passages"] and sorted(after) == sorted(before)
    assert main([str(folder), "what is plum jam", "--top", "2"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[:2] == ["what is plum jam", "  BM25"] and lines[2].startswith("    1  p-plum  The")
    assert lines[4] == "  re-ranker" and len(lines) == 8 and "was" in lines[5]
    assert main([str(folder), "--export", str(folder / "cross_encoder")]) == 0
    model = AutoModelForSequenceClassification.from_pretrained(folder / "cross_encoder").eval()
    tokenizer = load_tokenizer(str(folder / "cross_encoder"))
    query, names = "what is plum jam", ["p-plum", "p-fig"]
    for name, ours in zip(names, search.scores(query, names), strict=True):
        pair = tokenizer(text=query, text_pair=search.passages[name], return_tensors="pt")
        with torch.no_grad():
            theirs = model(**pair).logits[0, 0].item() + model.config.rankdistill_shift
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert main([str(folder), "--export", str(folder / "cross_encoder")]) == 2
    assert "is there already" in capfd.readouterr().err
    with full_disk(9_000):  # its configuration fits, its weights do not
        assert main([str(folder), "--export", str(folder / "full")]) == 2
    assert "full' cannot be written (" in capfd.readouterr().err
    assert not [*folder.glob("full*"), *folder.glob(".full*")]


def test_the_teachers_score_is_the_query_given_the_passage(monkeypatch, tmp_path, teacher, files):
    folder, _ = run(monkeypatch, tmp_path, teacher, *files)
    rows = load_dataset("parquet", data_files=str(folder / "ranked" / "*.parquet"), split="train")
    tokenizer, model = load_tokenizer(str(teacher)), load_model(str(teacher)).eval()
    row = rows[0]
    for passage in row["responses"]:
        content = f"Passage: {passage['text']}\n\nWrite a search query that this passage answers."
        prompt = encode_prompt(tokenizer, [{"role": "user", "content": content}])
        query = encode_response(tokenizer, row["messages"][0]["content"])
        with torch.no_grad():
            logits = model(torch.tensor([prompt + query])).logits[0, len(prompt) - 1 : -1]
        logps = logits.log_softmax(-1).gather(1, torch.tensor(query)[:, None])
        assert passage["score"] == pytest.approx(logps.mean().item(), abs=1e-4)


def test_a_moved_file_is_the_same_collection(tmp_path):
    collections = []
    for place in (tmp_path / "here", tmp_path / "there"):
        place.mkdir()
        named = dict(override.split("=") for override in search(place))
        files = {key.removeprefix("retrieval."): path for key, path in named.items()}
        collections.append(read_collection(SimpleNamespace(**files)))
    here, there = collections
    assert here.queries != there.queries and here.digest == there.digest


def test_without_known_relevance_the_gains_are_the_teachers(monkeypatch, tmp_path, teacher, files):
    queries = Path(files[1].partition("=")[2])
    rows = [json.loads(line) for line in queries.read_text().splitlines()]
    write_rows(queries, [{key: row[key] for key in ("text", "split")} for row in rows])
    _, metrics = run(monkeypatch, tmp_path, teacher, *files)
    suite = metrics["suites"]["reranking"]
    assert "the gains are the teacher's own ranks" in suite["about"]
    assert suite["models"]["teacher"]["figures"]["ndcg_10"]["mean"] == 1.0
    assert suite["models"]["warmed_up"]["figures"]["ndcg_10"]["mean"] < 1.0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["reward.only=false"], "set reward.only=true"),
        (["retrieval.passages=1"], "retrieval.passages is 1; it must be at least 2"),
        (["retrieval.request=What?"], r"retrieval.request has no \{passage\}"),
        (["retrieval.encoder=bundled/minilm"], "There is no bundled model 'bundled/minilm'"),
        (["rank.path=corpus.jsonl"], "set one of them to null"),
        (["retrieval.queries=null"], "give retrieval.queries"),
        (["retrieval.corpus=.", "retrieval.queries=null"], "two passages in files that end in .md"),
        (["retrieval.queries=absent.jsonl"], "There is no file of queries 'absent.jsonl'"),
        (["retrieval.queries=corpus.jsonl"], "leaves no prompt for the train split"),
        (["retrieval.corpus=twice.jsonl"], "The id 'a' in line 2 of 'twice.jsonl' is another"),
        (
            ["retrieval.queries=unknown.jsonl"],
            "'x', relevant in line 1 of 'unknown.jsonl', is no id",
        ),
        (["retrieval.queries=bare.jsonl"], "There is no `text` in line 1 of 'bare.jsonl'"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(
    monkeypatch, tmp_path, teacher, files, arguments, sentence, capfd
):
    write_rows(tmp_path / "twice.jsonl", [{"id": "a", "text": "b"}, {"id": "a", "text": "c"}])
    write_rows(tmp_path / "unknown.jsonl", [{"text": "b", "relevant": ["x"]}])
    write_rows(tmp_path / "bare.jsonl", [{"id": "a"}])
    given = [*files, *arguments]
    if "corpus.jsonl" in arguments[0]:
        given.append("prompts.limit.train=0")
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises((SystemExit, UserError)) as stopped:
        run(monkeypatch, tmp_path, teacher, *given)
    told = capfd.readouterr()
    text = " ".join((told.out + told.err + str(stopped.value)).split())
    import re

    assert re.search(sentence, text), text
    assert "Traceback" not in text
