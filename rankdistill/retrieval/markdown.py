"""A folder of Markdown files as a collection: its paragraphs are found, its headings are asked."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt

from rankdistill.prompts.similarity import words

MOST_WORDS = 80
"""Of a passage, unless a single paragraph is longer: about 110 tokens of prose."""
LEAST_WORDS = 12
"""Shorter text answers nothing."""
LEAST_HEADING = 3
"""Words of a heading that says what its section is about without the page around it."""
GRAM = 5
"""Words in a row that two passages are compared by."""
MOST_PASSAGES = 4
"""Of a section that is asked for: what is said in more places has no one place to be found."""
ALIKE = 0.5
"""Share of a passage's grams in earlier passages from which it is a near-duplicate."""

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def known_sections(folder: Path) -> tuple[dict[str, str], list[tuple[str, list[str], str]]]:
    """The passages by id, and as (heading, ids, file) each section whose heading no other one has.

    It is known-item search, as that of `known_items`: what is asked is a heading, and what answers
    it are the passages of its section, which do not contain it. A passage that is nearly one that
    was read before is left out.
    """
    passages: dict[str, str] = {}
    asked: list[tuple[str, list[str], str]] = []
    seen: set[tuple[str, ...]] = set()
    for file in sorted(folder.rglob("*.md")):
        name = file.relative_to(folder).as_posix()
        count = 0
        for heading, body in sections(file.read_text(encoding="utf-8", errors="replace")):
            of_section = []
            for text in chunks(body):
                found = words(text)
                grams = set(zip(*(found[i:] for i in range(GRAM)), strict=False))
                if len(found) < LEAST_WORDS or len(grams & seen) >= ALIKE * len(grams):
                    continue
                seen |= grams
                count += 1
                of_section.append(f"{name}#{count}")
                passages[of_section[-1]] = text
            asks = len(heading.split()) >= LEAST_HEADING
            if asks and 1 <= len(of_section) <= MOST_PASSAGES:
                asked.append((heading, of_section, name))
    headings = Counter(heading.lower() for heading, _, _ in asked)
    return passages, [section for section in asked if headings[section[0].lower()] == 1]


def sections(text: str) -> Iterator[tuple[str, str]]:
    """(heading, what follows it up to the next one) of a page; no heading before the first."""
    text = _FRONT_MATTER.sub("", text)
    lines = text.splitlines()
    tokens = MarkdownIt().parse(text)
    heading, start = "", 0
    for i, token in enumerate(tokens):
        if token.type == "heading_open" and token.map and token.level == 0:
            yield heading, "\n".join(lines[start : token.map[0]])
            heading, start = _plain(tokens[i + 1].content), token.map[1]
    yield heading, "\n".join(lines[start:])


def chunks(body: str) -> Iterator[str]:
    """Whole paragraphs together up to `MOST_WORDS`."""
    together: list[str] = []
    words = 0
    for paragraph in filter(str.strip, re.split(r"\n\s*\n", body)):
        count = len(paragraph.split())
        if together and words + count > MOST_WORDS:
            yield "\n\n".join(together)
            together, words = [], 0
        together.append(paragraph.strip("\n"))
        words += count
    if together:
        yield "\n\n".join(together)


def _plain(heading: str) -> str:
    """A heading without the marks of code, emphasis and links."""
    return " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").split())
