"""The pages of a report: what others wrote is escaped, and nothing outside is asked for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from report_page import ATTACK, Page
from report_rows import MODELS, held_out_groups, model_figures, run_report, verified_metrics

from rankdistill.report import metrics_of, write_report
from rankdistill.report.answers import links_of, prompt_lists, shown_prompts
from rankdistill.report.headline import next_steps
from rankdistill.report.html import html_report
from rankdistill.report.markdown import markdown_report
from rankdistill.report.rendering import WORDS

pytestmark = pytest.mark.drawn


@pytest.fixture(scope="module")
def attacked() -> dict[str, Any]:
    """Metrics of a run in which everything that others write is an attack."""
    groups = {name: held_out_groups(name, 8) for name in MODELS}
    for rows in groups.values():
        for group in rows:
            group["messages"] = [{"role": ATTACK, "content": ATTACK}]
            for response in group["responses"]:
                response["text"] = ATTACK
    models = [replace(model_figures(n, rows), label=f"{n} {ATTACK}") for n, rows in groups.items()]
    texts = dict.fromkeys(("title", "recipe", "command", "judge"), ATTACK)
    return metrics_of(run_report(models=models, groups=groups, versions={ATTACK: ATTACK}, **texts))


def test_what_others_wrote_is_escaped_in_html(attacked):
    page = Page(html_report(attacked, ATTACK))
    assert page.open == []
    assert {"script", "img", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count(ATTACK) >= 6 * 7


def test_what_others_wrote_is_escaped_in_markdown(attacked):
    text = markdown_report(attacked, ATTACK)
    html = MarkdownIt("commonmark").enable("table").render(text)
    page = Page(html)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert sum(tag == "table" for tag, _ in page.tags) == 2
    blocks = re.findall(r"<pre><code[^>]*>(.*?)</code></pre>", html, flags=re.DOTALL)
    assert sum("&lt;script&gt;" in block for block in blocks) == 6 * 6 + 2


def test_the_page_asks_for_nothing_from_outside(page_text):
    text = page_text
    assert "http:" not in text and "https:" not in text and "//" not in text.replace("</", "")
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\((.*?)\)", text))
    for _, attributes in Page(text).tags:
        assert "src" not in attributes
        for name in ("href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_ids_are_unique_and_references_have_targets(page_text):
    text = page_text
    tags = Page(text).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = {a["xlink:href"] for _, a in tags if "xlink:href" in a}
    wanted |= set(re.findall(r"url\((#.*?)\)", text))
    assert {target[1:] for target in wanted if target} <= set(ids)


def test_all_prompts_are_there_and_figures_link_to_theirs(tmp_path):
    report = run_report()
    metrics = write_report(report, tmp_path)
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    links = [attributes.get("href") or "" for tag, attributes in page.tags if tag == "a"]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links} <= set(ids)
    assert [name for name in ids if name and name.startswith("prompt-")] == [
        f"prompt-{number}" for number in range(1, 41)
    ]
    first = {g["prompt_id"]: g["responses"][0]["text"] for g in report.groups["trained"]}
    assert all(response in text for response in first.values())
    after, before = (metrics["models"][name]["prompt_scores"] for name in ("trained", "warmed_up"))
    gained = sum(after[name] > before[name] for name in after)
    # The target is within what is folded, which a browser then opens.
    told = re.search(r'<details><summary>[^\n]*\n<p id="gained".*?</details>', text, re.DOTALL)
    assert told is not None and told[0].count('href="#prompt-') == gained
    assert links.count("#gained") == 2  # the rows of gain and of wins
    assert links.count("#all") == 2  # the contents and the row of scores


def test_a_kind_links_to_the_prompts_that_ask_for_it():
    metrics = verified_metrics()
    names = sorted(metrics["models"]["trained"]["prompt_scores"])
    answers = [
        {
            "prompt_id": name,
            "messages": [{"role": "user", "content": "Name a prime."}],
            "responses": {"trained": [{"text": "Seven.", "score": 1.0, "tokens": 2, "cut": False}]},
            "columns": json.dumps({"demands": [{"kind": ("title", "digits")[place % 2]}]}),
        }
        for place, name in enumerate(names)
    ]
    shown = shown_prompts(metrics, answers)
    lists = {one.title: one for one in prompt_lists(metrics, shown)}
    assert len(lists["title"].numbers) == len(lists["digits"].numbers) == len(names) // 2
    assert lists["marks"].numbers == lists["title"].numbers
    assert lists["kept-out kinds"].numbers == lists["digits"].numbers
    assert len(lists["trained kinds"].numbers) == len(names) // 2
    assert "words" not in lists  # nobody was asked for them
    links = links_of(list(lists.values()))
    assert links["title"] == lists["title"].id and links["marks"] == "group-marks"
    assert links["gain, sampled"] == "gained" and links["score"] == "all"
    assert links_of([]) == {}


def test_one_glossary_for_pages_and_docs(page_text):
    page = (Path(__file__).parents[1] / "docs" / "words.md").read_text()
    for word, key, meaning in WORDS:
        cells = (word, f"`{key}`" if key else "", meaning)
        assert "| " + " | ".join(cells) + " |" in page
        assert f"<dt>{word}" in unescape(page_text)


def test_what_to_do_next_follows_from_the_figures():
    metrics = metrics_of(run_report())
    trained = metrics["models"]["trained"] | {"cut_share": 0.6, "repetition": 0.4}
    metrics["models"] |= {"trained": trained}
    told = " ".join(next_steps(metrics, "runs/my run"))
    for part in ("score@eval.judge", "max_response_tokens", "limit.heldout", "learning_rate"):
        assert part in told
    assert "`python -m rankdistill.chat 'runs/my run'`" in told
    metrics["judge"]["is_training_teacher"] = False
    metrics["models"]["trained"] = trained | {"cut_share": 0.0, "repetition": 0.0, "prompts": 100}
    assert list(next_steps(metrics)) == []


def test_plots_take_their_colours_from_the_page(page_text):
    text = page_text
    inside = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert set(re.findall(r"#[0-9a-f]{6}\b", inside)) <= {"#000000", "#ffffff"}
    assert "var(--series-2)" in inside
    used = set(re.findall(r"var\((--[\w-]+)\)", text))
    assert used <= set(re.findall(r"(--[\w-]+):", text))


def test_the_same_run_gives_the_same_page(metrics, page_text):
    assert html_report(json.loads(json.dumps(metrics)), "seed: 0") == page_text


def test_pages_without_history_samples_or_stages(tmp_path):
    bare = run_report(
        names=("warmed_up", "trained"), groups={}, stages=[], training_history=[],
        warmup_history=[], versions={}, config_yaml="",
    )  # fmt: skip
    found = write_report(bare, tmp_path)
    assert found["samples"] == []
    text = (tmp_path / "report.html").read_text()
    assert Page(text).open == []
    assert "Training: loss" not in text
