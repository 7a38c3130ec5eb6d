"""Requests for one to four words in bold, with responses in which their number is drawn.

    export PYTHONPATH=docs/figures
    python docs/figures/asked_bold.py asked.jsonl

writes every everyday request with the demand for one to four bold words (`asked`), twice, and a
response with none to five bold words, whatever was asked: a student that is warmed up on these
writes as many as chance has it, and its responses differ in a score that has degrees.
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

from delta_learning import in_bold, unmarked

NUMBERS = ("one word", "two words", "three words", "four words")
MOST = 5
WORDINGS = (
    "Put exactly {} in bold, between two asterisks on each side.",
    "There should be exactly {} in bold (**like this**).",
    "Highlight exactly {} as **bold**.",
)
WORD = re.compile(r"\b[A-Za-z]{4,}\b")


def write(path: Path) -> None:
    """Writes the prompts with their responses, which the bundled model writes without marks."""
    chance = random.Random(0)
    with path.open("w") as file:
        for request, text in unmarked("everyday"):
            words = list(WORD.finditer(text))
            if len(words) < MOST + 1:
                continue
            for number in chance.sample(range(len(NUMBERS)), 2):
                demand = chance.choice(WORDINGS).format(NUMBERS[number])
                shown = in_bold(text, chance.sample(words, chance.randint(0, MOST)))
                row = {
                    "prompt": f"{request} {demand}",
                    "asked": number + 1,
                    "request": request,
                    "response": shown,
                }
                print(json.dumps(row), file=file)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
