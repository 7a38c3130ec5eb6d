"""The pages of a report: what others wrote is escaped, and nothing outside is asked for."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from markdown_it import MarkdownIt
from report_page import ATTACK, Page
from report_rows import MODELS, held_out_groups, model_figures, run_report

from rankdistill.report import metrics_of, write_report
from rankdistill.report.html import html_report
from rankdistill.report.markdown import markdown_report


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return metrics_of(run_report())


@pytest.fixture(scope="module")
def page_text(metrics) -> str:
    return html_report(metrics, "seed: 0")


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
