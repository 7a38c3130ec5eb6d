"""New prompts that a teacher writes from those that there are, and what is kept of them.

Self-instruct (Wang et al. 2023, arXiv:2212.10560) shows some prompts and asks for another;
evol-instruct (Xu et al. 2023, arXiv:2304.12244) has one rewritten to be harder or rarer. Differs
from both: requests are in the chat template of the teacher, one new prompt per response, and new
prompts are held against those of all splits, so that no held-out prompt comes back into training.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rankdistill.prompts.similarity import NearDuplicates, words
from rankdistill.rows import Message, Prompt

SHOWN = 4
"""Prompts that a request for another one shows."""
REASONS = (
    "cut", "empty", "too_short", "too_long", "about_the_task", "other_language", "near_duplicate",
)  # fmt: skip
"""Why a new prompt is dropped; `cut`: it was not finished."""
_EVOLUTIONS = (
    "Add one more constraint or requirement to it.",
    "Ask about the same thing in more depth.",
    "Replace what is general in it by something specific.",
    "Make it need several steps of reasoning.",
    "Write a quite new task of the same field that is rarer than this one, about as long.",
)
_LABEL = re.compile(
    r"^\W*(?:(?:new|rewritten|the)\s+)*(?:task|prompt|instruction)\s*\d*\W*:[\s*]*", re.I
)
_TASK_WORDS = re.compile(
    r"\b(?:rewritten|given|above|original|new) (?:prompt|task|instruction)\b|#+ ?(?:prompt|task)",
    re.I,
)


@dataclass(frozen=True)
class AugmentRequest:
    """What the teacher is asked for one new prompt."""

    kind: Literal["instruct", "evolve"]
    messages: list[Message]


def requests(
    seeds: Sequence[Prompt], count: int, evolved: float, seed: int
) -> list[AugmentRequest]:
    """What the teacher is asked, a request per new prompt.

    Args:
        seeds: Prompts of the train split; the last user message of each is shown.
        count: Requests.
        evolved: Share of them that rewrite a prompt instead of asking for another, in [0, 1].
        seed: Of the choice of prompts.
    """
    generator = random.Random(seed)
    texts = [text_of(prompt) for prompt in seeds]
    made = []
    for number in range(count):
        if number < round(evolved * count):
            how = _EVOLUTIONS[number % len(_EVOLUTIONS)]
            question = (
                f"Rewrite the task below. {how} It must stay answerable in words alone and must "
                f"not be answered. Reply with the rewritten task only.\n\nTask: "
                f"{generator.choice(texts)}"
            )
            made.append(AugmentRequest("evolve", [Message(role="user", content=question)]))
        else:
            shown = generator.sample(texts, min(SHOWN, len(texts)))
            listed = "\n\n".join(f"Task {i}: {text}" for i, text in enumerate(shown, start=1))
            question = (
                "Here are tasks that people give to an assistant.\n\n"
                f"{listed}\n\nWrite one more task, about another topic than these and as varied as "
                "they are. Do not answer it. Reply with the task only."
            )
            made.append(AugmentRequest("instruct", [Message(role="user", content=question)]))
    return made


def text_of(prompt: Prompt) -> str:
    """What the user said last."""
    return prompt["messages"][-1]["content"]


def written(text: str) -> str:
    """The new prompt in a response: its first paragraph, without a label or quotation marks.

    >>> written('Task 5: "Name three rivers."')
    'Name three rivers.'
    """
    paragraph = next((part for part in re.split(r"\n\s*\n", text.strip()) if part.strip()), "")
    return _LABEL.sub("", paragraph).strip().strip('"“”').strip()


class Filter:
    """Decides about one new prompt after the other; what is kept counts for the next ones.

    Args:
        known: Prompts of all splits.
        rouge_l: From which a new prompt is a near-duplicate, in (0, 1].
        words: Fewest and most words.
    """

    def __init__(
        self, known: Iterable[Prompt], *, rouge_l: float, least_words: int, most_words: int
    ) -> None:
        texts = [text_of(prompt) for prompt in known]
        self._duplicates, self._language = NearDuplicates(rouge_l), Language(texts)
        self._least, self._most = least_words, most_words
        for text in texts:
            self._duplicates.add(text)

    def refuses(self, text: str) -> str | None:
        """One of `REASONS`; None: it is kept, and remembered."""
        length = len(words(text))
        if length == 0:
            return "empty"
        if length < self._least:
            return "too_short"
        if length > self._most:
            return "too_long"
        if _TASK_WORDS.search(text):
            return "about_the_task"
        if not self._language.has(text):
            return "other_language"
        if self._duplicates.has_one_like(text):
            return "near_duplicate"
        self._duplicates.add(text)
        return None


LEAST = 0.5
"""Share of a text's letters that must be of the scripts of the other texts."""
USUAL = 0.01
"""Share of all letters from which a script is one of theirs."""
COMMON_WORDS = 0.1
"""Share of words that must be known, of texts long enough to tell."""
LONG = 12
"""Words from which a text is long enough."""


class Language:
    """The scripts and the words of some texts: what another text is held against, without a model.

    Scripts tell languages of different letters apart, the commonest words those of the same ones.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        scripts: Counter[str] = Counter()
        documents: Counter[str] = Counter()
        for text in texts:
            scripts.update(map(_script, filter(str.isalpha, text)))
            documents.update(set(_words(text)))
        total = sum(scripts.values())
        self._scripts = {name for name, count in scripts.items() if count >= USUAL * total}
        self._words = {word for word, _ in documents.most_common(300)}

    def has(self, text: str) -> bool:
        """Whether the text may be in it; short texts are judged by their letters alone."""
        letters = [character for character in text if character.isalpha()]
        if not letters:
            return False
        own = sum(_script(letter) in self._scripts for letter in letters)
        if own < LEAST * len(letters):
            return False
        words_of_text = _words(text)
        known = sum(word in self._words for word in words_of_text)
        return len(words_of_text) < LONG or known >= COMMON_WORDS * len(words_of_text)


def _words(text: str) -> list[str]:
    return [word for word in text.lower().split() if word.isalpha()]


@cache
def _script(letter: str) -> str:
    """LATIN, CYRILLIC, CJK, ..: the first word of a letter's name."""
    return unicodedata.name(letter, "UNKNOWN").split(" ")[0]
