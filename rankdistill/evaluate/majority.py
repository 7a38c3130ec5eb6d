"""What most of several answers agree on: a way to answer that trains nothing.

Self-consistency (Wang et al. 2022, arXiv:2203.11171), for answers that end with a number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import replace

from rankdistill.evaluate.verified import DemandRow
from rankdistill.rows import Group
from rankdistill.score.verifier.answers import final_number
from rankdistill.thoughts import answer_of


def majority_rows(groups: Sequence[Group], rows: Sequence[DemandRow], arm: str) -> list[DemandRow]:
    """The rows of the answer that most of a prompt's answers agree on, in expectation over ties.

    Answers agree where they end with the same number, right or wrong; one without a number has no
    vote. Tokens are those of all answers to the prompt.

    Args:
        groups: Answers of the rule `number`, which reads that number.
        rows: Of these groups, see `demand_rows`.
        arm: Whose the chosen rows are.
    """
    weights, spent = {}, {}
    for group in groups:
        told = [final_number(answer_of(response["text"])) for response in group["responses"]]
        weights[group["prompt_id"]] = majority_weights(told)
        spent[group["prompt_id"]] = sum(len(r["token_ids"]) for r in group["responses"])
    return [
        replace(row, arm=arm, tokens=spent[row.prompt_id], weight=weight)
        for row in rows
        if (weight := weights[row.prompt_id][row.answer])
    ]


def majority_weights(votes: Sequence[Hashable | None]) -> list[float]:
    """The chance of each answer to be taken as the majority's; they add up to 1.

    The first answer with a vote stands for all that say the same, and the most frequent votes are
    equally likely; where nobody votes it is the first answer.
    """
    counts = Counter(vote for vote in votes if vote is not None)
    most = max(counts.values(), default=0)
    tied = [vote for vote, count in counts.items() if count == most]
    weights = [0.0] * len(votes)
    for vote in tied or [None]:
        weights[votes.index(vote)] = 1.0 / max(len(tied), 1)
    return weights
