"""Suites as their YAML builds them, and small data of the forms that they read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rankdistill.stages.settings import _plug_in

EVAL = Path(__file__).parents[1] / "eval"


def suite(name: str, **changes: Any) -> Any:
    """What `eval=[name]` builds, with other keys; those of `judge` on their own."""
    node: Any = OmegaConf.to_container(OmegaConf.load(EVAL / f"{name}.yaml"))
    del node["defaults"]
    judge = {**node.get("judge", {}), **changes.pop("judge", {})}
    return _plug_in(f"eval.{name}", {**node, **({"judge": judge} if judge else {}), **changes})


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SUMS = [
    {"question": f"Tom has {a} apples and buys {b}. How many?", "answer": f"Sum.\n#### {a + b}"}
    for a, b in ((1, 2), (3, 4), (5, 1), (2, 2), (6, 3), (4, 4))
]


def gsm8k(folder: Path) -> Path:
    """A folder with both splits."""
    write(folder / "test.jsonl", SUMS[:2])
    write(folder / "train.jsonl", SUMS)
    return folder


HELLASWAG = """\
Baking: A woman pours flour into a bowl. she
2
drives to the sea.
sings in a choir.
adds eggs and stirs.
climbs a tree.
Cycling: A man gets on his bike. The road is wet. he
0
rides away slowly.
eats the road.
paints a window.
is a large fish.
Youth: How to sleep well. Go to bed early. A dark room helps.
1
[step] Shout at the moon.
Turn off the light.
Drink coffee all night.
Never close your eyes.
Swimming: Children jump into a pool. they
3
knit a scarf.
read the news.
plant potatoes.
splash and laugh.
"""

IFEVAL = [
    {"key": 1, "prompt": "Write without commas.", "instruction_id_list": ["punctuation:no_comma"],
     "kwargs": [{}]},
    {"key": 2, "prompt": "Write JSON in lower case.",
     "instruction_id_list": ["detectable_format:json_format", "length_constraints:number_words"],
     "kwargs": [{}, {"relation": "at least", "num_words": 3}]},
]  # fmt: skip

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["Say hello.", "Say it again."]},
    {"question_id": 2, "category": "math", "turns": ["What is 1+1?", "And plus 3?"]},
    {"question_id": 3, "category": "stem", "turns": ["What is light?", "And heat?"]},
]
REFERENCES = [{"question_id": 2, "choices": [{"turns": ["It is 2.", "It is 5."]}]}]
OUTPUTS = [
    {"instruction": f"Name {n} animals.", "output": "cat " * n, "generator": "cats"}
    for n in range(1, 7)
]
PAIRS = [
    {"prompt": f"Question {n}?", "chosen": "yes " * n, "rejected": "no" + " well" * (4 - n),
     "subset": "easy" if n < 3 else "hard"}
    for n in range(1, 5)
]  # fmt: skip
