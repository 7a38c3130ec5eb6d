"""How far scorers agree with the ranks that a set comes with; writes a Markdown table.

python docs/figures/agreement.py RANKED [--prompts 60] [--most-tokens 256] [--scorers ...]

The judge here is the bundled model of 135M parameters, so the table also shows what a judge that
is too small looks like.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rankdistill.models import Model, encode_prompt, encode_response, load_tokenizer, locate
from rankdistill.prompts.sources import read_rows
from rankdistill.rank.diagnostics import diagnose
from rankdistill.rank.formats import ranked_row
from rankdistill.score import TeacherAccess, score_groups
from rankdistill.stages.settings import _plug_in

MODEL = "bundled/smollm2-135m-instruct"
CONF = Path(__file__).parents[2] / "conf" / "score"
SCORERS: dict[str, tuple[str, dict[str, Any]]] = {
    "likelihood, sum": ("likelihood", {"per_token": False}),
    "likelihood, mean": ("likelihood", {"per_token": True}),
    "likelihood, contrast": ("likelihood", {"per_token": True, "contrast": "unconditional"}),
    "judge, pointwise": ("judge", {"dtype": "float32"}),
    "judge, pairwise": ("judge", {"dtype": "float32", "mode": "pairwise"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ranked", type=Path)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--responses", type=int, default=4, help="of a prompt, drawn at random")
    parser.add_argument("--most-tokens", type=int, default=256, help="of a response and a prompt")
    parser.add_argument("--scorers", nargs="*", default=list(SCORERS))
    given = parser.parse_args()
    groups = _groups(given)
    folder = locate(MODEL)
    teacher = TeacherAccess(Model(folder, {}), Model(folder, {}))
    for name in given.scorers:
        option, changes = SCORERS[name]
        node: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{option}.yaml"))
        scorer = _plug_in(
            "score", {**{k: v for k, v in node.items() if k != "defaults"}, **changes}
        )
        groups = [g for part in score_groups(scorer, groups, teacher, name=name) for g in part]
    found = diagnose(groups)
    print(f"{len(groups)} prompts, {found['responses']} responses\n")
    print("| scorer | tau with the set's ranks | tau with length | first wins | flips |")
    print("|---|---|---|---|---|")
    for pair in found["agreement"]:
        if pair["a"] == "imported":
            scorer = found["scorers"][pair["b"]]
            ballots = scorer["ballots"] or {}
            cells = [_told(pair), _told(scorer["length"])]
            cells += [_told(ballots.get(key)) for key in ("first_wins", "flips")]
            print(f"| {pair['b']} | {' | '.join(cells)} |")
    Path("agreement.json").write_text(json.dumps(found, indent=1))


def _told(interval: Any) -> str:
    if not interval or interval["mean"] is None:
        return "-"
    return f"{interval['mean']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"


def _groups(given: argparse.Namespace) -> list[Any]:
    tokenizer = load_tokenizer(MODEL)
    groups = []
    for number, (where, row) in enumerate(read_rows(str(given.ranked))):
        messages, responses = ranked_row(_as_ranked(row), where)
        if len(encode_prompt(tokenizer, messages)) > given.most_tokens:
            continue
        kept = []
        for response in responses:
            ids = encode_response(tokenizer, response["text"])
            if len(ids) <= given.most_tokens and math.isfinite(response["score"]):
                scores = {"imported": response["score"], "length": float(len(ids))}
                kept.append(
                    {"text": response["text"], "token_ids": ids, "finish_reason": "stop",
                     "source": response["source"], "scores": scores}
                )  # fmt: skip
        kept = random.Random(number).sample(kept, min(given.responses, len(kept)))
        if len({r["scores"]["imported"] for r in kept}) > 1:
            groups.append(
                {"prompt_id": str(number), "split": "heldout", "messages": messages,
                 "responses": kept}
            )  # fmt: skip
    random.Random(0).shuffle(groups)
    return groups[: given.prompts]


def _as_ranked(row: Any) -> Any:
    """AlpacaEval's rows of several models' outputs, each with its win probability."""
    graded = row.get("responses") or row.get("outputs")
    if graded and "gpt4_win_prob_vs_reference" in graded[0]:
        texts = [{"text": r["output"], "score": r["gpt4_win_prob_vs_reference"]} for r in graded]
        return {"prompt": row["instruction"], "responses": texts}
    return row


if __name__ == "__main__":
    main()
