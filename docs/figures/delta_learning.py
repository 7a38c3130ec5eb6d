"""Delta learning: pairs that differ in one bold word, and none of which has more than three.

    export PYTHONPATH=docs/figures
    python docs/figures/delta_learning.py pairs FOLDER

writes answers of the bundled model to the starter prompts with three words in bold and with two of
the three: `up.jsonl` has three as the better side, `down.jsonl` two, `either.jsonl` one or the
other. Of runs that were trained on them (docs/objectives.md has the commands),

    python docs/figures/delta_learning.py table "DPO=runs/dpo_up_0,runs/dpo_up_1"

prints the bold words of an answer before and after, and their difference, with 95 % intervals that
resample prompts, of all seeds together.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rankdistill.errors import UserError
from rankdistill.models import Model, encode_prompt, load_tokenizer
from rankdistill.prompts.sources import read_rows
from rankdistill.report import read_metrics
from rankdistill.sample import SamplingOptions
from rankdistill.sample.vllm import VLLMSampler
from rankdistill.statistics import Interval, mean_interval

OPTIONS = SamplingOptions(
    responses_per_prompt=1, temperature=0.8, top_p=1.0, top_k=0, max_response_tokens=40, seed=0
)
MORE, FEWER = 3, 2
WORD = re.compile(r"\b[A-Za-z]{5,}\b")


def in_bold(text: str, words: Sequence[re.Match[str]]) -> str:
    """The text with these words of it in bold."""
    for word in sorted(words, key=lambda word: -word.start()):
        text = f"{text[: word.start()]}**{word[0]}**{text[word.end() :]}"
    return text


def unmarked(source: str) -> Iterator[tuple[str, str]]:
    """The prompts of a set with the bundled model's answers, as far as these have no marks."""
    model = Model.named("bundled/smollm2-135m-instruct").for_sampling
    tokenizer = load_tokenizer(model.path)
    prompts = [row["prompt"] for _, row in read_rows(source)]
    requests = [(p, encode_prompt(tokenizer, [{"role": "user", "content": p}])) for p in prompts]
    with VLLMSampler() as sampler:
        for prompt, (answer,) in sampler.sample(model, requests, OPTIONS, "student"):
            text = str(tokenizer.decode(answer["token_ids"], skip_special_tokens=True))
            if "*" not in text:
                yield prompt, text


def pairs(folder: Path) -> None:
    """Writes the three files."""
    chance = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "up.jsonl").open("w") as up,
        (folder / "down.jsonl").open("w") as down,
        (folder / "either.jsonl").open("w") as either,
    ):
        for prompt, text in unmarked("starter"):
            words = list(WORD.finditer(text))
            if len(words) < 2 * MORE:
                continue
            drawn = chance.sample(words, MORE)
            more, fewer = in_bold(text, drawn), in_bold(text, drawn[:FEWER])
            lines = [
                json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected})
                for chosen, rejected in ((more, fewer), (fewer, more))
            ]
            print(lines[0], file=up)
            print(lines[1], file=down)
            print(chance.choice(lines), file=either)


def counted(folders: Sequence[Path], model: str) -> Mapping[str, float]:
    """Bold words of an answer by prompt: the mean over answers and seeds."""
    found: dict[str, list[float]] = defaultdict(list)
    for folder in folders:
        for prompt, score in read_metrics(folder)["models"][model]["prompt_scores"].items():
            found[prompt].append(score)
    return {prompt: sum(scores) / len(scores) for prompt, scores in found.items()}


def told(values: Sequence[float], form: str) -> str:
    """A mean with its interval."""
    found: Interval = mean_interval(values, seed=0)
    return f"{found.mean:{form}} [{found.low:{form}}, {found.high:{form}}]"


def table(runs: Mapping[str, Sequence[Path]]) -> None:
    """Prints it."""
    print("| trained by | before | after | change |")
    print("|---|---|---|---|")
    for label, folders in runs.items():
        before, after = (counted(folders, model) for model in ("warmed_up", "trained"))
        change = [after[prompt] - before[prompt] for prompt in after]
        cells = (
            told([*before.values()], ".2f"),
            told([*after.values()], ".2f"),
            told(change, "+.2f"),
        )
        print(f"| {label} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("pairs").add_argument("folder", type=Path)
    commands.add_parser("table").add_argument("runs", nargs="+", metavar="LABEL=RUN,RUN")
    options = parser.parse_args()
    if options.command == "pairs":
        pairs(options.folder)
    else:
        named = (one.partition("=") for one in options.runs)
        table({label: [Path(run) for run in of.split(",")] for label, _, of in named})


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
