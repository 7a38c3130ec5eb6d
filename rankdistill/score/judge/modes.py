"""How a judge goes about one group: which questions it is asked, and what the answers amount to.

A plan is a generator: it yields the questions of a round, is sent their verdicts (None where an
answer was set aside), and returns the verdict on the group. Whoever runs plans decides how many
questions are answered at once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean
from typing import Any

from rankdistill.errors import UserError
from rankdistill.rank.aggregate import borda
from rankdistill.rows import Ballot, Group
from rankdistill.score.judge.prompts import Frame, delimited
from rankdistill.score.judge.verdicts import LETTERS, Form, duel_form, order_form, rating_form
from rankdistill.score.scorer import Verdict


@dataclass(frozen=True)
class Question:
    """One call of the judge."""

    messages: list[dict[str, str]]
    form: Form


Plan = Generator[list[Question], list[Any], Verdict]


@dataclass(frozen=True)
class Brief:
    """What the questions are made with."""

    frame: Frame
    criteria: Sequence[tuple[str, str]]
    """(name, text) of every aspect; each is asked about by itself."""
    explain: bool
    expected_score: bool
    shuffles: int
    seed: int

    def question(self, group: Group, form: Form, **parts: str) -> Question:
        """One about a group; `parts` take the places of the frame's placeholders."""
        return Question(self.frame.ask(group["messages"], answer=form.told, **parts), form)


def pointwise(group: Group, brief: Brief) -> Plan:
    """A rating in [1, 10] of each response and aspect; a value is the mean over the aspects."""
    form = rating_form(expected=brief.expected_score, explain=brief.explain)
    texts = [response["text"] for response in group["responses"]]
    verdicts = yield [
        brief.question(group, form, response=delimited("RESPONSE", text), criterion=criterion)
        for _, criterion in brief.criteria
        for text in texts
    ]
    given = [math.nan if verdict is None else float(verdict) for verdict in verdicts]
    aspects = {
        name: given[k * len(texts) : (k + 1) * len(texts)]
        for k, (name, _) in enumerate(brief.criteria)
    }
    values = [fmean(rated) for rated in zip(*aspects.values(), strict=True)]
    return Verdict(values, aspects=aspects if len(aspects) > 1 else {})


def pairwise(group: Group, brief: Brief) -> Plan:
    """Every pair in both orders; verdicts that contradict each other amount to a tie."""
    pairs = list(combinations(range(len(group["responses"])), 2))
    return _from_ballots(group, (yield from _duels(group, pairs, brief)))


def tournament(group: Group, brief: Brief) -> Plan:
    """Duels in both orders between responses that did about equally well so far (Swiss system).

    ceil(log2 C) rounds of floor(C/2) duels: 4 instead of 6 at C=4, 12 instead of 28 at C=8.
    """
    count = len(group["responses"])
    draw = random.Random(f"{brief.seed}/{group['prompt_id']}")
    lots = draw.sample(range(count), count)
    met: set[tuple[int, int]] = set()
    ballots: list[Ballot] = []
    for _ in range(_rounds(count)):
        shares = borda([(ballot, 1.0) for ballot in ballots], count)
        standing = [0.5 if math.isnan(share) else share for share in shares]
        order = sorted(range(count), key=lambda i: (-standing[i], lots[i]))
        pairs = _neighbours(order, met)
        met.update(pairs)
        ballots += yield from _duels(group, pairs, brief)
    return _from_ballots(group, ballots)


def listwise(group: Group, brief: Brief) -> Plan:
    """All responses in one call, `shuffles` times; every second shuffle reverses the one before."""
    count = len(group["responses"])
    if count > len(LETTERS):
        raise UserError(
            f"score.mode is listwise, and a prompt has {count} responses, more than the "
            f"{len(LETTERS)} letters that name them: use tournament."
        )
    draw = random.Random(f"{brief.seed}/{group['prompt_id']}")
    orders: list[list[int]] = []
    for k in range(brief.shuffles):
        orders.append(orders[-1][::-1] if k % 2 else draw.sample(range(count), count))
    form = order_form(count, explain=brief.explain)
    asked = [(criterion, shown) for _, criterion in brief.criteria for shown in orders]
    verdicts = yield [
        brief.question(
            group,
            form,
            responses="\n\n".join(
                delimited(f"RESPONSE {letter}", group["responses"][i]["text"])
                for letter, i in zip(LETTERS, shown, strict=False)
            ),
            criterion=criterion,
        )
        for criterion, shown in asked
    ]
    return _from_ballots(group, _ballots([shown for _, shown in asked], verdicts))


def _rounds(count: int) -> int:
    """Rounds of a tournament of `count` responses."""
    return math.ceil(math.log2(max(count, 2)))


@dataclass(frozen=True)
class Mode:
    """A way to go about a group, and what it costs."""

    plan: Callable[[Group, Brief], Plan]
    questions: Callable[[int, int], int]
    """Of the number of responses and of shuffles: how many questions an aspect takes. A tournament
    asks fewer where somebody has met everybody."""
    shown: Callable[[int], int]
    """Of the number of responses: how many of them one question shows."""

    def __call__(self, group: Group, brief: Brief) -> Plan:
        return self.plan(group, brief)


MODES = {
    "pointwise": Mode(pointwise, lambda count, shuffles: count, lambda count: 1),
    "pairwise": Mode(pairwise, lambda count, shuffles: count * (count - 1), lambda count: 2),
    "listwise": Mode(listwise, lambda count, shuffles: shuffles, lambda count: count),
    "tournament": Mode(
        tournament,
        lambda count, shuffles: 2 * (count // 2) * _rounds(count),
        lambda count: 2,
    ),
}


def _duels(
    group: Group, pairs: Sequence[tuple[int, int]], brief: Brief
) -> Generator[list[Question], list[Any], list[Ballot]]:
    """The ballots of some pairs, both orders and every aspect of each."""
    form = duel_form(explain=brief.explain)
    texts = [response["text"] for response in group["responses"]]
    asked = [
        (criterion, [i, j])
        for a, b in pairs
        for _, criterion in brief.criteria
        for i, j in ((a, b), (b, a))
    ]
    verdicts = yield [
        brief.question(
            group,
            form,
            first=delimited("FIRST RESPONSE", texts[i]),
            second=delimited("SECOND RESPONSE", texts[j]),
            criterion=criterion,
        )
        for criterion, (i, j) in asked
    ]
    return _ballots([shown for _, shown in asked], verdicts)


def _ballots(shown: Sequence[list[int]], verdicts: Sequence[Any]) -> list[Ballot]:
    return [
        Ballot(scorer="judge", shown=order, ranks=list(ranks))
        for order, ranks in zip(shown, verdicts, strict=True)
        if ranks is not None
    ]


def _from_ballots(group: Group, ballots: list[Ballot]) -> Verdict:
    """The value of a response is the share of the others it was put before."""
    values = borda([(ballot, 1.0) for ballot in ballots], len(group["responses"]))
    return Verdict(values, ballots=ballots)


def _neighbours(order: Sequence[int], met: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of responses that stand next to each other and have not met; who is left over rests."""
    left, pairs = list(order), []
    while left:
        a = left.pop(0)
        b = next((b for b in left if (min(a, b), max(a, b)) not in met), None)
        if b is not None:
            left.remove(b)
            pairs.append((min(a, b), max(a, b)))
    return pairs
